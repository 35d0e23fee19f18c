"""swarm.yml on a real Swarm of one node: Prometheus discovers the exporter and labels it with the node."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from support.images import EXPORTER, WOLLOMATIC, provide
from support.machine import COMPOSE, Machine
from support.waiting import wait_for

STACK = "docker-monitoring"
IMAGES = (EXPORTER, WOLLOMATIC, "prom/prometheus:v3.5.0")


@pytest.fixture
def swarm(machine: Machine) -> Iterator[Machine]:
    """Make the machine a Swarm, deploy the shipped stack and yield the machine."""
    provide(machine, *IMAGES)
    machine.cli("swarm", "init", "--advertise-addr=127.0.0.1")
    files = machine.with_local_images(COMPOSE / "swarm.yml")
    options = [f"--compose-file={file}" for file in files]
    machine.cli("stack", "deploy", "--resolve-image=never", *options, STACK)
    yield machine
    machine.cli("stack", "rm", STACK)
    wait_for(lambda: not machine.cli("ps", "--all", "--quiet"), what="the tasks to be gone")
    machine.cli("swarm", "leave", "--force")


def query(machine: Machine, expr: str) -> list[dict[str, Any]]:
    """Return the labels of each series in Prometheus's answer; an empty list while it does not answer."""
    try:
        status, text = machine.get(f"http://127.0.0.1:9090/api/v1/query?query={quote(expr)}")
    except OSError:
        return []
    if status == 503:  # Prometheus listens, and is not ready
        return []
    return [series["metric"] for series in json.loads(text)["data"]["result"]]


def test_prometheus_finds_the_exporter_of_each_node(swarm: Machine) -> None:
    """The exporter reaches Docker through the proxy of its node, and each series carries the node's name."""
    node = swarm.cli("node", "inspect", "self", "--format={{.Description.Hostname}}")
    (up,) = wait_for(lambda: query(swarm, "docker_up == 1"), what="docker_up", seconds=60)
    watched = wait_for(lambda: query(swarm, "container_health"), what="container_health")

    assert (node, node, "docker") == (up["node"], up["instance"], up["job"])
    assert {node} == {series["node"] for series in watched}
    assert {"docker-prom-exporter", "docker-socket-proxy"} <= {
        series["name"].partition(".")[0].removeprefix(f"{STACK}_") for series in watched
    }
