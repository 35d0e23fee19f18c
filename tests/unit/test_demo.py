"""The play shows everything there is, and the simulated engine words it as moby does."""

from collections.abc import Sequence

import pytest

from docker_prom_exporter.containers import (
    HEALTH_STATUSES,
    STATES,
    Container,
    ContainerHealth,
    is_watched,
    read_inspect,
    read_row,
)
from docker_prom_exporter.demo.engine import SimulatedContainer, human_duration
from docker_prom_exporter.demo.play import PERIOD, Play
from support.builders import container

BEGIN = 1714979289.0
SEEDS = [0, 1, 7, 12345]
HOUR, DAY = 3600, 86400


class Clock:
    """A clock that is set, in Unix seconds."""

    def __init__(self) -> None:
        """Begin when the play begins."""
        self.now = BEGIN

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def played(
    seed: int, seconds: Sequence[int] = range(2 * PERIOD)
) -> list[tuple[float, list[SimulatedContainer]]]:
    """Return what the play shows at each of these seconds after its begin, with the time then."""
    clock = Clock()
    play = Play(seed, clock)
    scenes = []
    for second in seconds:
        clock.now = BEGIN + second
        scenes.append((clock.now, play.containers()))
    return scenes


def listed(each: SimulatedContainer, now: float) -> Container:
    """Return what the exporter reads of it in a list as of API 1.52."""
    row = read_row(each.row(now), health_listed=True)
    assert row is not None
    return row.container


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", [0, PERIOD, 7 * PERIOD])
def test_every_state_and_health_within_a_period(seed: int, start: int) -> None:
    """Whoever watches for two minutes sees each state, each verdict and each value of container_health."""
    scenes = played(seed, range(start, start + PERIOD))
    seen = [(each, listed(each, now)) for now, containers in scenes for each in containers]

    assert {*STATES} == {found.state for _, found in seen}
    assert {*HEALTH_STATUSES} == {found.health_status for _, found in seen if found.running}
    assert {*ContainerHealth} == {found.health for _, found in seen}
    assert {True, False} == {
        is_watched(row.label, only_labelled=True)
        for each, _ in seen
        if (row := read_row(each.row(BEGIN), health_listed=True))
    }
    assert any(each.oom_killed for each, _ in seen)


@pytest.mark.parametrize("seed", SEEDS)
def test_same_seed_same_play(seed: int) -> None:
    """A seed is a play, another seed another."""
    assert played(seed) == played(seed)
    assert played(seed) != played(seed + 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_ids_are_unique(seed: int) -> None:
    """At no time two containers share an id or a name, and one created anew has another id."""
    scenes = played(seed)

    assert all(len({each.id for each in found}) == len(found) for _, found in scenes)
    assert all(len({each.name for each in found}) == len(found) for _, found in scenes)
    assert 3 == len({each.id for _, found in scenes for each in found if each.name == "shop-search-1"})


@pytest.mark.parametrize("seed", SEEDS)
def test_times_and_counts_make_sense(seed: int) -> None:
    """No time lies ahead, none ends before it started, and restarts never fall."""
    restarts: dict[str, int] = {}
    for now, containers in played(seed):
        for each in containers:
            assert max(each.created, each.started, each.finished) <= now
            assert each.state != "exited" or each.created <= each.started <= each.finished
            assert restarts.get(each.id, 0) <= each.restarts

            restarts[each.id] = each.restarts
    assert any(restarts.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_every_generation_tells_the_same_health(seed: int) -> None:
    """API 1.52, the API before it, and Podman with an inspect lead to the same health."""
    for now, containers in played(seed, range(0, 2 * PERIOD, 3)):
        for each in containers:
            before = read_row(each.row(now, health_in_row=False), health_listed=True)
            podman = read_row(each.row(now, health_in_status=False, health_in_row=False), health_listed=False)
            assert before is not None
            assert podman is not None
            expected = listed(each, now).health
            told = (
                podman.with_health_of(read_inspect(each.inspect()))
                if podman.health_hidden
                else podman.container
            )

            assert expected == before.container.health
            assert expected == told.health


def test_row_and_inspect_of_a_simulated_container() -> None:
    """A row is read as the container it was made of, and an inspect as its details."""
    simulated = SimulatedContainer(
        "web",
        state="exited",
        health="healthy",
        failing_streak=1,
        created=BEGIN,
        started=BEGIN + 1,
        finished=BEGIN + 2,
        restarts=4,
        exit_code=3,
        oom_killed=True,
    )
    expected = container(
        id=simulated.id, image="demo:1", state="exited", health_status="unhealthy", created=BEGIN
    )
    details = read_inspect(simulated.inspect())

    assert expected == listed(simulated, BEGIN + 60)
    assert ("exited", "unhealthy", 4, 3, True, 1) == (
        details.state,
        details.health_status,
        details.restarts,
        details.exit_code,
        details.oom_killed,
        details.failing_streak,
    )
    assert BEGIN + 1 == pytest.approx(details.started, abs=0.001)
    assert BEGIN + 2 == pytest.approx(details.finished, abs=0.001)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("running", "Up 2 minutes (unhealthy)"),
        ("paused", "Up 2 minutes (Paused)"),
        ("exited", "Exited (137) About a minute ago"),
        ("restarting", "Restarting (137) About a minute ago"),
        ("created", "Created"),
        ("dead", "Dead"),
        ("removing", "Removal In Progress"),
    ],
)
def test_status_is_worded_as_moby_does(state: str, expected: str) -> None:
    """The wordings are those of every engine from 1.12 to 29."""
    simulated = SimulatedContainer(
        "web", state=state, health="unhealthy", started=BEGIN, finished=BEGIN + 60, exit_code=137
    )

    assert expected == simulated.row(BEGIN + 120)["Status"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "Less than a second"),
        (0, "Less than a second"),
        (0.999, "Less than a second"),
        (1, "1 second"),
        (1.999, "1 second"),
        (2, "2 seconds"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119.9, "About a minute"),
        (120, "2 minutes"),
        (HOUR - 1, "59 minutes"),
        (HOUR, "About an hour"),
        (1.4999 * HOUR, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (47.4999 * HOUR, "47 hours"),
        pytest.param(47.5 * HOUR, "2 days"),
        (2 * DAY, "2 days"),
        (3 * DAY - HOUR, "2 days"),
        (3 * DAY - 0.5 * HOUR, "3 days"),
        (13 * DAY, "13 days"),
        pytest.param(14 * DAY - 0.5 * HOUR, "2 weeks"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        pytest.param(60 * DAY - 0.5 * HOUR, "2 months"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        pytest.param(730 * DAY - 0.5 * HOUR, "1 years"),
        (730 * DAY, "2 years"),
        (3650 * DAY, "10 years"),
    ],
)
def test_human_duration(seconds: float, expected: str) -> None:
    """The wordings are those of go-units' HumanDuration, edges included."""
    assert expected == human_duration(seconds)
