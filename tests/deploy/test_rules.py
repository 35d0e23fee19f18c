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


def test_each_firing_and_each_silence() -> None:
    """The published rules pass their promtool tests."""
    assert "SUCCESS" in run("promtool", "test", "rules", str(TESTS))


def test_the_job_may_have_any_name() -> None:
    """No rule selects series by job."""
    assert re.search(r"\bjob *[=!]", RULES.read_text()) is None


@pytest.mark.parametrize("configuration", ["prometheus.yml", "swarm.yml"])
def test_prometheus_takes_its_configuration(configuration: str) -> None:
    """`promtool` accepts the configuration and its rule files."""
    assert "SUCCESS" in run(
        "promtool", "check", "config", str(COMPOSE / "prometheus" / configuration)
    )


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


def only(scenario: str, tests: str) -> str:
    """Return the tests with only the scenario whose name begins with `scenario`; some take seconds."""
    head, *scenarios = re.split(r"^(?=  - name: )", tests, flags=re.MULTILINE)
    (wanted,) = [each for each in scenarios if each.startswith(f"  - name: {scenario}")]
    return head + wanted


CHANGES = [
    ("for: 2m", "for: 0m", "an exporter that can't be scraped"),
    ("for: 15m", "for: 5m", "a container that does not get healthy"),
    ("for: 30m", "for: 5m", "a container that should always run"),
    (
        'and on (instance, job) last_over_time(docker_up{exported_job=""}[7d])',
        "",
        "a restart of the exporter, and another job's outage",
    ),
    ("[7d]", "[1d]", "an exporter that has been down for days"),
    ('docker_up{exported_job=""}', "docker_up", "a target that was removed"),
    (
        "container_health == 3",
        "container_health <= 3",
        "stopped, plain, unknown and healthy containers",
    ),
    ("[15m]) > 4", "[15m]) > 1", "a container that restarts once a minute"),
    (
        "and increase(docker_container_restarts_total[3m]) > 0",
        "",
        "some failures until the database is there",
    ),
    ("and docker_container_exit_code != 143", "", "a one-shot that succeeded"),
    (
        "and docker_container_finished_timestamp_seconds > time() - 86400",
        "",
        "a one-shot that succeeded",
    ),
    (
        "docker_container_finished_timestamp_seconds <= time() - 86400",
        "docker_container_exit_code < 0",
        "a container that ended for want of memory",
    ),
    (
        "              and docker_container_exit_code\n            )",
        "            )",
        "a container that ended for want of memory",
    ),
    ('{policy=~"always|unless-stopped"}', "", "one-shots, pauses, a short stop"),
    ('{state=~"exited|dead"} == 1', " == 1", "one-shots, pauses, a short stop"),
    (
        '{state=~"exited|dead"} == 1',
        '{state=~"exited|dead"}',
        "a container that should always run",
    ),
    ("or on (instance, job, id) docker_container_info", "", "an alert carries the team"),
    (
        "on (instance, job, id) group_left (team)",
        "on (instance, job, id) group_left ()",
        "an alert carries the team",
    ),
    ("unless on (instance, job, name) container_health", "", "deploys, scale-downs, one-offs"),
    (
        "and docker_exporter_last_success_timestamp_seconds > 0",
        "",
        "what the exporter can't see is not gone",
    ),
    ("time() - 7200", "time()", "deploys, scale-downs, one-offs"),
]


@pytest.mark.parametrize(
    ("was", "becomes", "scenario"), CHANGES, ids=[was for was, *_ in CHANGES]
)
def test_a_changed_rule_is_found_out(
    tmp_path: Path, was: str, becomes: str, scenario: str
) -> None:
    """The promtool tests of the scenario fail when a rule's condition is removed or changed."""
    changed = RULES.read_text().replace(was, becomes)

    assert changed != RULES.read_text()
    with pytest.raises(CommandError, match="exit 1"):
        run_tests(tmp_path, changed, only(scenario, TESTS.read_text()))
