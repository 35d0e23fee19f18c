"""What polls cost a real engine: as the engine is asked, which is also what the exporter counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    """Polls an engine through a forwarder, and tells what that costs."""

    def __init__(self, engine: Forwarder, **options: Any) -> None:
        self.scrape = Scrape({})
        self._engine = engine
        self._scrape = scraper(engine.url, **options)

    def poll(self, times: int = 1) -> dict[str, float]:
        """Poll, and return the requests the engine saw; the exporter must have counted the very same."""
        before = self._counted()
        seen = self._engine.asked(lambda: self._poll(times))
        asked = {NAMES.get(request, request): float(count) for request, count in seen.items()}
        counted = {name: count - before.get(name, 0) for name, count in self._counted().items()}

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


def test_two_hundred_containers(docker: Engine) -> None:
    """A poll costs a ping and a list; a container that was restarted in between costs one inspect."""
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

    assert {"version": 1, "inspect": 200} | STEADY == first
    assert {"ping": 10, "list": 10} == steady
    assert {"inspect": 1} | STEADY == restarted
    started = "docker_container_started_timestamp_seconds"
    changed = {
        name for name, value in after.by("name", started).items() if before.by("name", started)[name] != value
    }
    assert {"crowd-7"} == changed
    assert 200 == len(before.by("name", "container_health"))
    assert before.by("name", "container_health") == after.by("name", "container_health")


def test_changes_cost_an_inspect_each(docker: Engine) -> None:
    """One inspect for each container whose state or health changed, none for a new name or a removal."""
    for name in ("killed", "paused", "renamed", "removed", "other"):
        docker.run(name, labels=WATCH)
    docker.run("sick", health="healthy", labels=WATCH)
    docker.await_settled()
    with metered(docker) as meter:
        meter.poll()
        docker.cli("kill", "killed")
        docker.cli("pause", "paused")
        docker.cli("rename", "renamed", "anew")
        docker.cli("rm", "--force", "removed")
        docker.set_health("sick", healthy=False)
        docker.await_state("killed", "exited")
        changed = meter.poll()
        docker.await_settled()
        meter.poll()
        steady = meter.poll()
        healths = meter.scrape.by("name", "container_health")

    assert {"inspect": 3} | STEADY == changed
    assert STEADY == steady
    assert {"killed": 1, "paused": 1, "anew": 2, "other": 2, "sick": 3} == healths


def test_without_details_docker_is_never_inspected(docker: Engine) -> None:
    """Not even for containers whose health changes."""
    docker.run("web", health="unhealthy", labels=WATCH)
    with metered(docker, container_details=False) as meter:
        first = meter.poll()
        docker.set_health("web", healthy=True)
        second = meter.poll()

    assert {"version": 1} | STEADY == first
    assert STEADY == second
    assert 4 == meter.scrape.value("container_health", name="web")


def test_podman_is_inspected_for_what_runs(podman: Engine) -> None:
    """Its list hides health: in a steady state running containers cost an inspect, the others nothing."""
    podman.crowd(running=3, created=9, labels=WATCH)
    podman.run("ended", command=["true"], labels=WATCH)
    podman.await_state("ended", "exited")
    podman.await_settled()
    with metered(podman) as meter:
        first = meter.poll()
        steady = meter.poll(times=10)

    assert {"version": 1, "inspect": 13} | STEADY == first
    assert {"ping": 10, "list": 10, "inspect": 30} == steady
