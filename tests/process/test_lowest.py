"""The exporter with the lowest versions of its libraries that `pyproject.toml` allows."""

import os
import subprocess
import sys
from pathlib import Path

from support.expositions import parse
from support.gateway import fake_gateway
from support.simulated import Simulation

REPOSITORY = Path(__file__).parent.parent.parent


def test_the_lowest_versions_work(simulated: Simulation, tmp_path: Path) -> None:
    """With the lowest versions `once` polls, prints, and pushes to a group whose name has a space."""
    uv, venv = Path(sys.executable).with_name("uv"), tmp_path / "venv"
    _run(uv, "venv", "--python", sys.executable, venv)
    _run(
        uv,
        "pip",
        "install",
        "--python",
        venv / "bin/python",
        "--resolution=lowest-direct",
        REPOSITORY,
    )
    with fake_gateway() as gateway:
        push = (f"--push-url={gateway.url}", "--push-instance=my host")
        done = _run(
            venv / "bin/docker-prom-exporter", "once", "--docker-host", simulated.url, *push
        )

    (asked,) = gateway.asked
    assert 1 == parse(done).value("docker_up")
    assert 4 == asked.scrape.value("container_health", name="web")
    assert "/metrics/job/docker_prom_exporter/instance@base64/bXkgaG9zdA==" == asked.path


def _run(*command: str | Path) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=os.environ
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout
