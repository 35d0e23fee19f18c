"""The play of `demo`: a seed always gives the same play, and each case occurs within two minutes."""

from collections.abc import Sequence
from functools import cache

import pytest

from docker_prom_exporter.containers import (
    HEALTH_STATUSES,
    STATES,
    Container,
    ContainerHealth,
    parse_row,
)
from docker_prom_exporter.demo import Play, SimulatedContainer
from docker_prom_exporter.demo.play import LIVELY, SLOW

BEGIN = 1714979289.0
SEEDS = [0, 12345]


@cache
def played(
    seed: int, seconds: Sequence[int] = range(2 * LIVELY)
) -> list[tuple[float, list[SimulatedContainer]]]:
    """Return the time and the containers of the play at each of these seconds after its beginning."""
    now = [BEGIN]
    play = Play(seed, lambda: now[0])
    scenes = []
    for second in seconds:
        now[0] = BEGIN + second
        scenes.append((now[0], play.containers()))
    return scenes


def listed(each: SimulatedContainer, now: float) -> Container:
    found = parse_row(each.row(now))
    assert found is not None
    return found.container


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", [0, 7 * LIVELY])
def test_everything_happens_within_two_minutes(seed: int, start: int) -> None:
    """Within two minutes each state and health, an out-of-memory kill and an unwatched container occur."""
    scenes = played(seed, range(start, start + LIVELY))
    simulated = [each for _, containers in scenes for each in containers]
    seen = [listed(each, now) for now, containers in scenes for each in containers]

    assert {*STATES} == {found.state for found in seen}
    assert {*HEALTH_STATUSES} == {found.health_status for found in seen if found.running}
    assert {*ContainerHealth} == {found.health for found in seen}
    assert {True, False} == {found.is_watched(only_labelled=True) for found in seen}
    assert {0, 1, 137} == {each.exit_code for each in simulated if each.state == "exited"}
    assert any(each.oom_killed for each in simulated)
    assert max(each.restarts for each in simulated) > 3
    assert 15 <= len({each.name for each in simulated}) <= 20


@pytest.mark.parametrize("seed", SEEDS)
def test_the_containers_are_believable(seed: int) -> None:
    """What happens fits the settings, as on a real engine."""
    for _, containers in played(seed, range(0, 2 * SLOW, 7)):
        for each in containers:
            assert each.state != "restarting" or each.restart_policy == "always", each
            assert not each.oom_killed or each.memory, each
            assert each.health != "unhealthy" or each.failing_streak >= each.retries, each
            assert not each.error or each.state == "created", each


def test_a_seed_repeats_the_play() -> None:
    """The same seed gives the same play; another seed gives another play."""
    seconds = range(0, 2 * LIVELY, 7)

    assert played(1, seconds) == played.__wrapped__(1, seconds)
    assert played(1, seconds) != played(2, seconds)


@pytest.mark.parametrize("seed", SEEDS)
def test_ids_are_unique(seed: int) -> None:
    """Ids and names are unique at any time, and a container that is created again has another id."""
    scenes = played(seed)

    assert all(len({each.id for each in found}) == len(found) for _, found in scenes)
    assert all(len({each.name for each in found}) == len(found) for _, found in scenes)
    assert 4 == len(
        {each.id for _, found in scenes for each in found if each.name == "shop-search-1"}
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_times_and_restarts(seed: int) -> None:
    """No time is in the future, no container ends before it starts, and restarts never decrease."""
    restarts: dict[str, int] = {}
    for now, containers in played(seed, range(0, 2 * SLOW, 7)):
        for each in containers:
            assert max(each.created, each.started, each.finished) <= now
            assert each.state != "exited" or each.created <= each.started <= each.finished
            assert restarts.get(each.id, 0) <= each.restarts

            restarts[each.id] = each.restarts
    assert any(restarts.values())
