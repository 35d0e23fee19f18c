"""promtool checks the rules for a registry's storage."""

import re
import shutil
from pathlib import Path

import pytest

from support.machine import COMPOSE
from support.missing import require_program
from support.processes import Command, CommandError

RULES = COMPOSE / "prometheus/registry_rules.yml"
TESTS = COMPOSE / "prometheus/registry_rules_test.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
CHANGES = [
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
]


def promtool(*arguments: str) -> str:
    """Run promtool and return its output; CommandError holds its error messages."""
    return Command([require_program("promtool"), *arguments], {}).run()


def test_each_firing_and_each_silence() -> None:
    """The rules pass their promtool tests."""
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is(alert: str) -> None:
    """Each alert has a duration, a severity, the instance's name and a description."""
    text = RULES.read_text().partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]

    assert re.search(r"^ {8}for: \d+[mh]$", text, re.MULTILINE)
    assert re.search(r"^ {10}severity: (critical|warning|info)$", text, re.MULTILINE)
    assert "{{ $labels.instance }}" in text
    assert "description:" in text


@pytest.mark.parametrize(("was", "becomes"), CHANGES, ids=[was for was, _ in CHANGES])
def test_a_changed_rule_is_found_out(tmp_path: Path, was: str, becomes: str) -> None:
    """The promtool tests fail when a rule's condition is removed or changed."""
    changed = RULES.read_text().replace(was, becomes)
    (tmp_path / RULES.name).write_text(changed)
    shutil.copy(TESTS, tmp_path)

    assert changed != RULES.read_text()
    with pytest.raises(CommandError, match="exit 1"):
        promtool("test", "rules", str(tmp_path / TESTS.name))
