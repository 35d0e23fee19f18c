"""Polls: what they find, the requests that they send, and what they report during failures."""

import gc
import time
import tracemalloc
from dataclasses import replace
from itertools import product
from threading import Event, Thread
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.containers import LABEL
from support.polls import asked, healths
from support.simulated import DENIED, Simulation, answers, hangs, polled, poller_for, resets
from support.waiting import wait_for


@pytest.mark.parametrize(
    ("only_labelled", "watched"),
    [("true", {"yes", "odd-yes"}), ("false", {"yes", "odd-yes", "none", "spoilt", "blank"})],
)
def test_the_label_filters(
    simulated: Simulation, only_labelled: str, watched: set[str]
) -> None:
    """An invalid label counts as absent, and one warning has the container's name but not the value."""
    for name, value in {
        "yes": "true",
        "odd-yes": " ON",
        "no": "0",
        "spoilt": "maybe",
        "blank": "",
    }.items():
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


def test_nothing_is_watched(simulated: Simulation) -> None:
    """The log says once that nothing is watched, with both remedies; it repeats that only after a change."""
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


def test_nothing_is_watched_without_the_filter(simulated: Simulation) -> None:
    """Without the filter the log does not advise to turn it off."""
    poller = poller_for(simulated.url, container_health_filter_label=False)
    with capture_logs() as logs:
        poller.poll()
        simulated.stage.add("web", labels={LABEL: "false"})
        poller.poll()

    said = [entry for entry in logs if entry["event"] == "containers.none_watched"]
    assert ["the engine has no container", f"every container is labelled {LABEL}=false"] == [
        entry["advice"].partition(";")[0] for entry in said
    ]


def test_a_misspelled_label_is_logged_once(simulated: Simulation) -> None:
    """Without the filter the log names a label that was probably meant as the exporter's, once."""
    key = LABEL.replace("-", "_")
    simulated.stage.add("web", labels={key: "false", "com.docker.compose.service": "web"})
    poller = poller_for(simulated.url, container_health_filter_label=False)
    with capture_logs() as logs:
        poller.poll()
        poller.poll()

    said = [entry for entry in logs if entry["event"] == "container.label_unknown"]
    assert [("web", key, LABEL)] == [
        (entry["name"], entry["label"], entry["similar"]) for entry in said
    ]


FAULTS = {
    "closed": (resets, "unreachable"),
    "silent": (hangs(), "timeout"),
    "denied": (DENIED, "denied"),
}


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [("version", "silent"), *product(["version", "ping", "list"], ["closed", "denied"])],
)
def test_a_failing_engine(simulated: Simulation, endpoint: str, fault: str) -> None:
    """A failure keeps the containers, is counted and logged once, and is over with the next good poll.

    A poll makes a second attempt if the engine is unreachable, but not after a denial or a timeout.
    """
    simulated.stage.add("web", health="healthy")
    poller = polled(simulated.url)
    answer, reason = FAULTS[fault]
    timeout = poller._engine.timeout
    if reason == "timeout":
        poller._engine.timeout = 0.05

    if endpoint == "version":
        poller._engine.disconnect()
    simulated.faults = {endpoint: answer}
    with capture_logs() as logs:
        lost = [poller.poll() for _ in range(2)][-1]
    simulated.faults = {}
    poller._engine.timeout = timeout
    simulated.stage.change("web", health="unhealthy", failing_streak=3)
    found = poller.poll()

    assert (endpoint == "list", False) == (lost.up, lost.listed)
    assert ["web"] == [container.name for container in lost.containers]
    assert (4 if reason == "unreachable" else 2) == lost.counts.errors[endpoint, reason]
    assert {"success": 1, "failure": 2} == lost.counts.polls
    assert ["containers.unknown" if endpoint == "list" else "docker.lost"] == [
        entry["event"] for entry in logs
    ]
    assert (endpoint, reason) == (logs[0]["endpoint"], logs[0]["reason"])
    assert (reason == "denied") == ("a socket proxy must allow" in logs[0].get("advice", ""))
    assert (True, True, {"web": 3}) == (found.up, found.listed, healths(found))


def test_a_restart_of_the_engine_between_polls(simulated: Simulation) -> None:
    """A restart of the engine with another version between two polls fails no poll."""
    simulated.stage.add("web")
    poller = polled(simulated.url)

    simulated.__exit__()
    simulated.api_version = "1.45"
    with simulated:
        found = poller.poll()

    assert found.up
    assert found.engine is not None
    assert "1.45" == found.engine.api_version
    assert 0 == found.counts.polls["failure"]


def test_an_upgrade_behind_a_proxy(simulated: Simulation) -> None:
    """If the ping shows another engine, the same poll asks for its version."""
    poller = polled(simulated.url)

    simulated.api_version = "1.47"

    assert {"version": 1, "ping": 2, "list": 1, "inspect": 0} == asked(simulated, poller.poll)
    assert poller.snapshot.engine is not None
    assert "1.47" == poller.snapshot.engine.api_version


def test_an_api_version_that_is_refused(simulated: Simulation) -> None:
    """If the engine refuses the API version, the same poll asks for the version again."""
    poller = polled(simulated.url)
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


def test_malformed_rows(simulated: Simulation) -> None:
    """Malformed rows and repeated ids are ignored with one warning, and the others are reported."""
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
    assert [6] == [
        entry["rows"] for entry in logs if entry["event"] == "containers.rows_ignored"
    ]


def test_a_poll_has_a_deadline(simulated: Simulation) -> None:
    """If all inspects hang, the poll ends after interval and timeout, and has what the list says."""
    for number in range(40):
        simulated.stage.add(f"c{number}", health="healthy")
    simulated.faults = {"inspect": hangs()}
    poller = poller_for(simulated.url, docker_timeout=1, poll_interval=0.5)

    with capture_logs() as logs:
        snapshot = poller.poll()

    assert {4} == {*healths(snapshot).values()}
    assert 40 == len(snapshot.containers)
    assert 36 == snapshot.postponed
    assert 4 == snapshot.counts.errors["inspect", "timeout"]
    assert "polls.slow" in [entry["event"] for entry in logs]


def test_answers_that_are_too_large_are_not_kept(
    simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of an answer that is too large is freed with its poll, without garbage collection."""
    monkeypatch.setattr("docker_prom_exporter.engine.client._MAX_BYTES", 2**20)
    poller = polled(simulated.url)
    simulated.faults = {"list": answers("200 OK", bytes(2**21))}
    gc.disable()
    tracemalloc.start()
    for _ in range(4):
        poller.poll()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gc.enable()

    assert "the answer is larger than 64 MiB" == (poller.snapshot.failure or [""] * 3)[2]
    assert kept < 2**21


def test_a_snapshot_does_not_change(simulated: Simulation) -> None:
    """A published snapshot does not change during later polls."""
    simulated.stage.add("web")
    poller = poller_for(simulated.url)
    first = poller.poll()
    before = repr(first)

    simulated.stage.change("web", state="exited")
    poller.poll()

    assert before == repr(first)
    assert poller.snapshot is not first


def test_the_loop_polls_until_it_is_stopped(simulated: Simulation) -> None:
    """The loop polls until it is stopped, and then publishes nothing more.

    Otherwise the exporter's end would look like an outage of Docker.
    """
    stop = Event()
    poller = poller_for(simulated.url, stop)
    poller.settings = poller.settings._replace(poll_interval=0.01)
    loop = Thread(target=poller.run)
    loop.start()
    wait_for(lambda: simulated.asked("list") >= 2, what="two polls")

    stop.set()
    loop.join(10)

    assert not loop.is_alive()
    last = poller.snapshot
    assert last is poller.poll()


def test_an_internal_error(simulated: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """An internal error fails polls, is logged once and explained, and its end is logged, too."""
    simulated.stage.add("web")
    poller = poller_for(simulated.url)
    with capture_logs() as logs:
        poller.poll()
        monkeypatch.setattr(poller._collector, "collect", lambda *_: 1 / 0)
        snapshot = [poller.poll() for _ in range(3)][-1]
        monkeypatch.undo()
        found = [poller.poll() for _ in range(2)][-1]

    assert ["docker.found", "poll.failed", "docker.found"] == [
        entry["event"] for entry in logs
    ]
    assert not snapshot.up
    assert snapshot.failure is not None
    assert "unexpected ZeroDivisionError in test_poller" in snapshot.failure.detail
    assert {"success": 1, "failure": 3} == snapshot.counts.polls
    assert found.up


def test_an_error_of_what_publishes(simulated: Simulation) -> None:
    """An error while a snapshot is published is logged once, and polls go on."""
    poller = poller_for(simulated.url)
    poller._on_poll = lambda _: 1 / 0

    with capture_logs() as logs:
        snapshot = [poller.poll() for _ in range(3)][-1]

    assert snapshot.up
    assert ["snapshot.not_published"] == [
        entry["event"] for entry in logs if entry["log_level"] == "error"
    ]


def test_docker_found(simulated: Simulation) -> None:
    """The line on a found engine has its name, API version, mode and number of watched containers."""
    simulated.stage.add("web")
    simulated.stage.add("other", labels={})

    with capture_logs() as logs:
        poller_for(simulated.url).poll()

    (found,) = [entry for entry in logs if entry["event"] == "docker.found"]
    assert ("Docker", "1.52", "list", 1) == tuple(
        found[key] for key in ("engine", "api_version", "mode", "watched")
    )


def test_since_and_failure(simulated: Simulation) -> None:
    """`since` is the time of the last change between up and down; `failure` lasts until Docker is up."""
    poller = poller_for(simulated.url)
    up = [poller.poll() for _ in range(2)]
    simulated.faults = {"ping": answers("503 Service Unavailable", "")}
    down = [poller.poll() for _ in range(2)]
    simulated.faults = {}
    again = poller.poll()

    assert (
        up[0].since
        == up[1].since
        < down[0].since
        == down[1].since
        < again.since
        <= time.time()
    )
    assert [None, "unreachable"] == [up[1].failure, down[1].failure and down[1].failure.reason]
    assert again.failure is None
