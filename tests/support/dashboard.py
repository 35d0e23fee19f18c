"""The shipped Grafana dashboard, and its queries as Prometheus receives them."""

import json
from typing import Any

from support.machine import COMPOSE

DASHBOARD: dict[str, Any] = json.loads(
    (COMPOSE / "grafana/dashboards/docker-containers.json").read_text()
)
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]
QUERIED = [variable for variable in VARIABLES if variable["type"] == "query"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def filled_in(expr: str) -> str:
    """Return an expression of the dashboard with every variable set to `All`."""
    for variable in QUERIED:
        expr = expr.replace(f'"${variable["name"]}"', f'"{variable["allValue"]}"')
    return expr.replace("$__rate_interval", "1m")


def panel_queries() -> list[tuple[str, str]]:
    """Return the queries of all panels, each as the panel's title with the query's letter, and expression."""
    return [
        (f"{panel['title']} {target['refId']}", filled_in(target["expr"]))
        for panel in PANELS
        for target in panel["targets"]
    ]
