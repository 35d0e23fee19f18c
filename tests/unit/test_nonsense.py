"""Generated answers of an engine: the exporter doesn't crash, invents no health, and keeps the format."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.nonsense import Judge, judge

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
IDS = ["ab" * 32, "cd" * 32]
STATE = st.sampled_from(
    ["running", "Running", "exited", "paused", "dead", "stopped", "meditating", ""]
)
HEALTH = st.sampled_from(
    ["healthy", "unhealthy", "starting", "none", "HEALTHY", "reset", "fine", ""]
)
STATUS = st.builds(
    "{} {}{}".format,
    st.sampled_from(["Up", "up", "Exited (0)", "Restarting (1)", "Created", ""]),
    st.sampled_from(
        ["5 minutes", "About an hour", "Less than a second", "9" * 30 + " years", ""]
    ),
    st.builds(" ({}{})".format, st.sampled_from(["", "health: "]), HEALTH | st.just("Paused"))
    | st.just(""),
)
TIME = st.sampled_from(
    ["0001-01-01T00:00:00Z", "2024-05-06T07:08:09.123456789Z", "9999-12-31T23:59:60+23:59"]
)


def like(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for objects with these fields, a few of which are missing or have any value."""

    def spoil(
        good: dict[str, Any], spoilt: dict[str, Any], missing: set[str]
    ) -> dict[str, Any]:
        return {
            name: value for name, value in {**good, **spoilt}.items() if name not in missing
        }

    few = st.dictionaries(st.sampled_from([*fields]), ANYTHING, max_size=2)
    return st.builds(
        spoil,
        st.fixed_dictionaries(fields),
        few,
        st.sets(st.sampled_from([*fields]), max_size=1),
    )


ROW = ANYTHING | like(
    Id=st.sampled_from([*IDS, *IDS, "..", "a/b", "a\nb"]),
    Names=st.lists(
        st.sampled_from(["/web", "/db/web", "web", "/", '/a"b\\c\nd']) | ANYTHING, max_size=3
    ),
    Image=st.text(max_size=20),
    Created=st.integers(),
    Labels=st.dictionaries(st.just("com.docker.compose.project"), ANYTHING),
    State=STATE,
    Status=STATUS,
    Health=like(Status=HEALTH, FailingStreak=st.integers()),
    ImageManifestDescriptor=st.just({}),
)
INSPECT = ANYTHING | like(
    Id=st.sampled_from(IDS),
    Driver=st.sampled_from(["overlay2", "overlayfs"]),
    Created=TIME,
    RestartCount=st.integers(),
    Config=like(Labels=st.dictionaries(st.just("com.docker.compose.project"), ANYTHING)),
    HostConfig=like(RestartPolicy=like(Name=st.text(max_size=9))),
    State=like(
        Status=STATE,
        ExitCode=st.integers(),
        OOMKilled=st.booleans(),
        StartedAt=TIME,
        FinishedAt=TIME,
        Health=like(Status=HEALTH, FailingStreak=st.integers()),
    ),
)


@pytest.fixture(scope="module", params=["Docker", "Podman"])
def its_judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    with judge(podman=request.param == "Podman") as a_judge:
        yield a_judge


@settings(max_examples=75)
@example(listed=[{"Id": "ab" * 32}], inspected={"RestartCount": -1})
@given(listed=st.lists(ROW, max_size=4), inspected=INSPECT)
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
