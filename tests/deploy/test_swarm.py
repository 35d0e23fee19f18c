"""swarm.yml on a real Swarm of one node: Prometheus discovers the exporter and labels it with the node."""

from collections.abc import Iterator

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


def test_prometheus_finds_the_exporter_of_each_node(swarm: Machine) -> None:
    """The exporter reaches Docker through the proxy of its node, and each series carries the node's name."""
    node = swarm.cli("node", "inspect", "self", "--format={{.Description.Hostname}}")
    up = wait_for(lambda: swarm.query("docker_up == 1"), what="docker_up")[0]["metric"]
    watched = wait_for(lambda: swarm.query("container_health"), what="container_health")
    labels = [series["metric"] for series in watched]

    assert (node, node, "docker") == (up["node"], up["instance"], up["job"])
    assert {node} == {series["node"] for series in labels}
    assert {"docker-prom-exporter", "docker-socket-proxy"} <= {
        series["name"].partition(".")[0].removeprefix(f"{STACK}_") for series in labels
    }
