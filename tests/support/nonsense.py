"""Any answer an engine might give, and what must hold of the exposition whatever it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from structlog.testing import capture_logs

from docker_prom_exporter.metrics import Exposition
from docker_prom_exporter.poller import Poller
from support.expositions import Scrape, parse
from support.simulated import Simulation, answers_json, poller_for, simulation

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Judge:
    """An exporter's whole way from the engine's socket to the exposition, for one answer after the other."""

    def __init__(self, engine: Simulation, poller: Poller) -> None:
        self._engine = engine
        self._poller = poller
        self._exposition = Exposition(lambda: poller.snapshot)

    def judge(self, listed: Any, inspected: Any) -> Scrape:
        """Have the engine answer this to a list and to each inspect; raise AssertionError where that shows.

        No poll may raise, both formats must be what strict parsers take, and health what the engine said.
        """
        self._engine.rows = lambda _: listed
        self._engine.faults = {"inspect": answers_json(inspected)}
        with capture_logs() as logs:
            self._poller.poll()
        failures = [entry for entry in logs if entry["event"] == "poll.failed"]
        if failures:
            raise AssertionError(f"the poll raised: {failures}") from failures[0]["exc_info"]
        list(parse_openmetrics(self._render(_OPENMETRICS)))  # type: ignore[no-untyped-call]
        scrape = parse(self._render())
        for container, value in scrape.by("id", "container_health").items():
            if value >= 3 and not _is_said(value, container, listed, inspected):
                raise AssertionError(f"{container} is {value}, which nobody said")
        return scrape

    def _render(self, accept: str = "") -> str:
        return b"".join(self._exposition.render(accept).body).decode()


@contextmanager
def judge(*, podman: bool = False) -> Iterator[Judge]:
    """Yield a judge of the answers of a Docker, or of a Podman, all of whose containers are watched."""
    with simulation(podman=podman) as engine:
        yield Judge(engine, poller_for(engine.url, container_health_filter_label="false"))


def _is_said(value: float, container: str, listed: Any, inspected: Any) -> bool:
    """Whether any row of the container, or the inspect, has it running with this verdict."""
    verdict = {3: "unhealthy", 4: "healthy"}[int(value)]
    rows = [row for row in listed if isinstance(row, dict) and row.get("Id") == container]
    return any(_is_running(row.get("State")) and verdict in _words(row, inspected) for row in rows)


def _is_running(state: Any) -> bool:
    return isinstance(state, str) and state.lower() == "running"


def _words(row: dict[str, Any], inspected: Any) -> list[str]:
    """Return where an engine can say a verdict, in lower case."""
    state = inspected.get("State") if isinstance(inspected, dict) else None
    healths = [row.get("Health"), state.get("Health") if isinstance(state, dict) else None]
    words = [health.get("Status") for health in healths if isinstance(health, dict)]
    status = row.get("Status")
    suffix = status.rpartition("(")[2].rstrip(")") if isinstance(status, str) else ""
    words.append(suffix.removeprefix("health: "))
    return [word.lower() for word in words if isinstance(word, str)]
