"""registry.yml on a real engine: the exporter reports a pushed image and can't write to the storage."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.expositions import Scrape, parse
from support.images import EXPORTER, SAMPLE, provide
from support.machine import COMPOSE, Machine
from support.processes import CommandError
from support.waiting import wait_for

FILE = COMPOSE / "registry.yml"
PUSHED = "127.0.0.1:5000/team/sample:1"


@contextmanager
def deployed(machine: Machine, override: Path, image: str) -> Iterator[None]:
    """Start registry.yml with this registry image and a scan each second; remove everything afterwards."""
    services = {
        "docker-prom-exporter": {"environment": {"SCAN_INTERVAL": "1s"}},
        "registry": {"image": image},
    }
    override.write_text(json.dumps({"services": services}))
    machine.compose("up", "--detach", "--no-build", "--pull=never", files=(FILE, override))
    try:
        yield
    finally:
        machine.compose("down", "--volumes", "--timeout=1", files=(FILE, override))


def scrape(machine: Machine) -> Scrape:
    """Return a scrape of the exporter; an empty one while it does not answer."""
    try:
        return parse(machine.get("http://127.0.0.1:9000/metrics")[1])
    except OSError:
        return Scrape({})


@pytest.mark.parametrize("image", ["registry:2", "registry:3"])
def test_a_pushed_image_is_reported(machine: Machine, tmp_path: Path, image: str) -> None:
    """docker_registry_up is 1 before the first push; then the image is reported, and both become healthy."""
    provide(machine, EXPORTER, SAMPLE, image)
    with deployed(machine, tmp_path / "override.yml", image):
        wait_for(lambda: scrape(machine).value("docker_registry_up") == 1, what="the exporter")
        machine.cli("tag", SAMPLE, PUSHED)
        wait_for(lambda: pushes(machine), what="the registry to take a push")
        wait_for(
            lambda: scrape(machine).value("repository_tags_total") == 1,
            what="a scan",
            seconds=30,
        )
        found = scrape(machine)
        for name in ("registry", "docker-prom-exporter"):
            await_healthy(machine, f"docker-registry-{name}-1")
        with pytest.raises(CommandError, match="Read-only file system"):
            machine.exec(
                "docker-registry-docker-prom-exporter-1", "touch", "/var/lib/registry/x"
            )

    assert 1 == found.value("repository_tags_total", repository="team/sample")
    assert 0 < (
        found.value("repository_tag_size_bytes", repository="team/sample", tag="1") or 0
    )
    assert found.value("repository_size_bytes") == found.value(
        "docker_registry_blob_bytes", referenced_by="tag"
    )


def await_healthy(machine: Machine, name: str) -> None:
    """Wait until a container is healthy; the time limit exceeds the interval of the image's healthcheck."""
    wait_for(
        lambda: machine.health(name) == "healthy", what=f"{name} to be healthy", seconds=60
    )


def pushes(machine: Machine) -> bool:
    """Push the sample image and return whether the registry accepted it."""
    try:
        machine.cli("push", PUSHED)
    except CommandError:
        return False
    return True
