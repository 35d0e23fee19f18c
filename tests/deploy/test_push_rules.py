"""promtool checks the rules for pushed hosts and for expected services, and the configuration."""

import shutil
from pathlib import Path

import pytest

from support.missing import require_program
from support.processes import Command, CommandError

PROMETHEUS = Path(__file__).parents[2] / "compose" / "prometheus"


def promtool(*arguments: str) -> str:
    """Run promtool in the rules' folder and return its output; CommandError holds its error messages."""
    return Command([require_program("promtool"), *arguments], {}, cwd=PROMETHEUS).run()


def test_each_alert_fires_and_is_silent_in_time() -> None:
    """Each alert fires and resolves in time, and the guarded query leaves out hosts that stopped pushing."""
    assert "SUCCESS" in promtool("test", "rules", "push_rules_test.yml")


def test_prometheus_takes_the_configuration() -> None:
    """`promtool` accepts push.yml and the rule files that it names."""
    assert "push.yml is valid" in promtool("check", "config", "push.yml")


@pytest.mark.parametrize(
    ("rules", "was", "becomes"),
    [
        ("push_rules", "for: 1m", "for: 9m"),
        ("push_rules", "docker_exporter_gateway_up == 0", "docker_exporter_gateway_up == 2"),
        ("push_rules", " > 180", " > 18000"),
        ("push_rules", "(push_failure_time_seconds > push_time_seconds)", "push_time_seconds"),
        (
            "push_rules",
            "push_time_seconds) and on (job, instance) docker_up",
            "push_time_seconds)",
        ),
        ("push_rules", "keep_firing_for: 5m", "keep_firing_for: 0s"),
        ("expected_rules", "for: 5m", "for: 1m"),
        ("expected_rules", "keep_firing_for: 5m", "keep_firing_for: 5d"),
        (
            "expected_rules",
            "(instance, compose_project, compose_service)",
            "(compose_service)",
        ),
        (
            "expected_rules",
            'and on (instance, job, id) docker_container_state{state="running"} == 1',
            "",
        ),
        ("expected_rules", 'alertname=~"DockerDown|', 'alertname=~"'),
        ("expected_rules", "DockerExporterDown|", ""),
    ],
)
def test_a_changed_rule_is_found_out(
    tmp_path: Path, rules: str, was: str, becomes: str
) -> None:
    """The promtool tests fail when a rule's condition is removed or changed."""
    text = (PROMETHEUS / f"{rules}.yml").read_text()
    for name in ("rules.yml", f"{rules}_test.yml"):
        shutil.copy(PROMETHEUS / name, tmp_path)
    (tmp_path / f"{rules}.yml").write_text(text.replace(was, becomes))

    assert was in text
    with pytest.raises(CommandError, match="exit 1"):
        promtool("test", "rules", str(tmp_path / f"{rules}_test.yml"))
