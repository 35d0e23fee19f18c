"""Generated answers of an engine: the exporter doesn't crash, invents no health, and keeps the format."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.malformed import INSPECTS, ROWS
from support.nonsense import Judge, judge


@pytest.fixture(scope="module", params=["Docker", "Podman"])
def its_judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    with judge(podman=request.param == "Podman") as a_judge:
        yield a_judge


@settings(max_examples=75)
@example(listed=[{"Id": "ab" * 32}], inspected={"RestartCount": -1})
@given(listed=st.lists(ROWS, max_size=4), inspected=INSPECTS)
def test_any_answer(its_judge: Judge, listed: list[Any], inspected: Any) -> None:
    """No answer causes a crash, an invented health or an exposition that strict parsers refuse."""
    its_judge.judge(listed, inspected)


def test_the_judge_finds_an_invented_health(
    its_judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge fails an exposition that has a health value which is in no answer."""
    row = {"Id": "ab" * 32, "State": "running", "Status": "Up 5 minutes"}
    monkeypatch.setattr("docker_prom_exporter.containers.Container.health", 4)

    with pytest.raises(AssertionError, match="which no answer has"):
        its_judge.judge([row], {"State": {"Status": "running"}})
