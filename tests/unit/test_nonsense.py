"""Generated answers of an engine: the exporter doesn't crash, and keeps the format.

tests/unit/test_containers.py shows that it invents no health.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from structlog.testing import capture_logs

from docker_prom_exporter.exposition import OPENMETRICS, TEXT, Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from support.expositions import parse
from support.malformed import INSPECTS, ROWS
from support.simulated import Simulation, answers_json, poller_for, simulation


@pytest.fixture(scope="module", params=["Docker", "Podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    with simulation(podman=request.param == "Podman") as engine:
        yield engine


@settings(max_examples=75)
@example(listed=[{"Id": "ab" * 32}], inspected={"RestartCount": -1})
@given(listed=st.lists(ROWS, max_size=4), inspected=INSPECTS)
def test_any_answer(engine: Simulation, listed: list[Any], inspected: Any) -> None:
    """No answer causes a crash or an exposition that strict parsers refuse.

    The second poll knows the containers.
    """
    engine.faults = {"list": answers_json(listed), "inspect": answers_json(inspected)}
    poller = poller_for(engine.url, container_health_filter_label="false")
    with capture_logs() as logs:
        poller.poll()
        snapshot = poller.poll()
    exposition = Exposition()
    exposition.publish(SnapshotMetrics().families_of(snapshot))

    assert [] == [entry for entry in logs if entry["event"] == "poll.failed"]
    for form in (TEXT, OPENMETRICS):
        text = b"".join(exposition.render(form).body).decode()
        parse(text) if form is TEXT else [*parse_openmetrics(text)]  # type: ignore[no-untyped-call]
