"""promtool accepts the exposition of containers in every state."""

import subprocess

import pytest

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from support.builders import gallery, snapshot
from support.missing import require_program


@pytest.mark.parametrize("listed", [True, False])
def test_promtool_is_silent(*, listed: bool) -> None:
    """`promtool check metrics` reports neither an error nor a bad name in the exposition."""
    promtool = require_program("promtool")
    exposition = Exposition(clock=lambda: 101.0)
    exposition.publish(SnapshotMetrics().families_of(snapshot(*gallery(), listed=listed)))
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=b"".join(exposition.render().body),
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert (0, b"") == (checked.returncode, checked.stdout + checked.stderr)
