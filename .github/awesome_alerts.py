#!/usr/bin/env python3
"""Print an entry for awesome-prometheus-alerts (`_data/rules.yml` there), made from our rules.

    .venv/bin/python .github/awesome_alerts.py

The entry has the alerts that need no recording rule, without the labels that only help to
route.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

RULES = Path(__file__).parents[1] / "compose/prometheus/rules.yml"
_ROUTING = re.compile(r"\s*\* on \(instance, job, id\) group_left \([^)]*\) docker:\S+\s*$")
_SEVERITIES = ("critical", "warning", "info")


def entry() -> dict[str, Any]:
    """Return the entry as that list has it: a service, its exporter, the exporter's rules."""
    exporter = {
        "name": "docker-prom-exporter",
        "slug": "docker-prom-exporter",
        "doc_url": "https://github.com/OWNER/docker-prom-exporter",
        "rules": list(_rules()),
    }
    return {"name": "Docker and Podman containers", "exporters": [exporter]}


def _rules() -> Iterator[dict[str, Any]]:
    for group in YAML(typ="safe").load(RULES)["groups"]:
        for rule in group["rules"]:
            severity = rule.get("labels", {}).get("severity")
            query = _ROUTING.sub("", str(rule["expr"])).strip()
            if severity not in _SEVERITIES or "docker:" in query:
                continue
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", rule["alert"]).capitalize()
            yield {
                "name": words,
                "description": rule["annotations"]["summary"],
                "query": LiteralScalarString(query) if "\n" in query else query,
                "severity": severity,
                "for": rule.get("for", "0m"),
            }


if __name__ == "__main__":
    writer = YAML()
    writer.width = 1000  # no line is folded
    writer.dump([entry()], sys.stdout)
