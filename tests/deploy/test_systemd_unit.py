"""The systemd unit in the README, as systemd itself judges it."""

import re
from pathlib import Path

import pytest

from support.machine import REPOSITORY
from support.missing import require_program
from support.processes import Command
from support.real import SYSTEM_PATH

README = (REPOSITORY / "README.md").read_text()
UNITS = re.findall(r"^```ini\n(\[(?:Unit|Service)\].*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the README's unit, with its drop-in for the docker group, as files."""
    require_program("systemd-analyze", SYSTEM_PATH)
    service, drop_in = UNITS
    file = tmp_path / "docker-prom-exporter.service"
    file.write_text(service)
    (tmp_path / f"{file.name}.d").mkdir()
    (tmp_path / f"{file.name}.d" / "docker-group.conf").write_text(drop_in)
    return file


def test_the_unit_exposes_little(unit: Path) -> None:
    """Of ten points of exposure the service has less than one and a half."""
    analyze = Command(["systemd-analyze"], {"PATH": SYSTEM_PATH})
    report = analyze.run("security", "--offline=true", "--threshold=15", "--no-pager", str(unit))

    assert "OK" in report.splitlines()[-1]
    assert re.search(r"✓ DynamicUser", report) or "✓ User=/DynamicUser=" in report
    assert not re.search(r"✗ CapabilityBoundingSet", report)


def test_the_unit_is_understood(unit: Path) -> None:
    """Each directive is known, and nothing else is wrong once the program is where it should be."""
    program = unit.parent / "docker-prom-exporter"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit.write_text(re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={program}", unit.read_text()))
    analyze = Command(["sh", "-c", 'systemd-analyze verify "$1" 2>&1', "sh"], {"PATH": SYSTEM_PATH})

    assert "" == analyze.run(str(unit))
