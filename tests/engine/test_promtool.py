"""promtool accepts the exposition of containers in every state."""

import pytest

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from support.builders import gallery, snapshot
from support.promtool import faults_of


@pytest.mark.parametrize(
    "changes",
    [{}, {"listed": False}, {"up": False, "listed": False}],
    ids=["up", "list denied", "lost"],
)
def test_promtool_is_silent(changes: dict[str, bool]) -> None:
    """`promtool check metrics` reports neither an error nor a bad name in the exposition."""
    exposition = Exposition(clock=lambda: 101.0)
    exposition.publish(SnapshotMetrics().families_of(snapshot(*gallery(), **changes)))

    assert [] == faults_of(exposition.render().body)
