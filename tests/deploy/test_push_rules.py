"""The rules for pushed hosts do what they say, by Prometheus's own tool."""

from pathlib import Path

from support.missing import require_program
from support.processes import Command

PROMETHEUS = Path(__file__).parents[2] / "compose" / "prometheus"


def promtool(*arguments: str) -> str:
    """Run promtool beside the rules and return what it prints; CommandError holds what it complains of."""
    return Command([require_program("promtool"), *arguments], {}, cwd=PROMETHEUS).run()


def test_each_alert_fires_and_is_silent_in_time() -> None:
    """And the guarded query says nothing of hosts that push no more."""
    assert "SUCCESS" in promtool("test", "rules", "push_rules_test.yml")


def test_prometheus_takes_the_configuration() -> None:
    """With the rules it names."""
    assert "push.yml is valid" in promtool("check", "config", "push.yml")
