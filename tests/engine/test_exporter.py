"""The exporter as a process with real engines that start, end, change and get stuck, and its own end."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_prom_exporter.demo import WATCH
from support.exporters import AS_PID_1, Exporter, exporter, run
from support.expositions import Scrape, parse, scraper
from support.forwarder import forwarder
from support.real import DOCKER_20, DOCKER_26, Engine, Kind
from support.waiting import wait_for

# The seconds for which a poll is trusted: three intervals and two timeouts.
TRUSTED_FOR = 3 * 0.5 + 2 * 1


@contextmanager
def engine_at(listen: Path, kind: Kind) -> Iterator[Engine]:
    """Yield an engine on this socket that is not started; remove it afterwards."""
    engine = Engine(kind, listen=listen)
    try:
        yield engine
    finally:
        engine.stop()


def await_up(running: Exporter, *, up: bool, seconds: float = 60) -> Scrape:
    """Return the first scrape whose `docker_up` is `up`; each scrape must be answered within a second."""
    scrapes: list[Scrape] = []

    def turned() -> bool:
        scrapes.append(running.metrics())
        return scrapes[-1].value("docker_up") == up

    wait_for(turned, what=f"docker_up {up:d}", seconds=seconds)
    return scrapes[-1]


def docker_metrics(scrape: Scrape) -> set[str]:
    """Return the names of the metrics about containers and the engine."""
    return {
        name for name, _ in scrape.samples if not name.startswith(("docker_exporter", "p"))
    }


def failures(scrape: Scrape) -> float:
    """Return the number of failed polls."""
    return scrape.by("result", "docker_exporter_polls_total")["failure"]


def test_serves(engine: Engine) -> None:
    """The first scrape has the engine's version and the container's health, and every path has its status."""
    engine.run("web", health="healthy", labels=WATCH)
    with exporter(f"--docker-host={engine.url}") as running:
        first = running.metrics()
        statuses = {
            path: running.get(path)[0]
            for path in ("/ping", "/-/healthy", "/-/ready", "/other")
        }
    (version,) = first.by("version", "docker_engine_info")

    assert 1 == first.value("docker_up")
    assert {"web": 4} == first.by("name", "container_health")
    assert {"/ping": 200, "/-/healthy": 200, "/-/ready": 200, "/other": 404} == statuses
    assert version.startswith(engine.name.split("-")[1])


@pytest.mark.usefixtures("docker_26")
def test_absent_at_start(tmp_path: Path) -> None:
    """The exporter serves without an engine, logs that once, and finds the engine when it starts."""
    with (
        engine_at(tmp_path / "engine.sock", DOCKER_26) as engine,
        exporter(f"--docker-host={engine.url}") as running,
    ):
        absent = running.metrics()
        status = running.get("/-/healthy")[0]
        wait_for(
            lambda: failures(running.metrics()) >= 3, what="three polls without an engine"
        )
        log = running.stderr
        engine.start()
        await_up(running, up=True)

    assert 0 == absent.value("docker_up")
    assert {"docker_up"} == docker_metrics(absent)
    assert 200 == status
    assert (1, 0) == (log.count("event=docker.lost"), log.count("event=docker.found"))


def test_killed_and_started_again(oldest_or_newest: Engine) -> None:
    """While the engine is gone, `container_health` is 0; afterwards it follows the engine's report again."""
    engine = oldest_or_newest
    engine.run("web", health="healthy", labels=WATCH)
    with exporter(f"--docker-host={engine.url}") as running:
        await_up(running, up=True)
        engine.kill()
        lost = await_up(running, up=False)
        wait_for(
            lambda: failures(running.metrics()) >= 3, what="three polls without an engine"
        )
        log = running.stderr
        engine.start()
        await_up(running, up=True)
        state = engine.state("web")
        wait_for(
            lambda: running.metrics().container("web")["state"] == state,
            what=f"the state {state}",
        )
        found = running.metrics()

    assert {"docker_up", "container_health"} == docker_metrics(lost)
    assert {"web": 0} == lost.by("name", "container_health")
    assert {"web": 4 if state == "running" else 1} == found.by("name", "container_health")
    assert 1 == log.count("event=docker.lost")


def test_stuck(oldest_or_newest: Engine) -> None:
    """With a stuck engine `docker_up` is 0 before the last poll is too old; it is 1 a poll after recovery."""
    engine = oldest_or_newest
    engine.run("web", health="healthy", labels=WATCH)
    with exporter(f"--docker-host={engine.url}", "--docker-timeout=1") as running:
        await_up(running, up=True)
        engine.pause()
        stuck = await_up(running, up=False, seconds=TRUSTED_FOR)
        wait_for(
            lambda: failures(running.metrics()) >= 3, what="three polls of a stuck engine"
        )
        healthy = running.get("/-/healthy")[0]
        log = running.stderr
        engine.resume()
        wait_for(engine.answers, what=f"{engine.name} to answer again")
        resumed = running.metrics()
        found = await_up(running, up=True)

    assert {"docker_up", "container_health"} == docker_metrics(stuck)
    assert {"web": 0} == stuck.by("name", "container_health")
    assert 200 == healthy
    assert {"web": 4} == found.by("name", "container_health")
    assert failures(found) <= failures(resumed) + 1
    assert 1 == log.count("event=docker.lost")


@pytest.mark.usefixtures("docker_20", "docker_26")
def test_upgraded(tmp_path: Path) -> None:
    """After an upgrade on the same socket, the exporter uses the new API version and drops old containers."""
    listen = tmp_path / "engine.sock"
    with exporter(f"--docker-host=unix://{listen}") as running:
        with engine_at(listen, DOCKER_20) as old:
            old.start()
            old.run("old", labels=WATCH)
            wait_for(
                lambda: running.metrics().container("old"), what="the old engine's container"
            )
            before = running.metrics()
            old.kill()
            await_up(running, up=False)
        with engine_at(listen, DOCKER_26) as new:
            new.start()
            new.run("new", health="healthy", labels=WATCH)
            wait_for(
                lambda: running.metrics().value("container_health", name="new") == 4,
                what="the new engine's container",
            )
            after = running.metrics()

    assert {"1.41": 1} == before.by("api_version", "docker_engine_info")
    assert {"1.45": 1} == after.by("api_version", "docker_engine_info")
    assert {"new": 4} == after.by("name", "container_health")


@pytest.mark.usefixtures("docker_20", "docker_26")
def test_upgraded_between_two_polls(tmp_path: Path) -> None:
    """The first poll after an upgrade reports the new engine and its containers."""
    listen = tmp_path / "engine.sock"
    scrape = scraper(f"unix://{listen}")
    found = []
    for kind in (DOCKER_20, DOCKER_26):
        with engine_at(listen, kind) as engine:
            engine.start()
            engine.run(kind.name, health="healthy", labels=WATCH)
            found.append(scrape())

    assert ["1.41", "1.45"] == [
        next(iter(each.by("api_version", "docker_engine_info"))) for each in found
    ]
    assert [{"docker-20.10": 4}, {"docker-26.1": 4}] == [
        each.by("name", "container_health") for each in found
    ]


@pytest.mark.parametrize("wrapper", [(), AS_PID_1], ids=["child", "PID 1"])
@pytest.mark.parametrize("stuck", [False, True], ids=["idle", "stuck"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(
    docker_26: Engine, number: signal.Signals, wrapper: Sequence[str], *, stuck: bool
) -> None:
    """A signal ends the exporter within 2 s with exit code 0, also as PID 1 and during a stuck request."""
    with (
        forwarder(docker_26.listen) as server,
        exporter(
            f"--docker-host={server.url}", "--docker-timeout=60", wrapper=wrapper
        ) as running,
    ):
        await_up(running, up=True)
        if stuck:
            docker_26.pause()
            wait_for(lambda: server.unanswered_for > 0.2, what="a request that gets no answer")
        code, seconds = running.stop(number)
        log = running.stderr

    assert 0 == code
    assert seconds < 2
    assert 1 == log.count("event=exporter.stopped")


def test_once(docker_26: Engine) -> None:
    """`once` prints the exposition of one poll and exits with 0."""
    docker_26.run("web", health="unhealthy", labels=WATCH)
    done = run("once", f"--docker-host={docker_26.url}")
    scrape = parse(done.stdout)

    assert 0 == done.returncode
    assert 1 == scrape.value("docker_up")
    assert {"web": 3} == scrape.by("name", "container_health")
    assert "running" == scrape.container("web")["state"]


@pytest.mark.parametrize("stuck", [False, True], ids=["gone", "stuck"])
def test_once_without_an_answer(docker_26: Engine, *, stuck: bool) -> None:
    """`once` prints `docker_up 0` and exits with 1 when the engine is gone or does not answer."""
    if stuck:
        docker_26.pause()
    else:
        docker_26.kill()
    done = run("once", f"--docker-host={docker_26.url}", "--docker-timeout=0.5")
    scrape = parse(done.stdout)

    assert 1 == done.returncode
    assert 0 == scrape.value("docker_up")
    assert {"docker_up"} == docker_metrics(scrape)
