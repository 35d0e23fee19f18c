"""systemd-analyze checks the systemd unit and its drop-in."""

import re
import shutil
from pathlib import Path

import pytest

from support.documents import blocks
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


def test_the_service_may_read_proc_stat() -> None:
    """The unit does not hide `/proc/stat`, without which prometheus-client has no `process_*`."""
    assert "ProcSubset=" not in (COMPOSE / "docker-prom-exporter.service").read_text()


DROP_INS = [
    block.text
    for block in blocks(COMPOSE / "README.md", "ini")
    if block.section == "On a host, without a container"
]


@pytest.mark.parametrize(
    "drop_in", ["", *DROP_INS], ids=["unit", *map(str, range(len(DROP_INS)))]
)
def test_the_unit_is_understood(unit: Path, drop_in: str) -> None:
    """systemd-analyze has nothing to report on the unit and each documented drop-in."""
    program = unit.parent / "docker-prom-exporter"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit.write_text(re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={program}", unit.read_text()))
    (unit.parent / f"{unit.name}.d" / "override.conf").write_text(drop_in)
    analyze = Command(
        ["sh", "-c", 'systemd-analyze verify --man=no "$1" 2>&1', "sh"], {"PATH": SYSTEM_PATH}
    )

    assert "" == analyze.run(str(unit))
    assert "\nTasksMax=96\n" in unit.read_text()


def test_there_is_a_drop_in_for_each_restriction() -> None:
    """The documents say how to serve, to ask a remote engine, to push and to write a file."""
    for variable in ("LISTEN_ADDR", "DOCKER_HOST", "PUSH_URL", "TEXTFILE"):
        assert 1 == sum(f"{variable}=" in drop_in for drop_in in DROP_INS)
