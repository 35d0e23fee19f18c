"""promtool checks the rules for pushed hosts, expected services and a registry's storage."""

import re
import shutil
from pathlib import Path

import pytest

from support.machine import COMPOSE
from support.processes import CommandError
from support.promtool import promtool

RULES = COMPOSE / "prometheus"
REGISTRY = (RULES / "registry_rules.yml").read_text()

# What is changed in which file of rules.
CHANGES = {
    "push_rules": [
        ("for: 1m", "for: 9m"),
        ("docker_exporter_gateway_up == 0", "docker_exporter_gateway_up == 2"),
        (" > 180", " > 18000"),
        ("(push_failure_time_seconds > push_time_seconds)", "push_time_seconds"),
        ("push_time_seconds) and on (job, instance) docker_up", "push_time_seconds)"),
        ("keep_firing_for: 5m", "keep_firing_for: 0s"),
    ],
    "expected_rules": [
        ("for: 5m", "for: 1m"),
        ("keep_firing_for: 5m", "keep_firing_for: 5d"),
        ("(instance, compose_project, compose_service)", "(compose_service)"),
        ('and on (instance, job, id) docker_container_state{state="running"} == 1', ""),
        ('alertname=~"DockerDown|', 'alertname=~"'),
        ("DockerExporterDown|", ""),
    ],
    "registry_rules": [
        ("for: 5m", "for: 4m"),
        ("for: 15m", "for: 5m"),
        ("for: 3h", "for: 1h"),
        ('and on (instance, job) last_over_time(docker_registry_up{exported_job=""}[7d])', ""),
        ('{exported_job=""}', ""),
        ("docker_registry_up == 0", "docker_registry_up == 2"),
        ('{reason=~"missing|partial"}', ""),
        ("missing|partial", "missing"),
        ('{reason!~"missing|partial"}', ""),
        ("> 0.5", ">= 0.5"),
        ("unless on (instance, job) docker_registry_scan_errors > 0", ""),
        ("unless on (instance, job) docker_registry_is_cache == 1", ""),
        ("nothing|untagged", "nothing"),
        ("severity: info", "severity: warning"),
    ],
}


@pytest.mark.parametrize("rules", CHANGES)
def test_each_firing_and_each_silence(rules: str) -> None:
    """Each alert fires and resolves in time, as the promtool tests demand."""
    assert "SUCCESS" in promtool("test", "rules", str(RULES / f"{rules}_test.yml"))


@pytest.mark.parametrize(
    ("rules", "was", "becomes"),
    [
        pytest.param(rules, *change, id=f"{rules}: {change[0]}")
        for rules, changes in CHANGES.items()
        for change in changes
    ],
)
def test_a_changed_rule_is_found_out(
    tmp_path: Path, rules: str, was: str, becomes: str
) -> None:
    """The promtool tests fail when a rule's condition is removed or changed."""
    text = (RULES / f"{rules}.yml").read_text()
    for name in ("rules.yml", f"{rules}_test.yml"):
        shutil.copy(RULES / name, tmp_path)
    (tmp_path / f"{rules}.yml").write_text(text.replace(was, becomes))

    assert was in text
    with pytest.raises(CommandError, match="exit 1"):
        promtool("test", "rules", str(tmp_path / f"{rules}_test.yml"))


@pytest.mark.parametrize("alert", re.findall(r"- alert: (\w+)", REGISTRY))
def test_an_alert_says_what_it_is(alert: str) -> None:
    """Each alert about a registry has a duration, a severity, the instance and a description."""
    text = REGISTRY.partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]

    assert re.search(r"^ {8}for: \d+[mh]$", text, re.MULTILINE)
    assert re.search(r"^ {10}severity: (critical|warning|info)$", text, re.MULTILINE)
    assert "{{ $labels.instance }}" in text
    assert "description:" in text
