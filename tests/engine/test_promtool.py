"""Prometheus itself has nothing to say against the exposition."""

import os
import shutil
import subprocess

import pytest

from docker_prom_exporter.metrics import Exposition
from support.builders import gallery, snapshot


@pytest.mark.parametrize("listed", [True, False])
def test_promtool_is_silent(*, listed: bool) -> None:
    """`promtool check metrics` reads all of it and finds no fault, nor a name to be better chosen."""
    promtool = shutil.which("promtool")
    if promtool is None and not os.environ.get("CI"):
        pytest.skip("promtool is not on PATH: install Debian's prometheus")
    exposition = Exposition(lambda: snapshot(*gallery(), listed=listed), lambda: 101.0)
    checked = subprocess.run(
        [promtool or "promtool", "check", "metrics"],
        input=b"".join(exposition.render().body),
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert (0, b"") == (checked.returncode, checked.stdout + checked.stderr)
