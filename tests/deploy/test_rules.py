"""What Prometheus and Alertmanager say of their configuration, and of each firing and each silence."""

import re
import shutil
from pathlib import Path

import pytest

from support.machine import COMPOSE
from support.missing import require_program
from support.processes import Command, CommandError
from support.real import SYSTEM_PATH

RULES = COMPOSE / "prometheus/rules.yml"
TESTS = COMPOSE / "prometheus/rules_test.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())


def run(program: str, *args: str) -> str:
    """Run one of the tools; where it isn't installed, skip the test, or fail it in CI."""
    return Command([require_program(program, SYSTEM_PATH)], {"PATH": SYSTEM_PATH}).run(*args)


def test_each_firing_and_each_silence() -> None:
    """The rules' own tests pass."""
    assert "SUCCESS" in run("promtool", "test", "rules", str(TESTS))


@pytest.mark.parametrize("configuration", ["prometheus.yml", "swarm.yml"])
def test_prometheus_takes_its_configuration(configuration: str) -> None:
    """Prometheus' own check finds nothing wrong with the file and its rules."""
    assert "SUCCESS" in run("promtool", "check", "config", str(COMPOSE / "prometheus" / configuration))


def test_alertmanager_takes_its_configuration() -> None:
    """Alertmanager's own check finds nothing wrong with the file."""
    assert "SUCCESS" in run("amtool", "check-config", str(COMPOSE / "alertmanager/alertmanager.yml"))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is(alert: str) -> None:
    """Each alert has a severity, names the container or the instance, and says what to do."""
    text = RULES.read_text().partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]

    assert re.search(r"^ {8}for: \d+m$", text, re.MULTILINE)
    assert re.search(r"^ {10}severity: (critical|warning|info)$", text, re.MULTILINE)
    assert "{{ $labels.instance }}" in text
    assert not alert.startswith("Container") or "$labels.compose_service" in text
    assert "description:" in text


CHANGES = [
    ("for: 2m", "for: 0m"),
    ("for: 15m", "for: 5m"),
    ('up{job="docker"}', "up"),
    ("container_health == 3", "container_health <= 3"),
    ("[15m]) > 4", "[15m]) > 1"),
    ("and increase(docker_container_restarts_total[3m]) > 0", ""),
    ("and docker_container_exit_code != 143", ""),
    ("unless on (instance, job, name) container_health", ""),
    ("and docker_exporter_last_success_timestamp_seconds > 0", ""),
    ("time() - 7200", "time()"),
]


@pytest.mark.parametrize(("was", "becomes"), CHANGES, ids=[was for was, _ in CHANGES])
def test_a_changed_rule_is_found_out(tmp_path: Path, was: str, becomes: str) -> None:
    """The rules' own tests fail when a condition is missing or another."""
    changed = RULES.read_text().replace(was, becomes)
    (tmp_path / RULES.name).write_text(changed)
    shutil.copy(TESTS, tmp_path)

    assert changed != RULES.read_text()
    with pytest.raises(CommandError, match="exit 1"):
        run("promtool", "test", "rules", str(tmp_path / TESTS.name))
