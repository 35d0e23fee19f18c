"""What one poll finds, what it costs, and what it says of an engine in trouble."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event, Thread
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.containers import LABEL
from docker_prom_exporter.demo import SimulatedContainer
from docker_prom_exporter.poller import Poller
from docker_prom_exporter.snapshot import Snapshot
from support.simulated import Simulation, answers, answers_json, drips, hangs, poller_for, resets, simulation
from support.waiting import wait_for


@pytest.fixture
def before_152() -> Iterator[Simulation]:
    with simulation(api_version="1.45") as engine:
        yield engine


@pytest.fixture
def podman() -> Iterator[Simulation]:
    with simulation(api_version="1.41", podman=True) as engine:
        yield engine


def healths(snapshot: Snapshot) -> dict[str, int]:
    return {container.name: int(container.health) for container in snapshot.containers}


def asked(simulated: Simulation, poll: Callable[[], Any]) -> dict[str, int]:
    """Count what a poll asks of each endpoint."""
    endpoints = ("version", "ping", "list", "inspect")
    before = {endpoint: simulated.asked(endpoint) for endpoint in endpoints}
    poll()
    return {endpoint: simulated.asked(endpoint) - count for endpoint, count in before.items()}


STEADY = {"version": 0, "ping": 1, "list": 1, "inspect": 0}


@pytest.mark.parametrize("api_version", ["1.41", "1.45", "1.52"])
def test_reports_health(api_version: str) -> None:
    """Whatever the API version, the list says it all."""
    with simulation(api_version=api_version) as simulated:
        for health in ("starting", "healthy", "unhealthy"):
            simulated.stage.add(health, health=health)
            simulated.stage.add(f"paused {health}", health=health, state="paused")
            simulated.stage.add(f"exited {health}", health=health, state="exited")
        simulated.stage.add("plain")

        found = healths(poller_for(simulated.url, container_details=False).poll())

    assert {"starting": 0, "healthy": 4, "unhealthy": 3, "plain": 2} == {
        k: v for k, v in found.items() if v != 1
    }
    assert {name for name, value in found.items() if value == 1} == {
        f"{state} {health}"
        for state in ("paused", "exited")
        for health in ("starting", "healthy", "unhealthy")
    }
    assert 0 == simulated.asked("inspect")


def test_a_steady_poll_costs_a_ping_and_a_list(simulated: Simulation) -> None:
    """However many containers there are; the first poll asks the version and inspects each."""
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
        {"health": "unhealthy"},
        {"failing_streak": 1},
        {"health": None},
    ],
    ids=str,
)
def test_a_change_costs_one_inspect(simulated: Simulation, change: dict[str, Any]) -> None:
    """Only the container whose row changed is inspected, and only once."""
    simulated.stage.add("other", health="healthy")
    simulated.stage.add("web", health="healthy")
    poller = poller_for(simulated.url)
    poller.poll()

    simulated.stage.change("web", **change)

    assert STEADY | {"inspect": 1} == asked(simulated, poller.poll)
    assert STEADY == asked(simulated, poller.poll)


@pytest.mark.parametrize(
    "change", [{"name": "www"}, {"labels": {LABEL: "true", "x": "y"}}, {"image": "other:2"}]
)
def test_what_the_list_says_costs_no_inspect(simulated: Simulation, change: dict[str, Any]) -> None:
    """A new name comes with the list: details stay as they were."""
    web = simulated.stage.add("web", restarts=3)
    poller = poller_for(simulated.url)
    poller.poll()

    simulated.rows = lambda rows: [row | _as_row(change) for row in rows]
    cost = asked(simulated, poller.poll)

    assert STEADY == cost
    (container,) = poller.snapshot.containers
    assert container.details is not None
    assert (web.id, 3) == (container.id, container.details.restarts)


def _as_row(change: dict[str, Any]) -> dict[str, Any]:
    names = {"name": "Names", "labels": "Labels", "image": "Image"}
    return {names[key]: [f"/{value}"] if key == "name" else value for key, value in change.items()}


def test_a_restart_between_two_polls_is_noticed(simulated: Simulation) -> None:
    """State and health are as before, but it has been up for less time than since the last poll."""
    simulated.stage.add("web", health="healthy")
    poller = poller_for(simulated.url)
    poller.poll()
    assert STEADY == asked(simulated, poller.poll)

    simulated.stage.change("web", started=time.time(), restarts=1)

    assert STEADY | {"inspect": 1} == asked(simulated, poller.poll)
    (container,) = poller.snapshot.containers
    assert container.details is not None
    assert 1 == container.details.restarts


class Clock:
    """Takes the poller's clock and the engine's on by as much as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later = 0.0
        monotonic, wall = time.monotonic, time.time
        monkeypatch.setattr("docker_prom_exporter.poller.time.monotonic", lambda: monotonic() + self.later)
        monkeypatch.setattr("docker_prom_exporter.demo.time.time", lambda: wall() + self.later)


def test_the_age_alone_costs_no_inspect(simulated: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Months of polls, each of which finds the containers older: not one inspect, at no change of wording."""
    clock = Clock(monkeypatch)
    simulated.stage.add("up", started=time.time() - 2)
    simulated.stage.add("ended", state="exited", finished=time.time() - 3)
    poller = poller_for(simulated.url)
    poller.poll()

    for step in [1.0] * 70 + [31.0] * 130 + [3599.0] * 120 + [86400.0] * 60:
        clock.later += step
        poller.poll()

    assert 2 == simulated.asked("inspect")


@pytest.mark.parametrize("age", [0.0, 0.5, 1.5, 59.0, 100.0, 5400.0])
@pytest.mark.parametrize("interval", [0.5, 5.0, 60.0, 3600.0])
@pytest.mark.parametrize("after", [0.1, 0.9])
def test_no_restart_is_missed(
    simulated: Simulation, monkeypatch: pytest.MonkeyPatch, age: float, interval: float, after: float
) -> None:
    """Whatever the container's age, the interval, and when in it the restart comes, the next polls tell."""
    clock = Clock(monkeypatch)
    simulated.stage.add("web", started=time.time() - age)
    poller = poller_for(simulated.url)
    poller.poll()
    restarted = time.time() + after * interval
    simulated.stage.change("web", started=restarted, restarts=1)

    for _ in range(2):
        clock.later += interval
        poller.poll()
        (container,) = poller.snapshot.containers
        assert container.details is not None
        assert 1 == container.details.restarts
        assert pytest.approx(restarted) == container.details.started


def test_podman_is_inspected_for_the_health_of_what_runs(podman: Simulation) -> None:
    """Its list hides health: running containers cost an inspect each poll, the others only a change."""
    podman.stage.add("web", health="unhealthy")
    podman.stage.add("plain")
    podman.stage.add("done", state="exited", health="healthy")
    poller = poller_for(podman.url)
    poller.poll()

    cost = asked(podman, poller.poll)

    assert STEADY | {"inspect": 2} == cost
    assert {"web": 3, "plain": 2, "done": 1} == healths(poller.snapshot)


def test_without_details_docker_is_never_inspected(before_152: Simulation) -> None:
    """No environment variable of a container leaves the engine."""
    before_152.stage.add("web", health="healthy")
    poller = poller_for(before_152.url, container_details=False)

    before_152.stage.change("web", health="unhealthy")
    poller.poll()

    assert {"web": 3} == healths(poller.snapshot)
    assert 0 == before_152.asked("inspect")
    assert all(container.details is None for container in poller.snapshot.containers)


def test_without_details_podman_still_tells_health(podman: Simulation) -> None:
    """There is no other way to know, and nothing but health is kept."""
    podman.stage.add("web", health="healthy")

    snapshot = poller_for(podman.url, container_details=False).poll()

    assert {"web": 4} == healths(snapshot)
    assert all(container.details is None for container in snapshot.containers)


@pytest.mark.parametrize(
    ("only_labelled", "watched"),
    [("true", {"yes", "odd-yes"}), ("false", {"yes", "odd-yes", "none", "spoilt"})],
)
def test_the_label_filters(simulated: Simulation, only_labelled: str, watched: set[str]) -> None:
    """A label that is no boolean counts as none; one warning names the container, not the value."""
    for name, value in {"yes": "true", "odd-yes": " ON", "no": "0", "spoilt": "maybe"}.items():
        simulated.stage.add(name, labels={LABEL: value})
    simulated.stage.add("none", labels={})
    poller = poller_for(simulated.url, container_health_filter_label=only_labelled)

    with capture_logs() as logs:
        poller.poll()
        poller.poll()

    assert watched == set(healths(poller.snapshot))
    warnings = [entry for entry in logs if entry["event"] == "container.label_ignored"]
    assert ["spoilt"] == [entry["name"] for entry in warnings]
    assert "maybe" not in str(warnings)


def test_says_once_that_nothing_is_watched(simulated: Simulation) -> None:
    """And names both ways out; again only after something was."""
    poller = poller_for(simulated.url)
    with capture_logs() as logs:
        poller.poll()
        poller.poll()
        simulated.stage.add("web")
        poller.poll()
        simulated.stage.containers.clear()
        poller.poll()

    said = [entry for entry in logs if entry["event"] == "containers.none_watched"]
    assert 2 == len(said)
    assert LABEL in said[0]["advice"]
    assert "CONTAINER_HEALTH_FILTER_LABEL=false" in said[0]["advice"]


FAULTS = {
    "closed": (resets, "unreachable"),
    "silent": (hangs(), "timeout"),
    "dripping": (drips(b"HTTP/1.1 200 OK\r\nX: "), "timeout"),
    "denied": (answers("403 Forbidden", "<html>"), "denied"),
    "nonsense": (answers("200 OK", "<html>"), "bad_response"),
    "down behind a proxy": (answers("503 Service Unavailable", ""), "unreachable"),
}


@pytest.mark.parametrize("endpoint", ["version", "ping", "list"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_in_trouble(simulated: Simulation, endpoint: str, fault: str) -> None:
    """The containers stay, their health unknown; it is counted, logged once, and over one poll later."""
    simulated.stage.add("web", health="healthy")
    poller = poller_for(simulated.url, docker_timeout=0.2)
    poller.poll()
    answer, reason = FAULTS[fault]

    if endpoint == "version":
        poller._engine.disconnect()
    simulated.faults = {endpoint: answer}
    with capture_logs() as logs:
        lost = [poller.poll() for _ in range(3)][-1]
    simulated.faults = {}
    simulated.stage.change("web", health="unhealthy")
    found = poller.poll()

    assert (endpoint == "list", False) == (lost.up, lost.listed)
    assert ["web"] == [container.name for container in lost.containers]
    assert lost.counts.errors[endpoint, reason] >= 3
    assert {"success": 1, "failure": 3} == lost.counts.polls
    assert ["containers.unknown" if endpoint == "list" else "docker.lost"] == [
        entry["event"] for entry in logs
    ]
    assert (endpoint, reason) == (logs[0]["endpoint"], logs[0]["reason"])
    assert (reason == "denied") == ("a socket proxy must allow" in logs[0].get("advice", ""))
    assert (True, True, {"web": 3}) == (found.up, found.listed, healths(found))


def test_docker_absent_at_start(simulated: Simulation) -> None:
    """No crash and no container; found as soon as it is there."""
    simulated.stage.add("web")
    simulated.__exit__()
    poller = poller_for(simulated.url)

    lost = poller.poll()
    with simulated:
        found = poller.poll()

    assert (False, (), True) == (lost.up, lost.containers, lost.polled)
    assert (True, {"web": 2}) == (found.up, healths(found))


def test_a_restart_of_the_engine_fits_into_one_poll(simulated: Simulation) -> None:
    """The connection is gone, the engine is back with another version: no poll fails."""
    simulated.stage.add("web")
    poller = poller_for(simulated.url)
    poller.poll()

    simulated.__exit__()
    simulated.api_version = "1.45"
    with simulated:
        found = poller.poll()

    assert found.up
    assert found.engine is not None
    assert "1.45" == found.engine.api_version
    assert 0 == found.counts.polls["failure"]


def test_an_upgrade_behind_a_proxy(simulated: Simulation) -> None:
    """No connection breaks, but the ping tells of another engine: its version is asked anew."""
    poller = poller_for(simulated.url)
    poller.poll()

    simulated.api_version = "1.47"

    assert {"version": 1, "ping": 2, "list": 1, "inspect": 0} == asked(simulated, poller.poll)
    assert poller.snapshot.engine is not None
    assert "1.47" == poller.snapshot.engine.api_version


def test_an_api_version_that_is_refused(simulated: Simulation) -> None:
    """An engine that says "client version is too new" is asked for its version in the same poll."""
    poller = poller_for(simulated.url)
    poller.poll()
    refusal = answers("400 Bad Request", '{"message": "client version 1.52 is too new"}')

    def refuse_once(connection: Any) -> None:
        simulated.faults = {}
        simulated.api_version = "1.41"
        refusal(connection)

    simulated.faults = {"ping": refuse_once}
    found = poller.poll()

    assert found.up
    assert found.engine is not None
    assert "1.41" == found.engine.api_version


def test_a_container_gone_between_list_and_inspect(simulated: Simulation) -> None:
    """It is left out, and that is no error."""
    simulated.stage.add("web")
    ghost = SimulatedContainer("ghost", labels={LABEL: "true"})
    simulated.rows = lambda rows: [*rows, ghost.row(time.time())]

    snapshot = poller_for(simulated.url).poll()

    assert {"web": 2} == healths(snapshot)
    assert not any(snapshot.counts.errors.values())


def test_inspects_that_are_denied(before_152: Simulation) -> None:
    """What the list says stands, one warning names the setting, and no request a container is wasted."""
    for number in range(50):
        before_152.stage.add(f"c{number}", health="healthy")
    before_152.faults = {"inspect": answers("403 Forbidden", "")}
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


def test_podman_with_inspects_denied(podman: Simulation) -> None:
    """Health that can't be had is unknown, not what it was."""
    podman.stage.add("web", health="healthy")
    poller = poller_for(podman.url)
    before = healths(poller.poll())

    podman.faults = {"inspect": answers("403 Forbidden", "")}

    assert {"web": 4} == before
    assert {"web": 0} == healths(poller.poll())


def test_one_stuck_container_costs_only_its_details(simulated: Simulation) -> None:
    """An inspect that hangs (moby#46782) takes a worker and its timeout, not the poll."""
    for number in range(20):
        simulated.stage.add(f"c{number}", health="healthy")
    stuck = simulated.stage.add("stuck", health="healthy")
    answer = simulated.answer

    def hang_for_one(endpoint: str, container_id: str | None) -> tuple[int, Any]:
        if container_id == stuck.id:
            Event().wait(0.5)
        return answer(endpoint, container_id)

    simulated.answer = hang_for_one  # type: ignore[method-assign]
    snapshot = poller_for(simulated.url, docker_timeout=0.3).poll()

    assert {4} == set(healths(snapshot).values())
    assert ["stuck"] == [container.name for container in snapshot.containers if container.details is None]
    assert 1 == snapshot.counts.errors["inspect", "timeout"]


def test_rows_that_are_none(simulated: Simulation) -> None:
    """A row without an id, one that is no object, an id twice: the rest is reported, with one warning."""
    web = simulated.stage.add("web")
    twin = replace(web, name="web").row(time.time())
    simulated.rows = lambda rows: [*rows, twin, {"Names": ["/x"]}, "row", None, {"Id": 7}, {"Id": "../info"}]
    poller = poller_for(simulated.url)

    with capture_logs() as logs:
        poller.poll()
        poller.poll()

    assert {"web": 2} == healths(poller.snapshot)
    assert [6] == [entry["rows"] for entry in logs if entry["event"] == "containers.rows_ignored"]


def test_an_inspect_of_a_later_state_is_not_kept(before_152: Simulation) -> None:
    """The container changed between list and inspect: it is asked again even if its row stays the same."""
    web = before_152.stage.add("web")
    before_152.faults = {"inspect": answers_json({"State": {"Status": "exited", "ExitCode": 0}})}
    poller = poller_for(before_152.url)
    poller.poll()

    before_152.faults = {}

    assert STEADY | {"inspect": 1} == asked(before_152, poller.poll)
    assert web.id == poller.snapshot.containers[0].id


def test_a_poll_has_a_deadline(simulated: Simulation) -> None:
    """However slowly each of many answers drips, the poll ends before its snapshot stops being trusted."""
    for number in range(40):
        simulated.stage.add(f"c{number}")
    simulated.faults = {"inspect": hangs()}
    poller = poller_for(simulated.url, docker_timeout=0.4, poll_interval=0.5)

    snapshot = poller.poll()

    assert snapshot.up
    assert snapshot.duration < snapshot.trusted_for
    assert 40 == len(snapshot.containers)


def test_nothing_published_is_ever_changed(simulated: Simulation) -> None:
    """A snapshot a scrape holds stays what it was while polls go on."""
    simulated.stage.add("web")
    poller = poller_for(simulated.url)
    first = poller.poll()
    before = repr(first)

    simulated.stage.change("web", state="exited")
    poller.poll()

    assert before == repr(first)
    assert poller.snapshot is not first


def test_the_loop_polls_until_it_is_stopped(simulated: Simulation) -> None:
    """And publishes nothing once it is told to stop, so that the end of the exporter is no end of Docker."""
    stop = Event()
    poller = poller_for(simulated.url, stop)
    loop = Thread(target=poller.run)
    loop.start()
    wait_for(lambda: simulated.asked("list") >= 3, what="three polls")

    stop.set()
    loop.join(10)

    assert not loop.is_alive()
    last = poller.snapshot
    assert last is poller.poll()


def test_an_error_of_our_own_ends_no_loop(simulated: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged with its traceback, the poll has failed, and the next one is tried."""
    poller = poller_for(simulated.url)
    monkeypatch.setattr(Poller, "_distinct", lambda *_: 1 / 0)

    with capture_logs() as logs:
        snapshot = poller.poll()

    assert not snapshot.up
    assert ["poll.failed"] == [entry["event"] for entry in logs]
    monkeypatch.undo()
    assert poller.poll().up


def test_the_log_names_what_was_found(simulated: Simulation) -> None:
    """The first line a user looks for: engine, version, how many containers, how many watched."""
    simulated.stage.add("web")
    simulated.stage.add("other", labels={})

    with capture_logs() as logs:
        poller_for(simulated.url).poll()

    (found,) = [entry for entry in logs if entry["event"] == "docker.found"]
    assert ("Docker", "1.52", 2, 1) == tuple(
        found[key] for key in ("engine", "api_version", "containers", "watched")
    )


def test_since_when_it_is_up_or_down(simulated: Simulation) -> None:
    """The time of a change stays until the next one, and what failed is known until it no longer does."""
    poller = poller_for(simulated.url)
    up = [poller.poll() for _ in range(2)]
    simulated.faults = {"ping": answers("503 Service Unavailable", "")}
    down = [poller.poll() for _ in range(2)]
    simulated.faults = {}
    again = poller.poll()

    assert up[0].since == up[1].since < down[0].since == down[1].since < again.since <= time.time()
    assert [None, "unreachable"] == [up[1].failure, down[1].failure and down[1].failure.reason]
    assert again.failure is None
