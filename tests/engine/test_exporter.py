"""The exporter as a process with real engines that start, end, change and get stuck, and its own end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_prom_exporter.demo import WATCH
from support.exporters import Exporter, exporter
from support.expositions import Scrape, scraper
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
    """Return the first scrape whose `docker_up` is `up`; each scrape must be answered at once."""
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
