"""The shipped Compose files: their permissions, container health through each, errors on a denial."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter.containers import LABEL
from support.dashboard import panel_queries
from support.images import (
    CALUM4,
    EXPORTER,
    LINUXSERVER,
    SAMPLE,
    TECNATIVA,
    WOLLOMATIC,
    provide,
)
from support.machine import COMPOSE, Machine
from support.waiting import wait_for

EXPORTER_SERVICE = "docker-prom-exporter"
EXPIRE_SERVICE = "expire"
PROXY_SERVICE = "docker-socket-proxy"
FILES = sorted({*COMPOSE.glob("*.yml")} - {*COMPOSE.glob("*.kubernetes.yml")})
PROXY_FILES = [*sorted(COMPOSE.glob("socket-proxy.*.yml")), COMPOSE / "monitoring.yml"]
PROXIES = {
    "calum4": CALUM4,
    "linuxserver": LINUXSERVER,
    "tecnativa": TECNATIVA,
    "wollomatic": WOLLOMATIC,
}
PUSH_IMAGES = ("prom/pushgateway:v1.11.1", "prom/prometheus:v3.5.0")
PUSHED = next(
    expr for name, expr in panel_queries() if name == "Pushed hosts: age of the data A"
)
GATEWAY_UP = "docker_exporter_gateway_up == 1"
HEALTH = {"healthy": 4, "unhealthy": 3, "plain": 2, "stopped": 1}
CHECK = ["--health-interval=500ms", "--health-retries=1"]

EXPORTERS = [
    *((file, EXPORTER_SERVICE) for file in FILES),
    (COMPOSE / "pushgateway.yml", EXPIRE_SERVICE),
]


def service_of(machine: Machine, file: Path, name: str) -> dict[str, Any]:
    """Return a service as Compose resolves it; an empty dict if the file has none of that name."""
    config = json.loads(machine.compose("config", "--format=json", files=(file,)))
    return dict(config["services"].get(name, {}))


@contextmanager
def sample_containers(machine: Machine) -> Iterator[None]:
    """Run one container for each entry of `HEALTH`; remove them afterwards."""
    options = {
        "healthy": [*CHECK, "--health-cmd=true"],
        "unhealthy": [*CHECK, "--health-cmd=false"],
        "plain": [],
        "stopped": [],
    }
    for name, more in options.items():
        machine.run(
            name, image=SAMPLE, labels={LABEL: "true"}, options=["--network=none", *more]
        )
    machine.cli("stop", "stopped")
    try:
        yield
    finally:
        machine.cli("rm", "--force", *options)


def reported_health(machine: Machine) -> dict[str, float]:
    """Return `container_health` by container name; an empty dict while the exporter does not answer."""
    return machine.scrape().by("name", "container_health")


def await_health(machine: Machine) -> dict[str, float]:
    """Wait until the exporter reports the sample containers as in `HEALTH`; return all that it reports."""
    return (
        wait_for(
            lambda: (found := reported_health(machine)).items() >= HEALTH.items() and found,
            what=f"container_health of {HEALTH}",
        )
        or {}
    )


def status_through_proxy(machine: Machine, path: str) -> int:
    """Return the status with which the proxy answers a GET from the exporter's container."""
    script = (
        "import http.client as h; c = h.HTTPConnection('docker-socket-proxy', 2375, timeout=5); "
        f"c.request('GET', '{path}'); print(c.getresponse().status)"
    )
    return int(
        machine.exec(f"{EXPORTER_SERVICE}-{EXPORTER_SERVICE}-1", "python3", "-c", script)
    )


@pytest.mark.parametrize(
    ("file", "name"), EXPORTERS, ids=lambda part: getattr(part, "stem", part)
)
def test_an_exporter_has_no_more_than_it_needs(
    machine: Machine, file: Path, name: str
) -> None:
    """Each exporter runs read-only, without capabilities, with limits, and is published on 127.0.0.1 only."""
    exporter = service_of(machine, file, name)
    mounted, swarm = "mount" in file.stem, file.stem == "swarm"
    limits = exporter["deploy"]["resources"]["limits"] if swarm else {}

    assert ("0:0" if mounted else "65534:65534") == exporter["user"]
    assert exporter["read_only"]
    assert ["ALL"] == exporter["cap_drop"]
    assert exporter["healthcheck"]["test"][-1] == "healthcheck"
    assert "true" == exporter["labels"][LABEL]
    assert swarm or ["no-new-privileges:true"] == exporter["security_opt"]
    assert int(limits.get("memory", exporter.get("mem_limit", 0))) == 128 * 1024 * 1024
    assert limits.get("pids", exporter.get("pids_limit")) == 96
    assert {"127.0.0.1"} >= {port["host_ip"] for port in exporter.get("ports", [])}


@pytest.mark.parametrize("file", PROXY_FILES, ids=lambda file: file.stem)
def test_a_proxy_is_watched_and_alone_with_the_exporter(machine: Machine, file: Path) -> None:
    """A proxy is watched, publishes no port, and shares an internal network with the exporter only."""
    config = json.loads(machine.compose("config", "--format=json", files=(file,)))
    services = config["services"]
    proxy = services[PROXY_SERVICE]
    members = {
        name
        for name, service in services.items()
        if "docker-api" in service.get("networks", {})
    }

    assert "true" == proxy["labels"][LABEL]
    assert "ports" not in proxy
    assert ["docker-api"] == list(proxy["networks"])
    assert config["networks"]["docker-api"]["internal"]
    assert {PROXY_SERVICE, EXPORTER_SERVICE} == members


@pytest.mark.parametrize("proxy", PROXIES)
def test_health_comes_through_a_proxy(machine: Machine, proxy: str) -> None:
    """The exporter reports each kind of container through the proxy, which denies other endpoints."""
    provide(machine, EXPORTER, SAMPLE, PROXIES[proxy])
    with sample_containers(machine), machine.deployed(COMPOSE / f"socket-proxy.{proxy}.yml"):
        found = await_health(machine)
        denied = {
            path: status_through_proxy(machine, path)
            for path in ("/images/json", "/v1.45/info", "/events", "/networks", "/secrets")
        }
        archive = status_through_proxy(machine, "/containers/plain/archive?path=/bin/busybox")
        stats = status_through_proxy(machine, "/containers/plain/stats?stream=false")

    assert 2 == found[f"{EXPORTER_SERVICE}-{PROXY_SERVICE}-1"]
    assert f"{EXPORTER_SERVICE}-{EXPORTER_SERVICE}-1" in found
    assert {403} == {*denied.values()}
    assert (200 if proxy == "tecnativa" else 403) == archive, "as the file's comment says"
    assert (200 if proxy in ("linuxserver", "tecnativa") else 403) == stats, (
        "as the file's comment says"
    )


def test_health_comes_through_a_mounted_socket(machine: Machine) -> None:
    """The exporter reports each kind of container through the mounted socket."""
    provide(machine, EXPORTER, SAMPLE)
    with sample_containers(machine), machine.deployed(COMPOSE / "socket-mount.yml"):
        found = await_health(machine)

    assert HEALTH.items() <= found.items()


def test_health_comes_through_a_pushgateway(machine: Machine) -> None:
    """Prometheus gets container health from the Pushgateway under the pushed instance; expire is healthy."""
    provide(machine, EXPORTER, SAMPLE, WOLLOMATIC, *PUSH_IMAGES)
    with sample_containers(machine), machine.deployed(COMPOSE / "pushgateway.yml"):
        found = wait_for(
            lambda: (health := pushed_health(machine)).items() >= HEALTH.items() and health,
            what="Prometheus to have the pushed samples",
        )
        age = wait_for(
            lambda: machine.query(PUSHED), what="the dashboard's panel to show the push"
        )
        wait_for(
            lambda: machine.query(GATEWAY_UP), what="expire to reach the gateway", seconds=30
        )
        expire = wait_for(
            lambda: pushed_health(machine).get("docker-pushed-expire-1"),
            what="the verdict of expire's healthcheck",
        )
        kept = kept_over_an_upgrade(machine)

    assert found
    assert 4 == expire
    assert kept
    assert [True] == [0 <= float(series["value"][1]) < 60 for series in age]


def kept_over_an_upgrade(machine: Machine) -> bool:
    """Return whether a new container of the gateway has a group that was pushed to the old one."""
    files = (COMPOSE / "pushgateway.yml",)
    gateway = "http://127.0.0.1:9091"
    machine.get(f"{gateway}/metrics/job/once/instance/gone", post=b"docker_up 1\n")
    machine.compose(
        "up", "--detach", "--no-deps", "--force-recreate", "pushgateway", files=files
    )

    def has_group() -> bool:
        try:
            return 'instance="gone"' in machine.get(f"{gateway}/metrics")[1]
        except OSError:
            return False

    return bool(wait_for(has_group, what="the new gateway to have the group", seconds=30))


def pushed_health(machine: Machine) -> dict[str, int]:
    """Return the pushing host's `container_health` in Prometheus, by container name."""
    found = machine.query('container_health{instance="docker-host"}')
    return {series["metric"]["name"]: int(series["value"][1]) for series in found}


def test_all_exporters_come_from_one_variable(machine: Machine) -> None:
    """DOCKER_PROM_EXPORTER_IMAGE names the image in each file; without it, it is built here."""
    for file, name in EXPORTERS:
        service = service_of(machine, file, name)

        assert "docker-prom-exporter" == service["image"], file.name
        assert "${DOCKER_PROM_EXPORTER_IMAGE:-docker-prom-exporter}" in file.read_text()


def test_proxies_are_pinned() -> None:
    """No proxy but calum4's, which has no other tag, is named by a tag that moves."""
    pinned = r"@sha256:[0-9a-f]{64}|:\d+\.\d+\.\d+-r\d+-ls\d+"
    for file in FILES:
        for image in re.findall(
            r"^ +image: (\S+socket-proxy\S*)$", file.read_text(), re.MULTILINE
        ):
            assert image == CALUM4 or re.search(f"({pinned})$", image), file.name


def test_wollomatics_rule_allows_the_exporters_paths(machine: Machine) -> None:
    """The regular expression allows each path that the exporter requested, and none of six others."""
    proxy = service_of(machine, COMPOSE / "socket-proxy.wollomatic.yml", PROXY_SERVICE)
    swarm = service_of(machine, COMPOSE / "swarm.yml", PROXY_SERVICE)
    rule = re.compile(
        next(arg for arg in proxy["command"] if "-allowGET" in arg).removeprefix("-allowGET=")
    )
    file = COMPOSE / "socket-proxy.calum4.yml"
    provide(machine, EXPORTER, PROXIES["calum4"])
    with machine.deployed(file):
        wait_for(lambda: reported_health(machine), what="the exporter")
        seen = re.findall(
            r'"GET ([^ ?"]+)', machine.compose("logs", PROXY_SERVICE, files=(file,))
        )
    container = "/v1.45/containers/" + 64 * "a"
    others = [
        "/info",
        "/images/json",
        "/events",
        f"{container}/logs",
        f"{container}/archive",
        "/v1.45/exec/a/json",
    ]

    assert {"version", "_ping", "json"} == {path.rpartition("/")[2] for path in seen}
    assert [path for path in seen if not rule.fullmatch(path)] == []
    assert [path for path in others if rule.fullmatch(path)] == []
    assert f"-allowGET={rule.pattern}" in swarm["command"]
