"""Prometheus itself has nothing to say against the exposition."""

import subprocess

import pytest

from docker_prom_exporter.metrics import Exposition
from support.builders import gallery, snapshot
from support.missing import require_program


@pytest.mark.parametrize("listed", [True, False])
def test_promtool_is_silent(*, listed: bool) -> None:
    """`promtool check metrics` reads all of it and finds no fault, nor a name to be better chosen."""
    promtool = require_program("promtool")
    exposition = Exposition(lambda: snapshot(*gallery(), listed=listed), lambda: 101.0)
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=b"".join(exposition.render().body),
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert (0, b"") == (checked.returncode, checked.stdout + checked.stderr)
