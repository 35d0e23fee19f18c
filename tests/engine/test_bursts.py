"""Random actions on containers of a real Docker: every series is right after each burst of them."""

import pytest

from bench.bursts import Bursts
from support.oracle import LISTED_LATE


@pytest.mark.parametrize(
    ("kind", "late"),
    [("docker_28", LISTED_LATE), ("docker_28_containerd", ())],
    ids=["list mode", "inspect mode"],
)
def test_every_series_after_random_bursts(
    request: pytest.FixtureRequest, kind: str, late: tuple[str, ...]
) -> None:
    """After bursts of random actions each sample is as `docker inspect` demands."""
    bursts = Bursts(request.getfixturevalue(kind), seed=23, late=late)
    differing: list[str] = []
    for _ in range(6):
        bursts.burst()
        differing += bursts.compare()

    assert [] == differing
    assert bursts.compared > 100
