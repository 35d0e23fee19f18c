"""List mode: one list in each poll, inspects of changed containers, and a rotation of inspects."""

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.containers import LABEL, Details
from docker_prom_exporter.demo import SimulatedContainer
from docker_prom_exporter.snapshot import Snapshot
from support.clock import Clock
from support.polls import STEADY, asked, healths
from support.simulated import (
    DENIED,
    Simulation,
    answers,
    answers_json,
    hangs,
    polled,
    poller_for,
    simulation,
)

YEAR = 365 * 86400


@pytest.fixture
def before_152() -> Iterator[Simulation]:
    with simulation(api_version="1.45") as engine:
        yield engine


def details_of(snapshot: Snapshot) -> list[Details]:
    return [container.details for container in snapshot.containers if container.details]


def test_a_steady_poll_costs_a_ping_and_a_list(simulated: Simulation) -> None:
    """A steady poll sends a ping and a list; only the first also sends a version and inspects."""
    for number in range(30):
        simulated.stage.add(f"c{number}", health="healthy")
    poller = poller_for(simulated.url)

    first = asked(simulated, poller.poll)
    ten = asked(simulated, lambda: [poller.poll() for _ in range(10)])

    assert {"version": 1, "ping": 1, "list": 1, "inspect": 30} == first
    assert {endpoint: 10 * count for endpoint, count in STEADY.items()} == ten


@pytest.mark.parametrize(
    "change",
    [
        {"state": "exited", "exit_code": 1},
        {"state": "paused"},
        {"health": "unhealthy", "failing_streak": 3},
        {"health": None},
        {"labels": {LABEL: "yes"}},
        {"image": "other:2"},
    ],
    ids=str,
)
def test_a_change_costs_one_inspect(simulated: Simulation, change: dict[str, Any]) -> None:
    """Only a container whose row changed is inspected, and only once."""
    simulated.stage.add("other", health="healthy")
    simulated.stage.add("web", health="healthy")
    poller = polled(simulated.url)

    simulated.stage.change("web", **change)

    assert STEADY | {"inspect": 1} == asked(simulated, poller.poll)
    assert STEADY == asked(simulated, poller.poll)


def test_a_failing_streak_costs_no_inspect(simulated: Simulation) -> None:
    """A changed failing streak causes no inspect, because rows have it from API 1.52 on."""
    simulated.stage.add("web", health="healthy")
    poller = polled(simulated.url)

    simulated.stage.change("web", failing_streak=2)

    assert STEADY == asked(simulated, poller.poll)
    assert [2] == [details.failing_streak for details in details_of(poller.snapshot)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that a test moves forward; inspects do not rotate."""
    monkeypatch.setattr("docker_prom_exporter.collect.list_mode._MAX_AGE", math.inf)
    return Clock(monkeypatch)


def test_the_age_alone_costs_no_inspect(simulated: Simulation, clock: Clock) -> None:
    """Containers that only grow older cause no inspect, however the wording of their age changes."""
    simulated.stage.add("up", started=time.time() - 2)
    simulated.stage.add("ended", state="exited", finished=time.time() - 3)
    poller = polled(simulated.url)

    while clock.later < 3 * YEAR:
        clock.later += max(0.9 * clock.later, 1)
        poller.poll()

    assert 2 == simulated.asked("inspect")


@pytest.mark.parametrize("age", [0.0, 1.5, 59.0, 5400.0])
@pytest.mark.parametrize("interval", [0.5, 60.0, 3600.0])
@pytest.mark.parametrize("after", [0.1, 0.9])
def test_no_restart_is_missed(
    simulated: Simulation, clock: Clock, age: float, interval: float, after: float
) -> None:
    """For any age, interval and time of the restart, one inspect shows it in the next poll, and it stays."""
    simulated.stage.add("web", started=time.time() - age)
    poller = polled(simulated.url)
    restarted = time.time() + after * interval
    simulated.stage.change("web", started=restarted, restarts=1)

    for poll in range(2):
        clock.later += interval
        inspects = asked(simulated, poller.poll)["inspect"]
        (container,) = poller.snapshot.containers
        assert 1 == inspects or poll > 0
        assert container.details is not None
        assert 1 == container.details.restarts
        assert pytest.approx(restarted) == container.details.started


def test_an_inspect_of_a_later_state_is_not_kept(before_152: Simulation) -> None:
    """An inspect that shows another state than the list is repeated in the next poll."""
    web = before_152.stage.add("web")
    before_152.faults = {
        "inspect": answers_json(web.inspect() | {"State": {"Status": "exited", "ExitCode": 0}})
    }
    poller = polled(before_152.url)

    before_152.faults = {}

    assert STEADY | {"inspect": 1} == asked(before_152, poller.poll)
    assert web.id == poller.snapshot.containers[0].id


def test_a_container_gone_between_list_and_inspect(simulated: Simulation) -> None:
    """A container that is removed between list and inspect is left out without an error."""
    simulated.stage.add("web")
    ghost = SimulatedContainer("ghost", labels={LABEL: "true"})
    only_once = [ghost.row(time.time())]
    simulated.change_rows = lambda rows: rows + [only_once.pop()] * bool(only_once)

    snapshot = poller_for(simulated.url).poll()

    assert {"web": 2} == healths(snapshot)
    assert not any(snapshot.counts.errors.values())


def test_inspects_that_are_denied(before_152: Simulation) -> None:
    """While inspects are denied, the list gives health, one warning names the setting, and few are sent."""
    for number in range(50):
        before_152.stage.add(f"c{number}", health="healthy")
    before_152.faults = {"inspect": DENIED}
    poller = poller_for(before_152.url)

    with capture_logs() as logs:
        first = asked(before_152, poller.poll)
        second = asked(before_152, poller.poll)

    assert first["inspect"] <= 8
    assert second["inspect"] <= 8
    assert {4} == set(healths(poller.snapshot).values())
    assert all(container.details is None for container in poller.snapshot.containers)
    warnings = [entry for entry in logs if entry["event"] == "containers.details_missing"]
    assert 1 == len(warnings)
    assert "CONTAINER_INSPECT=1" in warnings[0]["advice"]
    before_152.faults = {}
    poller.poll()
    assert all(container.details is not None for container in poller.snapshot.containers)


def test_the_engine_filters(simulated: Simulation) -> None:
    """With the filter on, the engine lists only containers that have the label; with it off, all."""
    for number in range(20):
        simulated.stage.add(f"c{number}", labels={})
    simulated.stage.add("web")
    poller_for(simulated.url).poll()
    poller_for(simulated.url, container_health_filter_label=False).poll()

    assert [{"label": [LABEL], "limit": 50}, {"limit": 50}] == simulated.lists()


def test_more_than_a_page_on_a_cheap_engine(simulated: Simulation) -> None:
    """If the first page shows that lists are cheap, each later poll lists all containers at once."""
    for number in range(51):
        simulated.stage.add(f"c{number}")
    poller = poller_for(simulated.url)

    first = asked(simulated, poller.poll)
    steady = asked(simulated, poller.poll)

    assert {"version": 1, "ping": 1, "list": 2, "inspect": 51} == first
    assert STEADY == steady
    assert 51 == len(poller.snapshot.containers)
    assert "limit" not in simulated.lists()[-1]


def test_unwatched_containers(simulated: Simulation) -> None:
    """Unwatched containers are counted only with the filter off, because only then all are listed."""
    simulated.stage.add("web")
    simulated.stage.add("no", labels={LABEL: "false"})

    assert poller_for(simulated.url).poll().unwatched is None
    assert 1 == poller_for(simulated.url, container_health_filter_label=False).poll().unwatched


def test_no_detail_is_older_than_ten_minutes(
    simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All inspects rotate evenly in ten minutes, because some changes leave no trace in moby's rows."""
    clock = Clock(monkeypatch)
    for number in range(30):
        simulated.stage.add(f"c{number}", health="healthy", started=time.time() - 86400)
    poller = polled(simulated.url)
    for number in range(30):
        simulated.stage.change(f"c{number}", oom_killed=True, restart_policy="always")
    costs = []
    for _ in range(41):
        clock.later += 15
        costs.append(asked(simulated, poller.poll)["inspect"])

    assert {0, 1} == set(costs)
    assert 30 <= sum(costs) <= 32  # a busy machine adds its own time to the clock
    assert {(True, "always")} == {
        (d.oom_killed, d.restart_policy) for d in details_of(poller.snapshot)
    }


def test_with_a_long_interval_each_poll_inspects_each(
    simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an interval above ten minutes, each poll inspects each container once."""
    clock = Clock(monkeypatch)
    simulated.stage.add("a")
    simulated.stage.add("b")
    poller = polled(simulated.url, poll_interval=3600)
    clock.later += 3600

    assert STEADY | {"inspect": 2} == asked(simulated, poller.poll)


def test_a_clock_set_back_costs_no_inspects(simulated: Simulation, clock: Clock) -> None:
    """After the engine's clock was set back, no age shows a restart, and no inspect is sent."""
    for number in range(5):
        simulated.stage.add(f"c{number}", health="healthy")
        simulated.stage.add(f"done{number}", state="exited", finished=time.time() - 30)
    poller = polled(simulated.url)
    simulated.clock_offset = -3600
    clock.later += 15

    assert STEADY == asked(simulated, poller.poll)


def test_a_restart_after_the_clock_was_set_back(simulated: Simulation, clock: Clock) -> None:
    """A restart after the engine's clock was set back is noticed while the old start is in the future.

    Without a start that has passed, moby writes "Less than a second"; so an age proves a new one.
    """
    simulated.stage.add("web", health="healthy")
    poller = polled(simulated.url)
    simulated.clock_offset = -3600
    simulated.stage.change("web", started=simulated.now(), restarts=1)
    clock.later += 15
    poller.poll()

    assert [1] == [details.restarts for details in details_of(poller.snapshot)]


def test_a_restart_hidden_by_a_clock_that_jumps(
    simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the engine's clock jumps forward so that a restart looks old, the rotation shows the restart."""
    clock = Clock(monkeypatch)
    simulated.stage.add("web", started=time.time() - 7 * 3600)
    poller = polled(simulated.url)
    simulated.stage.change("web", started=time.time(), restarts=1)
    simulated.clock_offset = 3 * 3600
    clock.later += 15
    poller.poll()
    hidden = [details.restarts for details in details_of(poller.snapshot)]
    clock.later += 600
    poller.poll()

    assert [0] == hidden
    assert [1] == [details.restarts for details in details_of(poller.snapshot)]


def test_one_stuck_container_costs_only_its_details(
    simulated: Simulation, clock: Clock
) -> None:
    """An inspect that times out costs one container's details, and is repeated at growing intervals.

    They are one poll, then 1, 2, 4, 8, 10 minutes. moby#46782 describes an inspect that hangs.
    A proxy's 504 has the same reason.
    """
    for number in range(8):
        simulated.stage.add(f"c{number}", health="healthy")
    stuck = simulated.stage.add("stuck", health="unhealthy", failing_streak=3)
    simulated.inspect_faults = {stuck.id: answers("504 Gateway Timeout", "")}
    poller = poller_for(simulated.url)
    snapshot = poller.poll()
    tries = []
    for _ in range(120):
        clock.later += 15
        tries.append(asked(simulated, poller.poll)["inspect"])
    simulated.inspect_faults = {}
    clock.later += 600
    poller.poll()

    assert {"stuck": 3} | {f"c{n}": 4 for n in range(8)} == healths(snapshot)
    assert ["stuck"] == [
        container.name for container in snapshot.containers if container.details is None
    ]
    assert 1 == snapshot.counts.errors["inspect", "timeout"]
    assert [0, 4, 12, 28, 60, 100] == [number for number, count in enumerate(tries) if count]
    assert 9 == len(details_of(poller.snapshot))


def test_one_stuck_container_stops_no_rotation(
    simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one inspect times out, the others rotate, and its details are missing all the time.

    One warning is logged for the container, however often its inspect is repeated.
    """
    clock = Clock(monkeypatch)
    stuck = simulated.stage.add("stuck", started=time.time() - 86400).id
    poller = poller_for(simulated.url)
    poller.poll()
    for number in range(29):
        simulated.stage.add(f"c{number}", started=time.time() - 86400)
    poller.poll()
    simulated.inspect_faults = {stuck: answers("504 Gateway Timeout", "")}
    for number in range(29):
        simulated.stage.change(f"c{number}", oom_killed=True)
    missing = []
    with capture_logs() as logs:
        for _ in range(41):
            clock.later += 15
            poller.poll()
            missing.append([c.name for c in poller.snapshot.containers if c.details is None])

    first = missing.index(["stuck"])
    assert first < 3
    assert [["stuck"]] * (41 - first) == missing[first:]
    assert 29 == sum(details.oom_killed for details in details_of(poller.snapshot))
    assert ["containers.details_missing"] == [entry["event"] for entry in logs]


def test_a_rotation_for_which_there_is_no_time(
    simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the time of a poll is over before the rotation, the last details stay: no row has changed."""
    clock = Clock(monkeypatch)
    for number in range(12):
        simulated.stage.add(f"c{number}", started=time.time() - 86400)
    poller = poller_for(simulated.url, docker_timeout=1, poll_interval=0.5)
    poller.poll()
    clock.later += 600
    simulated.faults = {"inspect": hangs()}
    snapshot = poller.poll()

    assert 8 == snapshot.postponed
    assert 8 == len(details_of(snapshot))


@pytest.mark.parametrize(
    "change", [{"Id": "another"}, {"State": {"Status": "melting"}}, {"State": None}]
)
def test_a_malformed_inspect(simulated: Simulation, change: dict[str, Any]) -> None:
    """A malformed inspect is counted as an error, and the health remains that of the list."""
    web = simulated.stage.add("web", health="healthy")
    simulated.faults = {"inspect": answers_json(web.inspect() | change)}
    snapshot = poller_for(simulated.url).poll()

    assert {"web": 4} == healths(snapshot)
    assert 1 == snapshot.counts.errors["inspect", "bad_response"]
    assert [] == details_of(snapshot)


def test_expensive_without_details() -> None:
    """Without details, an expensive list is read in pages, and one line in the log has the advice."""
    with simulation(containerd=True) as expensive, capture_logs() as logs:
        for number in range(120):
            expensive.stage.add(f"c{number}", health="healthy", created=time.time() - number)
        poller = polled(expensive.url, container_details=False)
        cost = asked(expensive, poller.poll)

    assert {"version": 0, "ping": 1, "list": 3, "inspect": 0} == cost
    assert {4} == set(healths(poller.snapshot).values())
    assert 120 == len(poller.snapshot.containers)
    assert "list" == poller.snapshot.mode.name
    assert 1 == [entry["event"] for entry in logs].count("containers.listing_is_expensive")
