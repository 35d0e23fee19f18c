"""The requests of a poll to a real engine, as the engine receives them and as the exporter counts them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from docker_prom_exporter.demo import WATCH
from support.expositions import Scrape, scraper
from support.forwarder import Forwarder, forwarder
from support.real import Engine

STEADY = {"ping": 1, "list": 1}

NAMES = {
    "GET /version": "version",
    "GET /_ping": "ping",
    "GET /containers/json": "list",
    "GET /containers/{id}/json": "inspect",
}


class Meter:
    """Polls an engine through a forwarder and counts the requests."""

    def __init__(self, engine: Forwarder, **options: Any) -> None:
        self.scrape = Scrape({})
        self._engine = engine
        self._scrape = scraper(engine.url, **options)

    def poll(self, times: int = 1) -> dict[str, float]:
        """Poll and return the requests that the engine received; the exporter must have counted the same."""
        before = self._counted()
        seen = self._engine.asked(lambda: self._poll(times))
        asked = {NAMES.get(request, request): float(count) for request, count in seen.items()}
        counted = {
            name: count - before.get(name, 0) for name, count in self._counted().items()
        }

        assert asked == {name: count for name, count in counted.items() if count}
        return asked

    def _poll(self, times: int) -> None:
        for _ in range(times):
            self.scrape = self._scrape()

    def _counted(self) -> dict[str, float]:
        return self.scrape.by("endpoint", "docker_exporter_api_requests_total")


@contextmanager
def metered(engine: Engine, **options: Any) -> Iterator[Meter]:
    """Yield a meter for an engine."""
    with forwarder(engine.listen) as server:
        yield Meter(server, **options)


@pytest.fixture(autouse=True)
def no_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the rotation of inspects, whose number depends on the time that has passed."""
    monkeypatch.setattr("docker_prom_exporter.collect.list_mode._MAX_AGE", math.inf)


def test_two_hundred_containers(docker_20_or_28: Engine) -> None:
    """A steady poll of 200 containers costs a ping and a list; a restarted container adds an inspect."""
    docker = docker_20_or_28
    docker.crowd(running=20, created=179, labels=WATCH)
    docker.run("web", health="healthy", labels=WATCH)
    docker.await_settled()
    with metered(docker) as meter:
        first = meter.poll()
        steady = meter.poll(times=10)
        before = meter.scrape
        docker.cli("restart", "crowd-7")
        restarted = meter.poll()
        after = meter.scrape

    assert {"version": 1, "ping": 1, "list": 2, "inspect": 200} == first
    assert {"ping": 10, "list": 10} == steady
    assert {"inspect": 1} | STEADY == restarted
    started = "docker_container_started_timestamp_seconds"
    changed = {
        name
        for name, value in after.by("name", started).items()
        if before.by("name", started)[name] != value
    }
    assert {"crowd-7"} == changed
    assert 200 == len(before.by("name", "container_health"))
    assert before.by("name", "container_health") == after.by("name", "container_health")


def test_changes_cost_an_inspect_each(docker_with_graph_driver: Engine) -> None:
    """A poll inspects each container whose list row has changed, and makes no inspect after a removal."""
    docker = docker_with_graph_driver
    for name in ("killed", "paused", "renamed", "removed", "other"):
        docker.run(name, labels=WATCH)
    docker.run("sick", health="healthy", labels=WATCH)
    docker.await_settled()
    with metered(docker) as meter:
        meter.poll()
        docker.cli("kill", "killed")
        docker.pause_containers("paused")
        docker.cli("rename", "renamed", "anew")
        docker.cli("rm", "--force", "removed")
        docker.set_health("sick", healthy=False)
        docker.await_state("killed", "exited")
        changed = meter.poll()
        docker.await_settled()
        meter.poll()
        steady = meter.poll()
        healths = meter.scrape.by("name", "container_health")

    assert {"inspect": 4} | STEADY == changed
    assert STEADY == steady
    assert {"killed": 1, "paused": 1, "anew": 2, "other": 2, "sick": 3} == healths


def test_without_details_docker_is_never_inspected(docker: Engine) -> None:
    """With CONTAINER_DETAILS=false the exporter never inspects a container, even when its health changes."""
    docker.run("web", health="unhealthy", labels=WATCH)
    with metered(docker, container_details=False) as meter:
        first = meter.poll()
        docker.set_health("web", healthy=True)
        second = meter.poll()

    assert {"version": 1} | STEADY == first
    assert STEADY == second
    assert 4 == meter.scrape.value("container_health", name="web")


def test_where_a_list_is_expensive_each_is_inspected(with_expensive_list: Engine) -> None:
    """In inspect mode each poll inspects every watched container once, in any state, and makes one list."""
    engine = with_expensive_list
    engine.crowd(running=3, created=9, labels=WATCH)
    engine.run("ended", command=["true"], labels=WATCH)
    engine.await_state("ended", "exited")
    with metered(engine) as meter:
        first = meter.poll()
        steady = meter.poll(times=10)

    assert {"version": 1, "inspect": 13} | STEADY == first
    assert {"ping": 10, "list": 10, "inspect": 130} == steady
