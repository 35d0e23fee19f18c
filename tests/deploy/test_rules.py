"""promtool and amtool check the alert rules and the configurations."""

import re
from pathlib import Path

import pytest

from support.machine import COMPOSE
from support.missing import require_program
from support.processes import Command, CommandError
from support.real import SYSTEM_PATH

RULES = COMPOSE / "prometheus/rules.yml"
TESTS = COMPOSE / "prometheus/rules_test.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
ALERTMANAGER = COMPOSE / "alertmanager"


def run(program: str, *args: str) -> str:
    """Run promtool or amtool and return its output; if it is missing, skip the test, or fail it in CI."""
    return Command([require_program(program, SYSTEM_PATH)], {"PATH": SYSTEM_PATH}).run(*args)


def run_tests(folder: Path, rules: str, tests: str) -> str:
    """Run promtool's tests of these rules and return its output; CommandError holds the failures."""
    (folder / RULES.name).write_text(rules)
    (folder / TESTS.name).write_text(tests)
    return run("promtool", "test", "rules", str(folder / TESTS.name))


@pytest.mark.parametrize("job", ["docker", "engines"])
def test_each_firing_and_each_silence(tmp_path: Path, job: str) -> None:
    """The rules' own tests pass, whatever the exporters' job is called."""
    renamed = re.sub(r'(job=")docker(?=")|(job: )docker\b', rf"\1\2{job}", TESTS.read_text())

    assert "SUCCESS" in run_tests(tmp_path, RULES.read_text(), renamed)


@pytest.mark.parametrize("configuration", ["prometheus.yml", "swarm.yml"])
def test_prometheus_takes_its_configuration(configuration: str) -> None:
    """`promtool` accepts the configuration and its rule files."""
    assert "SUCCESS" in run("promtool", "check", "config", str(COMPOSE / "prometheus" / configuration))


@pytest.mark.parametrize("configuration", ["alertmanager.yml", "by-team.yml"])
def test_alertmanager_takes_its_configuration(configuration: str) -> None:
    """`amtool` accepts the configuration."""
    assert "SUCCESS" in run("amtool", "check-config", str(ALERTMANAGER / configuration))


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["team=shop", "severity=critical"], "shop-on-call"),
        (["team=shop", "severity=warning"], "shop"),
        (["team=shop", "severity=info"], "nobody"),
        (["team=search", "severity=critical"], "search"),
        (["team=unheard-of", "severity=critical"], "operations-on-call"),
        (["severity=warning"], "operations"),
    ],
)
def test_an_alert_goes_to_its_team(labels: list[str], receiver: str) -> None:
    """An alert goes to its team's receiver, and without a known team to operations."""
    config = f"--config.file={ALERTMANAGER / 'by-team.yml'}"

    assert receiver == run("amtool", "config", "routes", "test", config, *labels)


def test_both_alertmanagers_inhibit_alike() -> None:
    """Both Alertmanager configurations have the same inhibition rules."""
    one, other = (
        (ALERTMANAGER / name).read_text().partition("inhibit_rules:")[2]
        for name in ("alertmanager.yml", "by-team.yml")
    )

    assert one == other


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is(alert: str) -> None:
    """Each alert has a duration, a severity, the instance's or service's name and a description."""
    text = RULES.read_text().partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]

    assert re.search(r"^ {8}for: \d+m$", text, re.MULTILINE)
    assert re.search(r"^ {10}severity: (critical|warning|info)$", text, re.MULTILINE)
    assert "{{ $labels.instance }}" in text
    assert not alert.startswith("Container") or "$labels.compose_service" in text
    assert "description:" in text


CHANGES = [
    ("for: 2m", "for: 0m"),
    ("for: 15m", "for: 5m"),
    ("for: 30m", "for: 5m"),
    ('and on (instance, job) last_over_time(docker_up{exported_job=""}[7d])', ""),
    ("[7d]", "[1d]"),
    ('docker_up{exported_job=""}', "docker_up"),
    ("container_health == 3", "container_health <= 3"),
    ("[15m]) > 4", "[15m]) > 1"),
    ("and increase(docker_container_restarts_total[3m]) > 0", ""),
    ("and docker_container_exit_code != 143", ""),
    ("and docker_container_finished_timestamp_seconds > time() - 86400", ""),
    ("docker_container_finished_timestamp_seconds <= time() - 86400", "docker_container_exit_code < 0"),
    ("              and docker_container_exit_code\n            )", "            )"),
    ('{policy=~"always|unless-stopped"}', ""),
    ('{state=~"exited|dead"} == 1', " == 1"),
    ('{state=~"exited|dead"} == 1', '{state=~"exited|dead"}'),
    ("or on (instance, job, id) docker_container_info", ""),
    ("on (instance, job, id) group_left (team)", "on (instance, job, id) group_left ()"),
    ("unless on (instance, job, name) container_health", ""),
    ("and docker_exporter_last_success_timestamp_seconds > 0", ""),
    ("time() - 7200", "time()"),
]


def quick(tests: str) -> str:
    """Leave out the tests of a day and more, which take promtool seconds."""
    head, *groups = re.split(r"^(?=  - )", tests, flags=re.MULTILINE)
    return head + "".join(group for group in groups if not re.search(r"eval_time: (\d+d|2\dh)", group))


@pytest.mark.parametrize(("was", "becomes"), CHANGES, ids=[was for was, _ in CHANGES])
def test_a_changed_rule_is_found_out(tmp_path: Path, was: str, becomes: str) -> None:
    """The rules' own tests fail when a condition is missing or another."""
    changed = RULES.read_text().replace(was, becomes)
    tests = TESTS.read_text() if re.search(r"86400|docker_up|7d|\n", was) else quick(TESTS.read_text())

    assert changed != RULES.read_text()
    with pytest.raises(CommandError, match="exit 1"):
        run_tests(tmp_path, changed, tests)
