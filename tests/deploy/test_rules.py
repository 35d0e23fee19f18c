"""promtool and amtool check the alert rules and the configurations."""

import re
from pathlib import Path

import pytest

from support.machine import COMPOSE
from support.missing import require_program
from support.processes import Command, CommandError
from support.promtool import promtool
from support.real import SYSTEM_PATH

RULES = COMPOSE / "prometheus/rules.yml"
TESTS = COMPOSE / "prometheus/rules_test.yml"
GAPS = COMPOSE / "prometheus/rules_gaps_test.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
ALERTMANAGER = COMPOSE / "alertmanager"


def amtool(*arguments: str) -> str:
    """Run amtool and return its output."""
    return Command([require_program("amtool", SYSTEM_PATH)], {}).run(*arguments)


@pytest.mark.parametrize("tests", [TESTS, GAPS], ids=lambda tests: tests.stem)
def test_each_firing_and_each_silence(tests: Path) -> None:
    """The published rules pass their promtool tests."""
    assert "SUCCESS" in promtool("test", "rules", str(tests))


def test_the_job_may_have_any_name() -> None:
    """No rule selects series by job."""
    assert re.search(r"\bjob *[=!]", RULES.read_text()) is None


@pytest.mark.parametrize("configuration", ["prometheus.yml", "swarm.yml", "push.yml"])
def test_prometheus_takes_its_configuration(configuration: str) -> None:
    """`promtool` accepts the configuration and its rule files."""
    file = COMPOSE / "prometheus" / configuration

    assert "SUCCESS" in promtool("check", "config", str(file))


@pytest.mark.parametrize("configuration", ["alertmanager.yml", "by-team.yml"])
def test_alertmanager_takes_its_configuration(configuration: str) -> None:
    """`amtool` accepts the configuration."""
    assert "SUCCESS" in amtool("check-config", str(ALERTMANAGER / configuration))


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["team=shop", "severity=critical"], "shop-on-call"),
        (["team=shop", "severity=warning"], "shop"),
        (["team=shop", "severity=info"], "nobody"),
        (["team=search", "severity=critical"], "search"),
        (["team=unheard-of", "severity=critical"], "operations-on-call"),
        (["severity=warning"], "operations"),
        (["alertname=Watchdog", "severity=none"], "nobody"),
    ],
)
def test_an_alert_goes_to_its_team(labels: list[str], receiver: str) -> None:
    """An alert goes to its team's receiver, and without a known team to operations."""
    config = f"--config.file={ALERTMANAGER / 'by-team.yml'}"

    assert receiver == amtool("config", "routes", "test", config, *labels)


def test_both_alertmanagers_inhibit_alike() -> None:
    """Both Alertmanager configurations have the same inhibition rules."""
    one, other = (
        (ALERTMANAGER / name).read_text().partition("inhibit_rules:")[2]
        for name in ("alertmanager.yml", "by-team.yml")
    )

    assert one == other


def test_an_outage_inhibits_the_alerts_of_containers() -> None:
    """Each alert about an engine or exporter that is silent, also of pushed hosts, inhibits the others."""
    pushed = (COMPOSE / "prometheus/push_rules.yml").read_text()
    silent = {"DockerDown", "DockerExporterDown", *re.findall(r"alert: (\w+Stale)", pushed)}
    text = (ALERTMANAGER / "alertmanager.yml").read_text()
    source = re.search(r"source_matchers: \['alertname=~\"(Docker.+)\"'\]", text)

    assert source
    assert silent == {*source[1].split("|")}


def block_of(name: str) -> str:
    """Return the text of one rule, an alert or a recording rule."""
    rules = re.split(
        r"^(?=      - (?:alert|record): |  - name: )", RULES.read_text(), flags=re.MULTILINE
    )
    (block,) = [each for each in rules if re.match(rf"      - \w+: {name}\n", each)]
    return block


@pytest.mark.parametrize("alert", [each for each in ALERTS if each != "Watchdog"])
def test_an_alert_says_what_it_is(alert: str) -> None:
    """Each alert has a duration, a severity, the instance's or service's name and a description."""
    text = block_of(alert)

    assert re.search(r"^ {8}for: \d+m$", text, re.MULTILINE)
    assert re.search(r"^ {10}severity: (critical|warning|info)$", text, re.MULTILINE)
    assert "{{ $labels.instance }}" in text
    assert not alert.startswith("Container") or "$labels.compose_service" in text
    assert "description:" in text


@pytest.mark.parametrize(
    "file", sorted((COMPOSE / "prometheus").glob("*rules.yml")), ids=lambda file: file.name
)
def test_a_command_has_a_line_of_its_own(file: Path) -> None:
    """No prose or full stop is beside a command in an alert's text, so that it can be pasted."""
    commands = (
        r"(curl -X|journalctl -|systemctl (list|status)"
        r"|docker (compose up|events|exec|inspect|logs|rm|restart|start|update))\b"
    )
    for line in file.read_text().splitlines():
        text = line.strip()
        if re.search(commands, text) and not text.startswith("#"):
            assert re.match(rf"{commands}.*[^.,:]$", text), text


def test_open_alerts_of_containers_outlive_a_gap() -> None:
    """While Docker or the exporter is silent, an open alert about a container stays open."""
    for alert in ALERTS:
        kept = "        keep_firing_for: 5m\n" in block_of(alert)

        assert alert.startswith("Container") == kept, alert


# What is changed in which rule, and the scenario whose tests then fail.
CHANGES = {
    "Watchdog": [("vector(1)", "vector(1) > 1", "Watchdog always fires")],
    "DockerExporterDown": [
        ("for: 2m", "for: 0m", "an exporter that can't be scraped"),
        (
            'and on (instance, job) last_over_time(docker_up{exported_job=""}[7d])',
            "",
            "a restart of the exporter, and another job's outage",
        ),
        ("[7d]", "[1d]", "an exporter that has been down for days"),
        ('docker_up{exported_job=""}', "docker_up", "a target that was removed"),
    ],
    "DockerDown": [
        ("for: 1m", "for: 0m", "a restart of the daemon"),
        ("== 0", "== 2", "a Docker that is down fires"),
    ],
    "DockerExporterStale": [
        ("for: 2m", "for: 7m", "a list that fails while Docker answers"),
        ("and on (instance, job) docker_up == 1", "", "a Docker that is down fires"),
    ],
    "docker:container_info:team": [
        ("or on (instance, job, id) docker_container_info", "", "an alert carries the team"),
        (
            "on (instance, job, id) group_left (team)",
            "on (instance, job, id) group_left ()",
            "an alert carries the team",
        ),
        (
            "topk by (instance, job, id) (1,\n            docker_container_info",
            "(\n            docker_container_info",
            "a container that was renamed",
        ),
        ("(team) topk by (instance, job, id) (1,", "(team) (", "a container that was renamed"),
    ],
    "docker:container_info:bridged": [
        ("[3m]", "[1m]", "the clock of ContainerStopped"),
        ("topk by (instance, job, id) (1,", "(", "a container whose image loses its tag"),
        ("and on (instance, job, id) container_health", "", "one-shots, pauses, a short stop"),
        ("unless on (instance, job) docker_up", "> 1", "the clock of ContainerStopped"),
    ],
    "ContainerUnhealthy": [
        (
            "container_health == 3",
            "container_health <= 3",
            "stopped, plain, unknown and healthy containers",
        ),
        ("for: 2m", "for: 0m", "stopped, plain, unknown and healthy"),
        ("keep_firing_for: 5m", "keep_firing_for: 0s", "two open alerts stay open while"),
        ("keep_firing_for: 5m", "keep_firing_for: 9m", "two open alerts stay open until"),
        (
            "unless on (instance, job, id) changes(docker_container_started_timestamp_seconds[1m]) > 0",
            "",
            "a container that restarts again and again and is unhealthy",
        ),
        ("if query (printf", "if not (printf", "probes that can't be run fire"),
    ],
    "ContainerStuckStarting": [
        ("for: 15m", "for: 5m", "a container that does not get healthy"),
        (
            "docker_container_health_interval_seconds",
            "docker_container_health_timeout_seconds",
            "a healthcheck that first runs after 20 minutes",
        ),
        ("[3m]) == 1", "[1m]) == 1", "so do those of ContainerStuck"),
    ],
    "ContainerRestartLoop": [
        ("[15m]) > 4", "[15m]) > 1", "a container that restarts once"),
        (
            "and increase(docker_container_restarts_total[3m]) > 0",
            "",
            "some failures until the database is there",
        ),
        (
            "changes(docker_container_started_timestamp_seconds[15m]) > 4",
            "changes(docker_container_started_timestamp_seconds[15m]) > 99",
            "a container that is restarted through the API",
        ),
        (
            "and changes(docker_container_started_timestamp_seconds[3m]) > 0",
            "",
            "a container that is restarted through the API",
        ),
        ("[15m]) > 0.1", "[15m]) > 1", "a job that is started every three"),
        ("[15m]) == 0", "[15m]) >= 0", "a job that fails and is started"),
    ],
    "ContainerStopped": [
        ("for: 30m", "for: 5m", "a container that should always run"),
        ('{policy=~"always|unless-stopped"}', "", "one-shots, pauses, a short stop"),
        (
            'docker_container_state{state=~"exited|dead"}',
            "docker_container_state",
            "one-shots, pauses, a short stop",
        ),
        (
            "docker_container_start_failed[3m]) == 1",
            "docker_container_start_failed[3m]) == 2",
            "a container that Docker could not start",
        ),
        (
            "and on (instance, job, id) last_over_time(docker_container_start_failed[3m]) == 1",
            "",
            "a container that Docker could not start",
        ),
        ("[3m]) == 1", "[1m]) == 1", "the clock of ContainerStopped"),
    ],
    "ContainerExitedNonZero": [
        ("and docker_container_exit_code != 143", "", "a one-shot that succeeded"),
        (
            'and on (instance, job, id) docker_container_state{state=~"exited|dead"} == 1',
            "",
            "a one-shot that succeeded",
        ),
        (
            "and docker_container_finished_timestamp_seconds > time() - 86400",
            "",
            "a one-shot that succeeded",
        ),
    ],
    "ContainerOomKilled": [
        (
            "docker_container_finished_timestamp_seconds <= time() - 86400",
            "docker_container_finished_timestamp_seconds < 0",
            "a container that ended for want of memory",
        ),
        (
            'and on (instance, job, id) docker_container_state{state=~"exited|dead"} == 1',
            "",
            "a container that ended for want of memory",
        ),
        ("[15m]", "[1m]", "a container out of memory fires"),
    ],
    "ContainerGone": [
        ("for: 10m", "for: 1m", "deploys, scale-downs, one-offs"),
        (
            "last_over_time(container_health[1h]) and on (instance, job, name) container_health",
            "container_health < 0",
            "deploys, scale-downs, one-offs",
        ),
        (
            "last_over_time(container_health[1h]) and on (instance, job, name) container_health",
            "container_health",
            "a renamed container, a deploy that renames",
        ),
        (
            "unless on (instance, job, id) last_over_time(container_health[1h]) <= 1",
            "",
            "a renamed container, a deploy that renames",
        ),
        (
            "and docker_exporter_last_success_timestamp_seconds > 0",
            "",
            "what the exporter can't see is not gone",
        ),
        ("time() - 7200", "time()", "deploys, scale-downs, one-offs"),
        ("{policy='no', id=%q}", "{policy='x', id=%q}", "a job that removes"),
        ("topk by (instance, job, id) (1, ", "(", "containers that get a team"),
    ],
    "ContainerHealthcheckStalled": [
        ("for: 5m", "for: 1m", "a verdict without a probe"),
        (
            "docker_container_health_failing_streak < docker_container_health_retries",
            "docker_container_health_failing_streak < 0",
            "a verdict without a probe",
        ),
        (
            'and on (instance, job, id) docker_container_health_status{status=~"healthy|unhealthy"} == 1',
            "",
            "a verdict without a probe",
        ),
        (
            "and on (instance, job, id) docker_container_health_last_probe_timestamp_seconds",
            "",
            "a verdict without a probe",
        ),
    ],
    "ContainerHealthcheckBroken": [
        ("== 126", "== 1", "probes that can't be run fire"),
        ("== 127", "== 0", "probes that can't be run fire"),
        ("/ 2", "* 2", "probes that can't be run fire"),
        ("for: 10m", "for: 1m", "probes that can't be run fire"),
        ("[3m]", "[1m]", "so do those of ContainerStuckStarting"),
    ],
    "ContainerHealthcheckSlow": [
        ("0.8 *", "0.5 *", "probes that take nearly their timeout"),
        ("for: 15m", "for: 1m", "probes that take nearly their timeout"),
        ("[3m]", "[1m]", "so do those of ContainerStuckStarting"),
    ],
    "ContainerHealthFlapping": [
        (">= 6", ">= 5", "six changes of the verdict"),
        ("[1h:15s]", "[10m:15s]", "six changes of the verdict"),
        ("(container_health >= 3)", "(container_health >= 0)", "six changes of the verdict"),
    ],
}


def scenario_alone(name: str) -> str:
    """Return promtool's tests with one scenario, since all of them take half a minute."""
    found = []
    for file in (TESTS, GAPS):
        head, *scenarios = re.split(r"^(?=  - name: )", file.read_text(), flags=re.MULTILINE)
        found += [head + each for each in scenarios if each.startswith(f"  - name: {name}")]
    (alone,) = found
    return alone


@pytest.mark.parametrize(
    ("rule", "was", "becomes", "scenario"),
    [
        pytest.param(rule, *change, id=f"{rule}: {change[0]}")
        for rule, changes in CHANGES.items()
        for change in changes
    ],
)
def test_a_changed_rule_is_found_out(
    tmp_path: Path, rule: str, was: str, becomes: str, scenario: str
) -> None:
    """The promtool tests of the scenario fail when a rule's condition is removed or changed."""
    block = block_of(rule)
    changed = RULES.read_text().replace(block, block.replace(was, becomes))
    (tmp_path / RULES.name).write_text(changed)
    (tmp_path / TESTS.name).write_text(scenario_alone(scenario))

    assert was in block
    with pytest.raises(CommandError, match="exit 1"):
        promtool("test", "rules", str(tmp_path / TESTS.name))


def test_each_alert_is_changed() -> None:
    """Each alert has a change in the list above."""
    assert {*ALERTS} <= CHANGES.keys()
