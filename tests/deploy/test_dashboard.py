"""The dashboard follows grafana/dashboard-linter's rules (named below) and uses existing metrics only."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter import metrics
from docker_prom_exporter.outlets import metrics as outlets_metrics
from support.dashboard import DASHBOARD, PANELS, QUERIED, VARIABLES, filled_in, panel_queries
from support.machine import COMPOSE
from support.promtool import takes_queries

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"none", "s", "cpm", "bytes", "percentunit", "dateTimeFromNow", "bool_yes_no"}
TARGETS = [target for panel in PANELS for target in panel["targets"]]
SELECTOR = re.compile(r"\b([a-zA-Z_:][\w:]*)\{([^}]*)\}")

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
each_target = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: target["expr"][:40]
)


def test_the_dashboard_is_kept_as_a_file() -> None:
    """The dashboard can't be edited in Grafana, where a change would be lost (template-uneditable-rule)."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]

    assert not DASHBOARD["editable"]
    assert "docker-containers" == DASHBOARD["uid"]
    assert sorted({*ids}) == sorted(ids)


def test_the_data_source_can_be_chosen() -> None:
    """The first variable is the data source, by default the provisioned one (template-datasource-rule)."""
    variable = VARIABLES[0]
    provisioned = (COMPOSE / "grafana/provisioning/datasources/prometheus.yml").read_text()

    assert ("datasource", "datasource", "prometheus", "Data source") == (
        *(variable["type"], variable["name"], variable["query"], variable["label"]),
    )
    assert f"uid: {variable['current']['value']}" in provisioned


@pytest.mark.parametrize("variable", QUERIED, ids=lambda variable: variable["name"])
def test_a_variable_takes_several_or_all(variable: dict[str, Any]) -> None:
    """Each query variable allows several values, uses the chosen source and reloads with the time range.

    The linter's rules are template-label-promql-rule and template-on-time-change-reload-rule.
    """
    query = variable["query"]["query"]

    assert SOURCE == variable["datasource"]
    assert variable["multi"]
    assert variable["includeAll"]
    assert 2 == variable["refresh"], "on time range change"
    assert variable["definition"] == query
    assert re.fullmatch(r"label_values\(\w+(\{[^}]*\})?, \w+\)", query)


def test_job_and_instance_can_be_chosen() -> None:
    """Job and instance come first; All matches any non-empty value (template-job-, -instance-rule)."""
    assert [("job", "Job", ".+"), ("instance", "Instance", ".+")] == [
        (variable["name"], variable["label"], variable["allValue"]) for variable in QUERIED[:2]
    ]


@each_panel
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    """Each panel has a title, a description and the source (panel-title-description-, -datasource-rule)."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert [SOURCE] * (1 + len(panel["targets"])) == [
        panel["datasource"],
        *(target["datasource"] for target in panel["targets"]),
    ]


@each_panel
def test_a_panel_has_units(panel: dict[str, Any]) -> None:
    """Each unit of a panel is one of Grafana's units (panel-units-rule)."""
    field = panel["fieldConfig"]
    overrides = [
        one["value"]
        for each in field["overrides"]
        for one in each["properties"]
        if one["id"] == "unit"
    ]

    assert {field["defaults"].get("unit"), *overrides} <= UNITS


@each_target
def test_a_query_asks_for_the_chosen_jobs_and_instances(target: dict[str, Any]) -> None:
    """Each selector matches $job and $instance and no fixed job (target-job-rule, target-instance-rule)."""
    expr = target["expr"]
    selectors = SELECTOR.findall(expr)
    metric_names = re.findall(
        r"\b(?:docker_(?!prom_)\w+|container_health|process_\w+|push_time_\w+)", expr
    )

    assert [] == [name for name in metric_names if name not in {name for name, _ in selectors}]
    assert [] == [
        name
        for name, matchers in selectors
        if not matchers.startswith('job=~"$job", instance=~"$instance"')
    ]


@each_target
def test_a_counter_is_shown_as_a_rate(target: dict[str, Any]) -> None:
    """Each counter is a rate over $__rate_interval (target-counter-agg-rule, target-rate-interval-rule)."""
    counters = re.findall(r"(\w*)\(?\b\w+_total\{[^}]*\}(\[[^\]]*\])?", target["expr"])

    assert [("rate", "[$__rate_interval]")] * len(counters) == counters


def test_each_query_is_promql(tmp_path: Path) -> None:
    """`promtool` parses each query of the dashboard (target-promql-rule)."""
    queries = [expr for _, expr in panel_queries()]

    assert takes_queries(queries, tmp_path)
    assert not [expr for expr in queries if "$" in expr]


def test_each_of_our_metrics_exists() -> None:
    """The exporter has each of its metrics that the dashboard and the rules name."""
    texts = [filled_in(target["expr"]) for target in TARGETS]
    texts += [
        (COMPOSE / "prometheus" / name).read_text() for name in ("rules.yml", "push_rules.yml")
    ]
    pattern = r"\bdocker_(?!prom_exporter\b)\w+|\bcontainer_health\b"
    named = {name for text in texts for name in re.findall(pattern, text)}
    known = set()
    for module in (metrics, outlets_metrics):
        source = inspect.getsource(module)
        known |= {*re.findall(r'"(docker_\w+|container_health)"', source)}

    assert named <= known
