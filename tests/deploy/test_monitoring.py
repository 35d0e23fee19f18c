"""monitoring.yml on a real engine: alerts reach Alertmanager, and the dashboard's queries return data."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from docker_prom_exporter.containers import LABEL
from support.dashboard import QUERIED, filled_in, panel_queries
from support.images import EXPORTER, SAMPLE, WOLLOMATIC, provide
from support.machine import COMPOSE, PROMETHEUS, Machine
from support.processes import CommandError
from support.waiting import wait_for

ALERTMANAGER = "http://127.0.0.1:9093/api/v2/alerts"
IMAGES = (
    EXPORTER,
    SAMPLE,
    WOLLOMATIC,
    "prom/prometheus:v3.5.0",
    "prom/alertmanager:v0.28.1",
    "grafana/grafana:12.1.1",
)
# What a stack without faults does not show. No host pushes to it: test_compose_files.py tests that query.
FAULTS = ("Pushed hosts", "Errors of the Docker API", "Hygiene D")
QUERIES = [
    pytest.param(expr, id=name)
    for name, expr in panel_queries()
    if not name.startswith(FAULTS)
]

# Shorten the times of rules and scrapes from minutes to seconds; the conditions stay the same.
FASTER = {
    r"for: \d+m": "for: 1s",
    r"_interval: 15s": "_interval: 1s",
    r"\[1m\]": "[5s]",
    r"\[5m\]": "[10s]",
    r"(last_over_time\([^\[]+)\[3m\]": r"\1[10s]",
    r"\[3m\]": "[1m]",
    r"\[15m\]": "[2m]",
    r"\[1h\]": "[2m]",
    r"time\(\) - 7200": "time() - 1",
    r"LISTEN_ADDR: 0.0.0.0": "LISTEN_ADDR: 0.0.0.0\n      POLL_INTERVAL: 1",
}


class Stack:
    """The running stack; `file` is its copy of monitoring.yml."""

    def __init__(self, machine: Machine, file: Path) -> None:
        self.machine = machine
        self.file = file

    def compose(self, *args: str, override: Path | None = None) -> str:
        """Run `docker compose` on the stack."""
        return self.machine.compose(
            *args, files=(self.file, *([override] if override else []))
        )

    def await_query(self, name: str) -> None:
        """Wait until a query of the dashboard returns data."""
        (expr,) = [expr for known, expr in panel_queries() if known == name]
        wait_for(lambda: self.machine.query(expr), what=f"data of {expr}", seconds=40)

    def label_values(self, metric: str, label: str) -> list[Any]:
        """Return a label's values in the series of a metric."""
        url = f"{PROMETHEUS}/label/{label}/values?match[]={quote(metric)}"
        return list(json.loads(self.machine.get(url)[1])["data"])

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """Return the alerts of a name that Alertmanager has received and that are not resolved."""
        filtered = quote(f'alertname="{name}"')
        try:
            status, text = self.machine.get(f"{ALERTMANAGER}?filter={filtered}")
        except OSError:
            return []
        return list(json.loads(text)) if status == 200 else []

    def await_alert(self, name: str, container: str = "") -> dict[str, Any]:
        """Wait until Alertmanager has an alert of this name, and of this container if one is given."""
        return wait_for(
            lambda: {one["labels"].get("name", ""): one for one in self.alerts(name)}.get(
                container, {}
            ),
            what=f"{name} of {container or 'Docker'} to reach Alertmanager",
            every=0.5,
        )


def hasten(*files: Path) -> None:
    """Replace the times in configuration files by those of `FASTER`."""
    for file in files:
        text = file.read_text()
        for pattern, replacement in FASTER.items():
            text = re.sub(pattern, replacement, text)
        file.write_text(text)


@pytest.fixture(scope="module")
def stack(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start a copy of the stack with shortened times and yield it."""
    folder = tmp_path_factory.mktemp("deployed") / "compose"
    shutil.copytree(COMPOSE, folder)
    hasten(folder / "monitoring.yml", *(folder / "prometheus").glob("*.yml"))
    provide(machine, *IMAGES)
    file = folder / "monitoring.yml"
    with machine.deployed(file):
        yield Stack(machine, file)


@pytest.mark.parametrize(
    ("alert", "sample"),
    [
        ("ContainerUnhealthy", "unhealthy"),
        ("ContainerStuckStarting", "starting"),
        ("ContainerRestartLoop", "crashing"),
        ("ContainerExitedNonZero", "failed"),
        ("ContainerOomKilled", "greedy"),
    ],
)
def test_a_sample_raises_its_alert(stack: Stack, alert: str, sample: str) -> None:
    """Each failing sample raises its alert, with its Compose service, and no other sample raises it."""
    received = stack.await_alert(alert, f"docker-monitoring-sample-{sample}-1")

    def samples() -> set[str]:
        return {one["labels"]["compose_service"] for one in stack.alerts(alert)} - {
            name
            for name in stack.compose("config", "--services").split()
            if not name.startswith("sample-")
        }

    assert f"(compose service sample-{sample})" in received["annotations"]["summary"]
    assert "docker-monitoring" == received["labels"]["compose_project"]
    wait_for(
        lambda: samples() == {f"sample-{sample}"},
        what=f"only sample-{sample} to raise {alert}",
    )


@pytest.mark.parametrize("service", ["docker-prom-exporter", "prometheus", "alertmanager"])
def test_a_healthcheck_of_the_file_works(stack: Stack, service: str) -> None:
    """The healthcheck of each service in the shipped file passes."""
    name = f"docker-monitoring-{service}-1"
    wait_for(lambda: stack.machine.health(name) == "healthy", what=f"{name} to be healthy")


@pytest.mark.parametrize("expr", QUERIES)
def test_the_dashboard_has_something_to_show(stack: Stack, expr: str) -> None:
    """Each query of the dashboard returns data."""
    wait_for(lambda: stack.machine.query(expr), what=f"data of {expr}")


@pytest.mark.parametrize("variable", QUERIED, ids=lambda variable: variable["name"])
def test_a_variable_has_something_to_choose(stack: Stack, variable: dict[str, Any]) -> None:
    """Each variable of the dashboard has values."""
    query = re.fullmatch(r"label_values\((.+), (\w+)\)", filled_in(variable["definition"]))

    assert query is not None
    assert stack.label_values(query[1], query[2])


def test_an_alert_names_the_team_of_its_container(stack: Stack) -> None:
    """The label com.example.team of a container reaches Alertmanager as `team`."""
    received = stack.await_alert("ContainerUnhealthy", "docker-monitoring-sample-unhealthy-1")

    assert "shop" == received["labels"].get("team")


def test_a_stopped_service_raises_an_alert(stack: Stack) -> None:
    """ContainerStopped reaches Alertmanager when a container is stopped that should always run."""
    name = "docker-monitoring-sample-plain-1"
    stack.machine.cli("stop", name)
    received = stack.await_alert("ContainerStopped", name)
    stack.machine.cli("start", name)

    assert "warning" == received["labels"]["severity"]


def test_a_container_that_can_not_be_started_raises_an_alert(stack: Stack) -> None:
    """ContainerStopped reaches Alertmanager, its text says why, and the dashboard shows it."""
    with pytest.raises(CommandError, match="exit 127"):
        stack.machine.run(
            "broken",
            image=SAMPLE,
            command=["no-such-program"],
            labels={LABEL: "true"},
            options=["--network=none"],
        )
    received = stack.await_alert("ContainerStopped", "broken")
    stack.await_query("Hygiene D")
    stack.machine.cli("rm", "broken")

    assert "created" == received["labels"]["state"]
    assert (
        "docker inspect -f '{{.State.Error}}' broken" in received["annotations"]["description"]
    )


def test_a_denied_list_makes_the_exporter_stale(stack: Stack, tmp_path: Path) -> None:
    """DockerExporterStale reaches Alertmanager when the proxy allows pings and denies the list."""
    override = tmp_path / "override.yml"
    narrow = [r"-allowGET=(/v[\d.]+)?/(version|_ping)", "-listenip=0.0.0.0"]
    proxy = {"docker-socket-proxy": {"command": narrow}}
    override.write_text(json.dumps({"services": proxy}))
    stack.compose("up", "--detach", "--no-build", "docker-socket-proxy", override=override)
    received = stack.await_alert("DockerExporterStale")
    stack.await_query("Errors of the Docker API A")
    stack.compose("up", "--detach", "--no-build", "docker-socket-proxy")

    assert "critical" == received["labels"]["severity"]


def test_an_engine_that_is_down_raises_an_alert(stack: Stack) -> None:
    """DockerDown reaches Alertmanager when the proxy is stopped, and the containers' alerts end."""
    stack.await_alert("ContainerUnhealthy", "docker-monitoring-sample-unhealthy-1")
    stack.compose("stop", "docker-socket-proxy")
    stack.await_alert("DockerDown")
    containers = 'ALERTS{alertname=~"Container.+", alertstate="firing"}'
    wait_for(
        lambda: not stack.machine.query(containers),
        what="the containers' alerts to end",
        seconds=30,
    )
    stack.compose("start", "docker-socket-proxy")


def test_an_exporter_that_is_down_raises_an_alert(stack: Stack) -> None:
    """DockerExporterDown reaches Alertmanager when the exporter is stopped."""
    stack.compose("stop", "docker-prom-exporter")
    received = stack.await_alert("DockerExporterDown")
    stack.compose("start", "docker-prom-exporter")

    assert "docker-host" == received["labels"]["instance"]


def test_docker_that_is_down_inhibits_the_rest(stack: Stack) -> None:
    """DockerDown suppresses its engine's other alerts, and ContainerExitedNonZero ContainerStopped."""

    def alert(name: str, instance: str) -> dict[str, Any]:
        return {
            "labels": {"alertname": name, "job": "docker", "instance": instance, "id": "a1"}
        }

    def state(name: str, instance: str) -> str:
        found = (one for one in stack.alerts(name) if one["labels"]["instance"] == instance)
        return next((one["status"]["state"] for one in found), "")

    names = ("ContainerUnhealthy", "ContainerGone", "DockerExporterStale")
    sent = [
        alert("DockerDown", "down"),
        *(alert(name, at) for name in names for at in ("down", "up")),
    ]
    sent += [alert(name, "failed") for name in ("ContainerExitedNonZero", "ContainerStopped")]
    stack.machine.get(ALERTMANAGER, post=sent)
    wait_for(
        lambda: state(names[0], "up") == "active", what="Alertmanager to process the alerts"
    )

    assert "active" == state("DockerDown", "down")
    assert ["suppressed"] * 3 == [state(name, "down") for name in names]
    assert ["active"] * 3 == [state(name, "up") for name in names]
    assert ("active", "suppressed") == (
        state("ContainerExitedNonZero", "failed"),
        state("ContainerStopped", "failed"),
    )
