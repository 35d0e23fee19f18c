"""Checks that hold for the exposition whatever an engine answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from structlog.testing import capture_logs

from docker_prom_exporter.exposition import OPENMETRICS, TEXT, Exposition, Format
from docker_prom_exporter.metrics import SnapshotMetrics
from support.expositions import Scrape, parse
from support.simulated import Simulation, answers_json, poller_for, simulation


class Judge:
    """Passes answers through the exporter, from the engine's socket to the exposition, and checks that."""

    def __init__(self, engine: Simulation) -> None:
        self._engine = engine

    def judge(self, listed: Any, inspected: Any) -> Scrape:
        """Have the engine give these answers to each list and inspect; raise AssertionError if a check fails.

        Neither the first poll nor the second, which knows the containers, may raise. Strict parsers must
        accept both formats. A container may only be healthy or unhealthy if an answer has that verdict.
        """
        self._engine.faults = {
            "list": answers_json(listed),
            "inspect": answers_json(inspected),
        }
        poller = poller_for(self._engine.url, container_health_filter_label="false")
        with capture_logs() as logs:
            poller.poll()
            snapshot = poller.poll()
        failures = [entry for entry in logs if entry["event"] == "poll.failed"]
        if failures:
            raise AssertionError(f"the poll raised: {failures}") from failures[0]["exc_info"]
        exposition = Exposition()
        exposition.publish(SnapshotMetrics().families_of(snapshot))
        list(parse_openmetrics(_render(exposition, OPENMETRICS)))  # type: ignore[no-untyped-call]
        scrape = parse(_render(exposition))
        for container, value in scrape.by("id", "container_health").items():
            if value >= 3 and not _is_reported(value, container, listed, inspected):
                raise AssertionError(
                    f"container_health of {container} is {value}, which no answer has"
                )
        return scrape


@contextmanager
def judge(*, podman: bool = False) -> Iterator[Judge]:
    """Yield a judge of the answers of Docker or Podman; its exporter watches all containers."""
    with simulation(podman=podman) as engine:
        yield Judge(engine)


def _render(exposition: Exposition, form: Format = TEXT) -> str:
    return b"".join(exposition.render(form).body).decode()


def _is_reported(value: float, container: str, listed: Any, inspected: Any) -> bool:
    """Whether a row of the container, or its inspect, reports it as running with this verdict."""
    verdict = {3: "unhealthy", 4: "healthy"}[int(value)]
    answers = [answer for answer in (*listed, inspected) if isinstance(answer, dict)]
    return any(
        verdict in _verdicts(answer) for answer in answers if answer.get("Id") == container
    )


def _verdicts(answer: dict[str, Any]) -> list[str]:
    """Return the health in a row or an inspect, in lower case; nothing unless the container is running."""
    inspected = answer["State"] if isinstance(answer.get("State"), dict) else None
    state = answer.get("State") if inspected is None else inspected.get("Status")
    if not isinstance(state, str) or state.lower() not in ("running", "stopping"):
        return []
    health = (answer if inspected is None else inspected).get("Health")
    status = answer.get("Status")
    suffix = status.rpartition("(")[2].rstrip(")") if isinstance(status, str) else ""
    words = [
        health.get("Status") if isinstance(health, dict) else health,
        suffix.removeprefix("health: "),
    ]
    return [word.lower() for word in words if isinstance(word, str)]
