"""Inspect mode: an inspect of each known container, and a list of containers created since the anchor."""

import socket
import time
from collections.abc import Callable, Collection, Iterator
from itertools import cycle
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.containers import LABEL
from docker_prom_exporter.engine import Engine, Inspects
from docker_prom_exporter.poller import Poller
from support.clock import Clock
from support.polls import STEADY, asked, healths
from support.simulated import (
    DENIED,
    Simulation,
    answers,
    hangs,
    polled,
    poller_for,
    simulation,
)

LATE = answers("504 Gateway Timeout", "")  # has the same reason as no answer
FAILED = answers("500 Internal Server Error", '{"message": "no container with ID"}')
HOUR = 3600


@pytest.fixture
def containerd() -> Iterator[Simulation]:
    """Yield a simulated Docker with the containerd image store."""
    with simulation(containerd=True) as engine:
        yield engine


@pytest.fixture
def podman() -> Iterator[Simulation]:
    with simulation(api_version="1.41", podman=True) as engine:
        yield engine


@pytest.fixture(params=["containerd", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    """Yield each simulated engine with an expensive list."""
    podman = {"podman": True, "api_version": "1.41"}
    options: dict[str, Any] = {"containerd": True} if request.param == "containerd" else podman
    with simulation(**options) as simulated:
        yield simulated


def add_old(simulated: Simulation, name: str, **what: Any) -> str:
    """Add a container that is an hour old, so that it can be the anchor."""
    began = time.time() - HOUR
    return simulated.stage.add(name, **{"created": began, "started": began, **what}).id


def add_many(simulated: Simulation, count: int) -> list[str]:
    """Add healthy containers `c0`, `c1`, …, the last of which is the oldest."""
    began = time.time() - HOUR
    return [
        simulated.stage.add(f"c{n}", health="healthy", created=began - n, started=began).id
        for n in range(count)
    ]


def lists_of(simulated: Simulation, poll: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return the queries of the lists that a poll requests, without the label."""
    before = len(simulated.lists())
    poll()
    return [
        {k: v for k, v in query.items() if k != "label"}
        for query in simulated.lists()[before:]
    ]


def without_errors(poller: Poller) -> bool:
    return not any(poller.snapshot.counts.errors.values())


def test_a_steady_poll(engine: Simulation) -> None:
    """A steady poll sends one ping, one inspect of each container and one list since the newest container."""
    oldest = add_many(engine, 10)
    newest = engine.stage.add("newest", created=time.time() - 400).id
    poller = poller_for(engine.url)

    first = asked(engine, poller.poll)
    steady = asked(engine, poller.poll)

    assert {"version": 1, "ping": 1, "list": 1, "inspect": 11} == first
    assert STEADY | {"inspect": 11} == steady
    assert {"label": [LABEL], "since": [newest]} == engine.lists()[-1]
    assert ("inspect", 11) == (poller.snapshot.mode.name, len(oldest) + 1)
    assert {"newest": 2} | {f"c{n}": 4 for n in range(10)} == healths(poller.snapshot)


def test_recognized_by_an_inspect_before_api_1_48() -> None:
    """Before API 1.48, without `ImageManifestDescriptor` in rows, `Driver` shows the containerd store."""
    with simulation(containerd=True, api_version="1.45") as old:
        old.change_rows = lambda rows: [
            {k: v for k, v in row.items() if k != "ImageManifestDescriptor"} for row in rows
        ]
        old.stage.add("web")
        poller = poller_for(old.url)
        modes = [poller.poll().mode.name for _ in range(3)]

    assert ["list", "inspect", "inspect"] == modes


def test_new_containers_are_found_in_the_next_poll(engine: Simulation) -> None:
    """A new container is inspected from the next poll on, and dropped once it is removed."""
    add_old(engine, "web")
    poller = polled(engine.url)
    engine.stage.add("new", health="healthy", created=time.time())
    cost = asked(engine, poller.poll)
    found = healths(poller.snapshot)
    again = asked(engine, poller.poll)
    del engine.stage.containers["new"]
    poller.poll()

    assert STEADY | {"inspect": 2} == cost == again
    assert {"web": 2, "new": 4} == found
    assert {"web": 2} == healths(poller.snapshot)
    assert without_errors(poller)


def test_a_slow_creation_is_found(engine: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose creation began before that of a known one is found within a minute.

    Moby dates a container by the beginning of its creation. So once a minute the list goes back
    to a container that is too old to be overtaken.
    """
    clock = Clock(monkeypatch)
    old = add_old(engine, "web")
    poller = polled(engine.url)
    fast = engine.stage.add("fast", created=time.time()).id
    poller.poll()
    engine.stage.add("slow", created=time.time() - 200)
    lists = []
    for _ in range(5):
        clock.later += 15
        lists += lists_of(engine, poller.poll)

    assert {"web", "fast", "slow"} == healths(poller.snapshot).keys()
    assert [fast, fast, fast, old, fast] == [since for (since,) in map(_since, lists)]


@pytest.mark.parametrize("fault", ["none", "list", "ping"])
def test_a_slow_creation_that_no_list_could_show(
    engine: Simulation, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A slow creation is found although polls are rare, or fail until no container is young any more."""
    clock = Clock(monkeypatch)
    add_old(engine, "web")
    poller = polled(engine.url)
    engine.stage.add("fast", created=time.time())
    poller.poll()
    engine.stage.add("slow", created=time.time() - 200)
    for _ in range(6):
        clock.later += 100
        engine.faults = {fault: answers("500 Internal Server Error", "")}
        if fault != "none":
            poller.poll()
    engine.faults = {}
    poller.poll()
    found = healths(poller.snapshot).keys()
    clock.later += 61
    again = lists_of(engine, poller.poll)

    assert {"web", "fast", "slow"} == found
    assert [{"since": [engine.stage.containers["fast"].id]}] == again


def test_the_first_five_minutes(engine: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first five minutes of many containers, one list a minute names them, and later none."""
    clock = Clock(monkeypatch)
    add_old(engine, "web")
    poller = polled(engine.url)
    began = time.time()
    for number in range(20):
        engine.stage.add(f"c{number}", created=began + number / 100)
    named = []
    for _ in range(40):
        plain = len(engine.listed_rows)
        poller.poll()
        named.append(sum(engine.listed_rows[plain:]))
        clock.later += 15

    assert 21 == len(poller.snapshot.containers)
    assert 5 == sum(count > 0 for count in named[:20])
    assert 0 == sum(named[21:])


def _since(query: dict[str, Any]) -> list[str]:
    return [*query["since"]]


def test_a_clock_set_back_hides_no_container(
    engine: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the engine's clock was set back, new containers are found within a minute."""
    clock = Clock(monkeypatch)
    engine.stage.add("older", created=time.time() - 2 * HOUR)
    engine.stage.add("before", created=time.time())
    poller = polled(engine.url)
    engine.clock_offset = -HOUR
    engine.stage.add("after", created=engine.now())
    clock.later += 61
    poller.poll()

    assert {"older", "before", "after"} == healths(poller.snapshot).keys()
    assert without_errors(poller)


def test_the_anchor_is_the_newest_to_the_nanosecond(engine: Simulation) -> None:
    """The anchor is the newest container of a second, so that no other one is listed in every poll."""
    second = int(time.time()) - HOUR
    for tenth in (3, 1, 9, 5):
        engine.stage.add(f"c{tenth}", created=second + tenth / 10)
    poller = polled(engine.url)
    (asked_since,) = lists_of(engine, poller.poll)

    assert {"since": [engine.stage.containers["c9"].id]} == asked_since


@pytest.mark.parametrize("status", [404, 500])
def test_an_anchor_that_is_gone(engine: Simulation, status: int) -> None:
    """If the anchor is removed before the list, the next older container replaces it without an error."""
    older = add_old(engine, "older")
    anchor = engine.stage.add("anchor", created=time.time() - 400).id
    poller = polled(engine.url)

    def vanish(filters: dict[str, Any]) -> int | None:
        engine.stage.containers.pop("anchor", None)
        return status if anchor in filters.get("since", ()) else None

    engine.before_list = vanish
    with capture_logs() as logs:
        lists = lists_of(engine, poller.poll)

    assert [{"since": [anchor]}, {"id": [anchor]}, {"since": [older]}] == lists
    assert without_errors(poller)
    assert [] == logs
    assert {"older": 2} == healths(poller.poll())


def test_without_an_anchor_all_are_listed(
    engine: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are listed if none is known, and once a minute if none is five minutes old."""
    clock = Clock(monkeypatch)
    poller = polled(engine.url)
    empty = lists_of(engine, poller.poll)
    engine.stage.add("young", created=time.time() - 200)
    poller.poll()
    clock.later += 61
    young = lists_of(engine, poller.poll)

    assert [{"limit": 50}] == empty
    assert ["since" in query for query in young] == [False]
    assert {"young": 2} == healths(poller.snapshot)


def test_short_lived_containers(engine: Simulation) -> None:
    """Short-lived containers cause no errors, no warnings and no list of all, and nothing of them is kept."""
    add_old(engine, "web")
    poller = polled(engine.url)
    with capture_logs() as logs:
        for number in range(10):
            engine.stage.add(f"job{number}", created=time.time())
            assert {"web", f"job{number}"} == healths(poller.poll()).keys()
            del engine.stage.containers[f"job{number}"]
        poller.poll()

    assert [] == logs
    assert without_errors(poller)
    assert {"web": 2} == healths(poller.snapshot)
    assert 1 == sum("limit" in query for query in engine.lists())


def test_a_new_container_gone_before_its_inspect(engine: Simulation) -> None:
    """A new container that is removed before its inspect is left out without an error."""
    add_old(engine, "web")
    poller = polled(engine.url)
    ghost = engine.stage.add("ghost", created=time.time())

    def vanish(connection: socket.socket) -> None:
        engine.stage.containers.pop("ghost", None)
        answers("404 Not Found", "{}")(connection)

    engine.inspect_faults = {ghost.id: vanish}

    assert {"web": 2} == healths(poller.poll())
    assert without_errors(poller)


def test_a_404_of_a_proxy(engine: Simulation) -> None:
    """A 404 for a container that is still listed is an error, and the container stays."""
    web = add_old(engine, "web")
    poller = polled(engine.url)
    engine.inspect_faults = {web: answers("404 Not Found", "{}")}
    odd = poller.poll()
    engine.inspect_faults = {}

    assert ["web"] == [container.name for container in odd.containers]
    assert 1 == odd.counts.errors["inspect", "bad_response"]
    assert {"web": 2} == healths(poller.poll())
    assert poller.snapshot.containers[0].details


def test_all_are_listed_once_an_hour(
    containerd: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hourly list of all finds containers that took long to create; its failure affects no others."""
    clock = Clock(monkeypatch)
    add_old(containerd, "web")
    poller = polled(containerd.url)
    containerd.stage.add("very slow", created=time.time() - 2 * HOUR)
    clock.later += HOUR + 1
    containerd.before_list = lambda filters: None if "since" in filters else 500
    failed = poller.poll()
    containerd.before_list = lambda _: None
    clock.later += 601
    found = healths(poller.poll())

    assert {"web": 2} == healths(failed)
    assert {"web": 2, "very slow": 2} == found
    assert 1 == poller.snapshot.counts.errors["list", "error"]
    assert {"success": 2, "failure": 1} == poller.snapshot.counts.polls


def test_containers_labelled_false_are_inspected_once(engine: Simulation) -> None:
    """With the filter off, a container labelled false is inspected once and can be the anchor."""
    add_old(engine, "web", labels={})
    refused = engine.stage.add(
        "refused", labels={LABEL: "false"}, created=time.time() - 400
    ).id
    poller = poller_for(engine.url, container_health_filter_label=False)

    first = asked(engine, poller.poll)
    steady = asked(engine, poller.poll)

    assert {"version": 1, "ping": 1, "list": 1, "inspect": 2} == first
    assert STEADY | {"inspect": 1} == steady
    assert {"since": [refused]} == engine.lists()[-1]
    assert {"web": 2} == healths(poller.snapshot)
    assert poller.snapshot.unwatched is None


def test_an_unwatched_anchor_that_is_gone(engine: Simulation) -> None:
    """An anchor that is not watched is replaced after its removal, which only the list shows."""
    web = add_old(engine, "web", labels={})
    engine.stage.add("refused", labels={LABEL: "false"}, created=time.time() - 400)
    poller = polled(engine.url, container_health_filter_label=False)
    del engine.stage.containers["refused"]
    poller.poll()

    assert {"since": [web]} == engine.lists()[-1]
    assert without_errors(poller)


def test_an_invalid_label(containerd: Simulation) -> None:
    """An invalid label causes one warning, although its container is inspected only once."""
    add_old(containerd, "odd", labels={LABEL: "maybe"})
    poller = poller_for(containerd.url)
    with capture_logs() as logs:
        poller.poll()
        poller.poll()

    assert ["odd"] == [
        entry["name"] for entry in logs if entry["event"] == "container.label_ignored"
    ]


def test_one_inspect_that_times_out(
    containerd: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an inspect times out, the list gives the health; the inspect is repeated at growing intervals."""
    clock = Clock(monkeypatch)
    add_many(containerd, 6)
    stuck = add_old(containerd, "stuck", health="unhealthy", failing_streak=3)
    poller = polled(containerd.url)
    containerd.inspect_faults = {stuck: LATE}
    with capture_logs() as logs:
        poller.poll()
        hung = healths(poller.snapshot)
        lists = lists_of(containerd, poller.poll)
    clock.later += 61
    retried = asked(containerd, poller.poll)
    without_details = [c.name for c in poller.snapshot.containers if c.details is None]
    containerd.inspect_faults = {}
    clock.later += 121
    poller.poll()

    assert {"stuck": 3} | {f"c{n}": 4 for n in range(6)} == hung
    assert {"id": [stuck]} == lists[0]
    assert 7 == retried["inspect"]
    assert ["stuck"] == without_details
    assert ["containers.details_missing"] == [entry["event"] for entry in logs]
    assert all(container.details for container in poller.snapshot.containers)
    assert 3 == poller.snapshot.counts.errors["inspect", "timeout"]


def test_a_container_that_neither_inspect_nor_list_answers(podman: Simulation) -> None:
    """If neither inspect nor list answers, as during `podman commit`, that container's health is unknown."""
    add_old(podman, "web", health="healthy")
    stuck = add_old(podman, "stuck", health="healthy")
    poller = polled(podman.url)
    podman.inspect_faults = {stuck: LATE}
    podman.before_list = lambda filters: 500 if "id" in filters else None
    snapshot = poller.poll()

    assert {"web": 4, "stuck": 0} == healths(snapshot)
    assert 1 == snapshot.counts.errors["inspect", "timeout"]
    assert 1 == snapshot.counts.errors["list", "error"]


def test_a_list_in_place_of_inspects_that_fails_halfway(containerd: Simulation) -> None:
    """What one request of the list has answered counts, although the next one fails."""
    add_many(containerd, 60)
    poller = polled(containerd.url)
    statuses = cycle([None, 500])
    containerd.before_list = lambda filters: next(statuses) if "id" in filters else None
    containerd.faults = {"inspect": FAILED}
    found = [*healths(poller.poll()).values()]

    assert (50, 10) == (found.count(4), found.count(0))
    assert 1 == poller.snapshot.counts.errors["list", "error"]


def test_a_500_of_a_container_that_is_being_removed(engine: Simulation) -> None:
    """A status 500 of an inspect is an error only if the list still has the container."""
    add_old(engine, "web")
    going = add_old(engine, "going")
    staying = add_old(engine, "staying", health="healthy")
    poller = polled(engine.url)
    engine.inspect_faults = {going: FAILED, staying: FAILED}
    engine.change_rows = lambda rows: [row for row in rows if row["Id"] != going]
    snapshot = poller.poll()
    known = {} if engine.podman else {"staying": 4}

    assert {"web": 2, "staying": 0} | known == healths(snapshot)
    assert 1 == snapshot.counts.errors["inspect", "error"]


def test_inspects_denied_from_one_poll_to_the_next(containerd: Simulation) -> None:
    """While inspects are denied the mode is list, with one warning; afterwards it is inspect again."""
    add_old(containerd, "web", health="healthy")
    poller = poller_for(containerd.url)
    modes = [poller.poll().mode.name]
    containerd.faults = {"inspect": DENIED}
    with capture_logs() as logs:
        modes += [poller.poll().mode.name for _ in range(3)]
        denied = healths(poller.snapshot)
        costs = asked(containerd, poller.poll)
    containerd.faults = {}
    modes += [poller.poll().mode.name for _ in range(3)]
    events = [entry["event"] for entry in logs]

    assert ["inspect", "inspect", "list", "list", "list", "inspect", "inspect"] == modes
    assert {"web": 4} == denied == healths(poller.snapshot)
    assert STEADY | {"inspect": 1} == costs
    assert 1 == events.count("containers.details_missing")
    assert 1 == events.count("containers.listing_is_expensive")
    assert poller.snapshot.containers[0].details


def test_podman_with_inspects_denied(podman: Simulation) -> None:
    """While Podman denies inspects, the health of running containers is unknown, not the earlier one."""
    add_old(podman, "web", health="healthy")
    add_old(podman, "done", state="exited")
    poller = polled(podman.url)
    podman.faults = {"inspect": DENIED}

    assert {"web": 0, "done": 1} == healths(poller.poll())


def test_the_first_poll_lists_in_pages(containerd: Simulation) -> None:
    """The first poll lists all containers in pages: an expensive list of all could exceed the timeout."""
    add_many(containerd, 101)
    poller = poller_for(containerd.url)
    snapshot = poller.poll()

    assert 101 == len(snapshot.containers)
    assert all(container.details for container in snapshot.containers)
    assert [50] * 3 == [query["limit"] for query in containerd.lists()]
    assert without_errors(poller)


def test_a_page_whose_last_container_is_gone(containerd: Simulation) -> None:
    """If the last container of a page is removed, the one before it leads to the next page."""
    add_many(containerd, 120)

    def vanish(filters: dict[str, Any]) -> None:
        if "before" in filters:
            containerd.stage.containers.pop("c49", None)

    containerd.before_list = vanish
    poller = poller_for(containerd.url)
    names = healths(poller.poll()).keys()

    assert {f"c{n}" for n in range(120)} - {"c49"} == names
    assert without_errors(poller)


def test_another_engine_at_the_address(containerd: Simulation) -> None:
    """When another engine answers at the address, a list of all shows which mode it needs."""
    add_old(containerd, "web")
    poller = polled(containerd.url)
    containerd.containerd = False
    containerd.api_version = "1.53"
    containerd.stage.containers.clear()
    add_old(containerd, "other")
    modes = [poller.poll().mode.name for _ in range(2)]

    assert {"other": 2} == healths(poller.snapshot)
    assert ["list", "list"] == modes
    assert without_errors(poller)


def test_podman_without_details(podman: Simulation) -> None:
    """Without details, Podman is inspected for health only, because its list has none."""
    add_old(podman, "web", health="healthy")
    snapshot = poller_for(podman.url, container_details=False).poll()

    assert {"web": 4} == healths(snapshot)
    assert all(container.details is None for container in snapshot.containers)


def test_a_frozen_engine_is_not_the_containers_fault(engine: Simulation) -> None:
    """If nothing is answered meanwhile, one error is counted, and the next poll is complete."""
    add_many(engine, 6)
    poller = polled(engine.url, docker_timeout=1, poll_interval=0.5)
    engine.faults = {"inspect": hangs(), "list": hangs()}
    frozen = poller.poll()
    engine.faults = {}
    poller.poll()

    assert (True, False) == (frozen.up, frozen.listed)
    assert 1 == sum(frozen.counts.errors.values())
    assert {4} == {*healths(poller.snapshot).values()}
    assert all(container.details for container in poller.snapshot.containers)


def test_the_list_shows_whose_fault_it_is(engine: Simulation) -> None:
    """If the only watched container hangs, the answer of the list shows that the engine does not."""
    only = add_old(engine, "only", health="healthy")
    poller = polled(engine.url)
    engine.inspect_faults = {only: LATE}
    stuck = poller.poll()
    engine.inspect_faults = {}
    poller.poll()

    assert stuck.listed
    assert {"only": 0 if engine.podman else 4} == healths(stuck)
    assert 1 == stuck.counts.errors["inspect", "timeout"]
    assert {"only": 4} == healths(poller.snapshot)
    assert all(container.details for container in poller.snapshot.containers)


def test_what_a_poll_has_no_time_for_comes_first(engine: Simulation) -> None:
    """A container for which a poll had no time is not put aside, but inspected first in the next."""
    ids = add_many(engine, 40)
    poller = polled(engine.url, docker_timeout=1, poll_interval=0.5)
    before = len(engine.lines)
    engine.faults = {"inspect": hangs()}
    slow = poller.poll()
    late = {i for line in engine.lines[before : before + 5] for i in ids if f"/{i}/" in line}
    engine.faults = {}
    before = len(engine.lines)
    poller.poll()
    inspected = [i for line in engine.lines[before:] for i in ids if f"/{i}/" in line]

    assert (36, 4) == (slow.postponed, slow.counts.errors["inspect", "timeout"])
    # Four at a time arrive in any order.
    assert late <= {*inspected[-8:]}
    assert 40 == len(inspected)
    assert 0 == poller.snapshot.postponed
    assert {4} == {*healths(poller.snapshot).values()}
    assert all(container.details for container in poller.snapshot.containers)


def test_no_container_waits_for_ever(
    engine: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no poll has time for all containers, they take turns."""
    ids = add_many(engine, 40)
    poller = polled(engine.url)
    inspect = Engine.inspect

    def inspect_twelve(self: Engine, due: Collection[str], *more: Any) -> Inspects:
        return inspect(self, [*due][:12], *more)

    monkeypatch.setattr(Engine, "inspect", inspect_twelve)
    before = len(engine.lines)
    for _ in range(4):
        poller.poll()
    inspected = {i for line in engine.lines[before:] for i in ids if f"/{i}/" in line}

    assert {*ids} == inspected


@pytest.mark.parametrize("fault", [FAILED, DENIED, LATE])
def test_a_list_of_new_containers_that_fails(engine: Simulation, fault: Any) -> None:
    """The inspects of the poll stand; it counts as a failure, with one warning until it is over."""
    add_old(engine, "web", health="healthy")
    poller = poller_for(engine.url)
    first = poller.poll().last_success
    engine.faults = {"list": fault}
    with capture_logs() as logs:
        failed = [poller.poll() for _ in range(2)][-1]
    engine.faults = {}
    found = poller.poll()

    assert {"web": 4} == healths(failed)
    assert failed.containers[0].details
    assert (True, first) == (failed.up, failed.last_success)
    assert failed.failure is not None
    assert ["containers.new_unknown"] == [entry["event"] for entry in logs]
    assert {"success": 2, "failure": 2} == found.counts.polls
    assert found.last_success > first
    assert found.failure is None


def test_a_list_that_fails_without_any_known_container(engine: Simulation) -> None:
    """Without a known container, a failed list leaves nothing that could stand."""
    poller = polled(engine.url)
    engine.faults = {"list": FAILED}

    assert not poller.poll().listed


def test_back_from_the_containerd_store(
    containerd: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole list shows that the engine does not look images up any more."""
    clock = Clock(monkeypatch)
    add_old(containerd, "web")
    poller = poller_for(containerd.url)
    modes = [poller.poll().mode.name]
    containerd.containerd = False
    modes.append(poller.poll().mode.name)
    clock.later += HOUR + 1
    modes += [poller.poll().mode.name for _ in range(2)]

    assert ["inspect", "inspect", "inspect", "list"] == modes


def test_a_container_that_is_gone_is_forgotten(
    containerd: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept of containers whose inspect timed out, once they are removed."""
    Clock(monkeypatch)
    add_old(containerd, "web")
    stuck = {add_old(containerd, f"c{n}"): LATE for n in range(5)}
    poller = polled(containerd.url)
    containerd.inspect_faults = {**stuck}
    poller.poll()
    for number in range(5):
        del containerd.stage.containers[f"c{number}"]
    containerd.inspect_faults = {}
    poller.poll()

    assert {"web": 2} == healths(poller.snapshot)
    assert {} == poller._collector._requests._pauses


@pytest.mark.parametrize("unreadable", [1, 50])
def test_unreadable_rows_in_pages(containerd: Simulation, unreadable: int) -> None:
    """A page is full by its rows; if no row of a full page leads on, all are listed at once."""
    add_many(containerd, 120)
    last_of_page = [f"c{n}" for n in range(50 - unreadable, 50)]
    containerd.change_rows = lambda rows: [
        row | {"Id": "?"} if row["Names"][0].strip("/") in last_of_page else row
        for row in rows
    ]
    poller = poller_for(containerd.url)

    assert 120 - unreadable == len(poller.poll().containers)
