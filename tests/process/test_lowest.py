"""The exporter with the lowest versions of its libraries that `pyproject.toml` allows."""

import sys
from pathlib import Path

from support.expositions import parse
from support.gateway import fake_gateway
from support.processes import output_of
from support.simulated import Simulation

REPOSITORY = Path(__file__).parent.parent.parent


def test_the_lowest_versions_work(simulated: Simulation, tmp_path: Path) -> None:
    """With the lowest versions `once` polls, prints, and pushes to a group whose name has a space."""
    uv, venv = Path(sys.executable).with_name("uv"), tmp_path / "venv"
    python = venv / "bin/python"
    output_of([uv, "venv", "--python", sys.executable, venv])
    output_of(
        [uv, "pip", "install", "--python", python, "--resolution=lowest-direct", REPOSITORY]
    )
    with fake_gateway() as gateway:
        push = [f"--push-url={gateway.url}", "--push-instance=my host"]
        once = [f"{venv}/bin/docker-prom-exporter", "once", f"--docker-host={simulated.url}"]
        printed = output_of([*once, *push])

    (asked,) = gateway.asked
    assert 1 == parse(printed).value("docker_up")
    assert 4 == asked.scrape.value("container_health", name="web")
    assert "/metrics/job/docker_prom_exporter/instance@base64/bXkgaG9zdA==" == asked.path
