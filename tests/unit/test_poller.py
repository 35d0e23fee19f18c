"""What one poll finds, what it costs, and what it says of an engine in trouble."""

import time
from dataclasses import replace
from threading import Event, Thread
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.containers import LABEL
from support.polls import asked, healths
from support.simulated import Simulation, answers, hangs, poller_for, resets
from support.waiting import wait_for


@pytest.mark.parametrize(
    ("only_labelled", "watched"),
    [("true", {"yes", "odd-yes"}), ("false", {"yes", "odd-yes", "none", "spoilt", "blank"})],
)
def test_the_label_filters(simulated: Simulation, only_labelled: str, watched: set[str]) -> None:
    """A label that is no boolean counts as none; one warning names the container, not the value."""
    for name, value in {"yes": "true", "odd-yes": " ON", "no": "0", "spoilt": "maybe", "blank": ""}.items():
        simulated.stage.add(name, labels={LABEL: value})
    simulated.stage.add("none", labels={})
    poller = poller_for(simulated.url, container_health_filter_label=only_labelled)

    with capture_logs() as logs:
        poller.poll()
        poller.poll()

    assert watched == set(healths(poller.snapshot))
    warnings = [entry for entry in logs if entry["event"] == "container.label_ignored"]
    assert ["blank", "spoilt"] == sorted(entry["name"] for entry in warnings)
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
    "denied": (answers("403 Forbidden", "<html>"), "denied"),
}


@pytest.mark.parametrize("endpoint", ["version", "ping", "list"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_in_trouble(simulated: Simulation, endpoint: str, fault: str) -> None:
    """The containers stay, their health unknown; it is counted, logged once, and over one poll later."""
    simulated.stage.add("web", health="healthy")
    poller = poller_for(simulated.url)
    poller.poll()
    answer, reason = FAULTS[fault]
    timeout = poller._engine._timeout
    if reason == "timeout":
        poller._engine._timeout = 0.2

    if endpoint == "version":
        poller._engine.disconnect()
    simulated.faults = {endpoint: answer}
    with capture_logs() as logs:
        lost = [poller.poll() for _ in range(2)][-1]
    simulated.faults = {}
    poller._engine._timeout = timeout
    simulated.stage.change("web", health="unhealthy")
    found = poller.poll()

    assert (endpoint == "list", False) == (lost.up, lost.listed)
    assert ["web"] == [container.name for container in lost.containers]
    assert lost.counts.errors[endpoint, reason] >= 2
    assert {"success": 1, "failure": 2} == lost.counts.polls
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


def test_rows_that_are_none(simulated: Simulation) -> None:
    """A row without an id, one that is no object, an id twice: the rest is reported, with one warning."""
    web = simulated.stage.add("web")
    twin = replace(web, name="web").row(time.time())
    simulated.change_rows = lambda rows: [
        *rows,
        twin,
        {"Names": ["/x"]},
        "row",
        None,
        {"Id": 7},
        {"Id": "../info"},
    ]
    poller = poller_for(simulated.url)

    with capture_logs() as logs:
        poller.poll()
        poller.poll()

    assert {"web": 2} == healths(poller.snapshot)
    assert [6] == [entry["rows"] for entry in logs if entry["event"] == "containers.rows_ignored"]


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
    poller = poller_for(simulated.url, stop, poll_interval=0.5)
    loop = Thread(target=poller.run)
    loop.start()
    wait_for(lambda: simulated.asked("list") >= 2, what="two polls")

    stop.set()
    loop.join(10)

    assert not loop.is_alive()
    last = poller.snapshot
    assert last is poller.poll()


def test_an_error_of_our_own_ends_no_loop(simulated: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged with its traceback, the poll has failed, and the next one is tried."""
    poller = poller_for(simulated.url)
    monkeypatch.setattr(poller, "_found", lambda *_: 1 / 0)

    with capture_logs() as logs:
        snapshot = poller.poll()

    assert not snapshot.up
    assert ["poll.failed"] == [entry["event"] for entry in logs]
    monkeypatch.undo()
    assert poller.poll().up


def test_the_log_names_what_was_found(simulated: Simulation) -> None:
    """The first line a user looks for: engine, version, mode, how many are watched."""
    simulated.stage.add("web")
    simulated.stage.add("other", labels={})

    with capture_logs() as logs:
        poller_for(simulated.url).poll()

    (found,) = [entry for entry in logs if entry["event"] == "docker.found"]
    assert ("Docker", "1.52", "list", 1) == tuple(
        found[key] for key in ("engine", "api_version", "mode", "watched")
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
