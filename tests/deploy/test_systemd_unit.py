"""systemd-analyze checks the systemd unit and its drop-in."""

import re
import shutil
from pathlib import Path

import pytest

from support.machine import COMPOSE
from support.missing import require_program
from support.processes import Command
from support.real import SYSTEM_PATH


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return a copy of the unit, with its drop-in for the docker group."""
    require_program("systemd-analyze", SYSTEM_PATH)
    file = tmp_path / "docker-prom-exporter.service"
    shutil.copy(COMPOSE / file.name, file)
    folder = tmp_path / f"{file.name}.d"
    folder.mkdir()
    shutil.copy(COMPOSE / "docker-group.conf", folder)
    return file


def test_the_unit_exposes_little(unit: Path) -> None:
    """systemd-analyze rates the exposure of the service below 1.5 of 10."""
    analyze = Command(["systemd-analyze"], {"PATH": SYSTEM_PATH})
    report = analyze.run(
        "security", "--offline=true", "--threshold=15", "--no-pager", str(unit)
    )

    assert "OK" in report.splitlines()[-1]
    assert re.search(r"✓ DynamicUser", report) or "✓ User=/DynamicUser=" in report
    assert not re.search(r"✗ CapabilityBoundingSet", report)


def test_the_unit_is_understood(unit: Path) -> None:
    """systemd-analyze has nothing to report on the unit when its program exists."""
    program = unit.parent / "docker-prom-exporter"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit.write_text(re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={program}", unit.read_text()))
    analyze = Command(
        ["sh", "-c", 'systemd-analyze verify --man=no "$1" 2>&1', "sh"], {"PATH": SYSTEM_PATH}
    )

    assert "" == analyze.run(str(unit))
    assert "\nTasksMax=96\n" in unit.read_text()
