"""promtool checks the rules for pushed hosts and their Prometheus configuration."""

from pathlib import Path

from support.missing import require_program
from support.processes import Command

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
