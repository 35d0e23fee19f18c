"""The exporter as a process during faults of real engines and of a real socket proxy, and after them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from docker import APIClient

from docker_prom_exporter.demo import WATCH
from support.exporters import exporter
from support.missing import give_up
from support.proxies import SETTINGS, Proxy, all_but
from support.real import DOCKER_20, DOCKER_26, NO_NETWORK, Engine, EngineUnavailableError, Kind
from support.waiting import wait_for
from support.watching import Watch, errors, watched

STALE_AFTER = 3 * 0.5 + 2 * 1
"""Seconds after which a poll is too old to trust, with the interval and timeout of the tests."""


class Place:
    """An engine, a symbolic link to its socket, a socket proxy before it, and the exporter's watch."""

    watch: Watch

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.link = folder / "docker.sock"
        self.link.symlink_to(engine.listen)
        self.proxy = Proxy(folder, engine.listen)

    def deny(self, *endpoints: str) -> None:
        """Start the proxy anew with all but these endpoints, once its end was noticed."""
        self.proxy.stop()
        self.watch.shows(docker_up=0, web=0)
        self.proxy.start(all_but(*endpoints))

    def allow(self) -> None:
        """Start the proxy anew with all endpoints."""
        self.proxy.stop()
        self.proxy.start()


class Fault(NamedTuple):
    """How a fault begins and ends, what is reported meanwhile, and one line of the log.

    `by` is what the exporter connects to: `engine`, `link` or `proxy`. `reason` is that of the
    failed requests, if they can have only one. `setting` is the remedy that the log names.
    """

    begin: Callable[[Place], object]
    end: Callable[[Place], object]
    by: str = "engine"
    up: float = 0
    line: str = "event=docker.lost"
    reason: str = ""
    setting: str = ""


def denies(*endpoints: str, setting: str, up: float = 0) -> Fault:
    """Return the fault of a proxy that denies endpoints; the first that is asked is reported."""
    return Fault(
        lambda place: place.deny(*endpoints),
        lambda place: place.allow(),
        by="proxy",
        up=up,
        line=f"endpoint={endpoints[0]} reason=denied ",
        setting=setting,
    )


def kill_and_unlink(place: Place) -> None:
    place.engine.kill()
    place.engine.listen.unlink()


def unlink_and_freeze(place: Place) -> None:
    """Remove the link while no connection can be kept."""
    place.link.unlink()
    place.engine.pause()


def resume_and_link(place: Place) -> None:
    place.engine.resume()
    place.link.symlink_to(place.engine.listen)


KILLED = Fault(lambda place: place.engine.kill(), lambda place: place.engine.start())
STUCK = Fault(lambda place: place.engine.pause(), lambda place: place.engine.resume())
FAULTS = {
    "its socket is made anew": KILLED._replace(begin=kill_and_unlink),
    "its socket is gone": Fault(unlink_and_freeze, resume_and_link, "link"),
    "behind a proxy": KILLED._replace(by="proxy", reason="unreachable"),
    "the proxy is killed": Fault(
        lambda place: place.proxy.stop(), lambda place: place.proxy.start(), "proxy"
    ),
    # With only the list denied, the engine answers. The version is requested only to connect.
    "list denied": denies("list", setting="CONTAINER_LIST=1", up=1),
    "ping denied": denies("ping", setting="PING=1"),
    "version denied": denies("version", setting="VERSION=1"),
    "all denied": denies(*SETTINGS, setting="VERSION=1"),
}


def tell(fault: Fault, engine: Engine, folder: Path) -> None:
    """Run the exporter through a fault: it reports the fault, says so once, and recovers by itself."""
    place = Place(engine, folder)
    engine.run("web", health="healthy", labels=WATCH)
    place.proxy.start()
    urls = {"engine": engine.url, "link": f"unix://{place.link}", "proxy": place.proxy.url}
    try:
        with watched(urls[fault.by], "--docker-timeout=1") as watch:
            place.watch = watch
            watch.shows(docker_up=1, web=4)
            fault.begin(place)
            watch.shows(docker_up=fault.up, web=0)
            await_staleness(watch)
            scrape = watch.shows(docker_up=fault.up, web=0)
            healthy, _ = watch.client.get("/-/healthy")
            log = watch.client.exporter.stderr
            fault.end(place)
            wait_for(engine.answers, what=f"{engine.name} to answer again")
            # Docker's containers end with it, those of Podman run on.
            watch.recovers(docker_up=1, web=4 if engine.state("web") == "running" else 1)
    finally:
        place.proxy.stop()

    assert 200 == healthy
    assert 1 == log.count(fault.line)
    assert fault.setting in log
    assert not fault.reason or {fault.reason} == {reason for _, reason in errors(scrape)}


def await_staleness(watch: Watch) -> None:
    """Wait until the last successful poll is too old to trust."""

    def is_stale() -> bool:
        last = watch.scrape().value("docker_exporter_last_success_timestamp_seconds")
        return time.time() - (last or 0) > STALE_AFTER

    wait_for(is_stale, what="the last success to be stale")


@pytest.mark.parametrize("fault", [KILLED, STUCK], ids=["killed", "stuck"])
def test_an_engine_that_goes_and_comes(
    fault: Fault, oldest_or_newest: Engine, tmp_path: Path
) -> None:
    """While any engine is gone or stuck, container health is 0; afterwards it is as the engine says."""
    tell(fault, oldest_or_newest, tmp_path)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(name: str, docker_26: Engine, tmp_path: Path) -> None:
    """A fault between exporter and Docker is reported, logged once with its remedy, and passes."""
    tell(FAULTS[name], docker_26, tmp_path)


def test_absent_at_start(docker_26: Engine) -> None:
    """The exporter serves docker_up 0 before an engine is started, logs it once, and finds the engine."""
    docker_26.kill()
    docker_26.listen.unlink()
    with watched(docker_26.url) as watch:
        watch.shows(docker_up=0)
        watch.polls_pass(2)
        log = watch.client.exporter.stderr
        docker_26.start()
        docker_26.run("web", labels=WATCH)
        watch.recovers(docker_up=1, web=2)

    assert (1, 0) == (log.count("event=docker.lost"), log.count("event=docker.found"))


@pytest.fixture
def proxy(docker_26: Engine, tmp_path: Path) -> Iterator[Proxy]:
    docker_26.run("web", health="healthy", labels=WATCH)
    proxy = Proxy(tmp_path, docker_26.listen)
    yield proxy
    proxy.stop()


def test_inspect_denied(proxy: Proxy) -> None:
    """Without inspects, health comes from the list, details are missing, and one warning is logged."""
    proxy.start(all_but("inspect"))
    with watched(proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        scrape = watch.polls_pass(2)
        log = watch.client.exporter.stderr

    assert {("inspect", "denied")} == errors(scrape).keys()
    assert 0 == scrape.value("docker_exporter_polls_total", result="failure")
    assert {"container_health", "state", "health_status"} == scrape.container("web").keys()
    assert 1 == log.count("event=containers.details_missing ")
    assert "CONTAINER_INSPECT=1 or CONTAINERS=1" in log


@pytest.mark.parametrize("keep_alive", ["1ms", "500ms"])
def test_idle_connections_cut(proxy: Proxy, keep_alive: str) -> None:
    """A proxy that cuts idle connections fails no poll, even if it cuts at the moment of the next poll."""
    proxy.start(keep_alive=keep_alive)
    with watched(proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        scrape = watch.polls_pass(6)
        watch.shows(docker_up=1, web=4)

    assert 0 == scrape.value("docker_exporter_polls_total", result="failure")


def test_fifty_containers_come_and_go(docker_26: Engine) -> None:
    """Containers that come and go during polls cause no wrong value, no leftover series and no failed poll.

    Only an inspect may time out: a busy machine may take over two seconds to start or remove a container.
    """
    with watched(docker_26.url) as watch:
        watch.shows(docker_up=1)
        with ThreadPoolExecutor(1) as pool:
            churning = pool.submit(_churn, docker_26)
            values: set[float] = set()
            while not churning.done():
                values |= set(watch.scrape().by("name", "container_health").values())
            churning.result()
        scrape = watch.recovers(docker_up=1)

    assert errors(scrape).keys() <= {("inspect", "timeout")}
    assert 0 == scrape.value("docker_exporter_polls_total", result="failure")
    assert values <= {1, 2}
    assert 1 in values


def _churn(docker: Engine) -> None:
    containers = docker.crowd(running=10, created=40, labels=WATCH)
    with closing(APIClient(base_url=docker.url, version="1.41")) as api:
        for container in containers:
            api.remove_container(container, force=True)


def test_restarted_with_live_restore() -> None:
    """Containers keep running during a dockerd restart with live-restore, and have the same samples after."""
    with engine_of(replace(DOCKER_26, options=(*NO_NETWORK, "--live-restore"))) as engine:
        engine.run("web", health="healthy", labels=WATCH)
        with watched(engine.url) as watch:
            started = watch.shows(docker_up=1, web=4).container("web")
            engine._daemon.terminate()
            watch.shows(docker_up=0, web=0)
            engine.start()
            engine.await_health("web", "healthy")
            scrape = watch.recovers(docker_up=1, web=4)

        assert started == scrape.container("web")


@contextmanager
def engine_of(kind: Kind, listen: Path | None = None) -> Iterator[Engine]:
    """Yield a running engine of the test's own; remove it afterwards."""
    engine = Engine(kind, listen=listen)
    try:
        engine.start()
        yield engine
    except EngineUnavailableError as error:
        give_up(str(error))
    finally:
        engine.stop()


def test_serves(engine: Engine) -> None:
    """The first scrape has the engine's version and the container's health."""
    engine.run("web", health="healthy", labels=WATCH)
    with exporter(f"--docker-host={engine.url}") as running:
        first = running.metrics()
    (version,) = first.by("version", "docker_engine_info")

    assert 1 == first.value("docker_up")
    assert {"web": 4} == first.by("name", "container_health")
    assert version.startswith(engine.name.split("-")[1])


@pytest.mark.usefixtures("docker_20", "docker_26")
def test_upgraded(tmp_path: Path) -> None:
    """After an upgrade on the same socket, the exporter uses the new API version and drops old containers."""
    listen = tmp_path / "engine.sock"
    seen: list[str] = []
    with watched(f"unix://{listen}") as watch:
        for kind in (DOCKER_20, DOCKER_26):
            with engine_of(kind, listen) as engine:
                engine.run(kind.version, health="healthy", labels=WATCH)
                scrape = watch.shows(**{"docker_up": 1, kind.version: 4})
                seen += scrape.by("api_version", "docker_engine_info")

    assert ["1.41", "1.45"] == seen
