"""The play of `demo` raises every alert about containers but ContainerGone within 45 minutes."""

import re
from collections import defaultdict
from pathlib import Path

from docker_prom_exporter.containers import parse_inspect
from docker_prom_exporter.demo import Play
from docker_prom_exporter.demo.play import SLOW
from docker_prom_exporter.metrics import SnapshotMetrics
from support.builders import snapshot
from support.documents import tables
from support.machine import COMPOSE
from support.promtool import promtool

RULES = COMPOSE / "prometheus/rules.yml"
STEP = 15
BEGIN = 1714979280

_CODE = re.compile(r"`([^`]+)`")
_MINUTE = re.compile(r": (\d+)")


def documented_alerts() -> dict[tuple[str, str], int]:
    """Return the alerts of compose/README.md's table, and the minute before which each container raises it."""
    minutes = {}
    for head, *rows in tables(COMPOSE / "README.md"):
        if head[-1] != "in `demo`":
            continue
        for row in rows:
            (alert,) = _CODE.findall(row[0])
            for container in _CODE.findall(row[-1]):
                minutes[alert, container] = int(_MINUTE.findall(row[-1])[0])
    return minutes


def samples_of_the_play() -> dict[str, dict[int, float]]:
    """Return each series that the rules use, with its values by the number of the scrape."""
    used = {*re.findall(r"\b(?:docker|container)_\w+", RULES.read_text())}
    series: dict[str, dict[int, float]] = defaultdict(dict)
    now = float(BEGIN)
    play = Play(clock=lambda: now)
    metrics = SnapshotMetrics()
    for scrape in range(SLOW // STEP + 1):
        now = BEGIN + scrape * STEP
        read = [parse_inspect(each.inspect(now), now=now) for each in play.containers()]
        watched = [each for each in read if each and each.is_watched(only_labelled=True)]
        published = metrics.families_of(snapshot(*watched, last_success=now))
        for family in [*published.families, *published.own]:
            if family.name not in used and f"{family.name}_total" not in used:
                continue
            for sample in family.samples:
                labels = {"instance": "demo", "job": "docker", **sample.labels}
                text = ", ".join(f'{key}="{value}"' for key, value in labels.items())
                is_time = sample.name.endswith("_timestamp_seconds")
                value = sample.value - BEGIN if is_time else sample.value
                series[f"{sample.name}{{{text}}}"][scrape] = value
    return series


def values(samples: dict[int, float]) -> str:
    """Return the values as promtool takes them; a missing one after a value is stale."""
    last = max(samples)
    texts = [f"{samples[n]:.6f}" if n in samples else "stale" for n in range(last + 1)]
    first = min(samples)
    return " ".join(["_"] * first + texts[first:] + ["stale"] * (last < SLOW // STEP))


def test_the_demo_raises_the_alerts(tmp_path: Path) -> None:
    """Each alert fires in time, for the containers that it should fire for, and for no other."""
    (tmp_path / "rules.yml").write_text(RULES.read_text())
    lines = ["rule_files: [rules.yml]", f"evaluation_interval: {STEP}s", "tests:"]
    lines += [f"  - interval: {STEP}s", "    input_series:"]
    for series, samples in samples_of_the_play().items():
        lines.append(f"      - {{series: '{series}', values: '{values(samples)}'}}")
    lines.append("    promql_expr_test:")
    alerts = documented_alerts()
    fired = 'max_over_time(ALERTS{alertstate="firing", severity!="none"}[45m])'
    for minute in sorted({*alerts.values(), 45}):
        due = {alert for alert, latest in alerts.items() if latest <= minute}
        names = "|".join(sorted({alert for alert, _ in due}))
        chosen = fired if minute == 45 else fired.replace("{", f'{{alertname=~"{names}", ')
        lines.append(f"      - eval_time: {minute}m")
        lines.append(f"        expr: count by (alertname, name) ({chosen})")
        lines.append("        exp_samples:")
        for alert, name in sorted(due):
            labels = f'{{alertname="{alert}", name="{name}"}}'
            lines.append(f"          - {{labels: '{labels}', value: 1}}")
    test = tmp_path / "demo_test.yml"
    test.write_text("\n".join(lines) + "\n")

    assert "SUCCESS" in promtool("test", "rules", str(test))
