"""The play on the simulated engine: the same for the same seed, and complete within two minutes."""

from collections.abc import Iterator

import pytest

from docker_prom_exporter.demo.engine import SimulatedContainer
from docker_prom_exporter.demo.play import PERIOD, Play


def scenes(seed: int) -> Iterator[list[SimulatedContainer]]:
    """Yield the containers of each second of two minutes, on a clock that starts at 1000."""
    now = [1000.0]
    play = Play(seed, clock=lambda: now[0])
    for second in range(PERIOD + 1):
        now[0] = 1000.0 + second
        yield play.containers()


@pytest.mark.parametrize("seed", range(10))
def test_everything_happens_within_two_minutes(seed: int) -> None:
    """Each state, each verdict, a crash loop, a kill for want of memory, and a container made anew."""
    seen = [container for scene in scenes(seed) for container in scene]
    names = {container.name for container in seen}

    assert {"created", "running", "paused", "restarting", "removing", "exited", "dead"} == {
        container.state for container in seen
    }
    assert {None, "starting", "healthy", "unhealthy"} == {container.health for container in seen}
    assert {0, 1, 137} == {container.exit_code for container in seen if container.state == "exited"}
    assert any(container.oom_killed for container in seen)
    assert max(container.restarts for container in seen) > 3
    assert len({container.id for container in seen}) == len(names) + 1
    assert 12 <= len(names) <= 15


def test_a_seed_repeats_the_play() -> None:
    """The same seed gives the same play to the second, another gives another."""
    assert list(scenes(1)) == list(scenes(1))
    assert list(scenes(1)) != list(scenes(2))
