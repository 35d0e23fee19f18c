"""Both modes see at once what a probe, a pause or the engine's clock changes."""

import time
from typing import Any

import pytest

from docker_prom_exporter.snapshot import Mode
from support.polls import force_mode
from support.simulated import Simulation, polled, poller_for, simulation

HOUR = 3600


@pytest.fixture(params=["list", "inspect"], autouse=True)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force each mode in turn."""
    name: Any = request.param
    force_mode(monkeypatch, Mode(name, "engine"))
    return str(name)


def health(engine: Simulation) -> tuple[int, str | None]:
    """Return the health and the doubt that a new poller of the engine sees."""
    (found,) = poller_for(engine.url).poll().containers
    return found.health, found.doubt


@pytest.mark.parametrize("offset", [-HOUR, 0, HOUR])
def test_the_clock_of_the_engine_counts(offset: float) -> None:
    """A verdict stalls by the engine's clock, however far the exporter's is from it."""
    with simulation() as engine:
        engine.clock_offset = offset
        now = engine.now()
        engine.stage.add("web", health="healthy", started=now - HOUR)
        fresh = health(engine)
        engine.stage.change("web", probes_end=now - 120)

        assert (4, None) == fresh
        assert (0, "stalled") == health(engine)


@pytest.mark.parametrize("api_version", ["1.41", "1.45", "1.52"])
@pytest.mark.parametrize(("streak", "during"), [(0, 0), (2, 0), (3, 3)])
def test_a_pause_between_two_polls(api_version: str, streak: int, during: int) -> None:
    """After a pause that no poll saw, the health is 0 until a probe; then the next poll is right.

    Before API 1.52 nothing in the row of a container that broke meanwhile changes then.
    """
    with simulation(api_version=api_version) as engine:
        now = time.time()
        status = "unhealthy" if streak == 3 else "healthy"
        engine.stage.add("web", health=status, failing_streak=streak, started=now - 60)
        poller = polled(engine.url)
        engine.stage.change("web", paused=now - 2, unpaused=now, interval=HOUR)
        paused = [poller.poll().containers[0].health for _ in range(2)]
        engine.stage.change("web", health="unhealthy", failing_streak=3)
        broken = poller.poll().containers[0].health
        engine.stage.change("web", health="healthy", failing_streak=0, unpaused=0, interval=5)
        passed = poller.poll().containers[0].health

    assert [during] * 2 == paused
    assert (3, 4) == (broken, passed)


def test_a_pending_container_costs_an_inspect_a_poll(mode: str) -> None:
    """Until a probe has decided, list mode inspects a pending container in each poll."""
    with simulation() as engine:
        engine.stage.add("web", health="unhealthy", failing_streak=1)
        engine.stage.add("db", health="healthy")
        poller = polled(engine.url)
        before = engine.asked("inspect")
        for _ in range(3):
            poller.poll()

    assert (3 if mode == "list" else 6) == engine.asked("inspect") - before


@pytest.mark.parametrize(("streak", "expected"), [(0, 0), (1, 3), (3, 3)])
def test_without_details(monkeypatch: pytest.MonkeyPatch, streak: int, expected: int) -> None:
    """With CONTAINER_DETAILS=false a row shows that no probe has failed, from API 1.52 on."""
    with simulation() as engine:
        engine.stage.add("web", health="unhealthy", failing_streak=streak)
        poller = poller_for(engine.url, container_details=False)
        force_mode(monkeypatch, Mode("list", "details off"))
        (found,) = poller.poll().containers

    assert expected == found.health
    assert 0 == engine.asked("inspect")
