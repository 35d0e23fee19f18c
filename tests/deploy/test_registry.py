"""registry.yml on a real engine: the exporter reports a pushed image and can't write to the storage."""

import json
from pathlib import Path

import pytest

from support.images import EXPORTER, SAMPLE, provide
from support.machine import COMPOSE, Machine
from support.processes import CommandError
from support.waiting import wait_for

FILE = COMPOSE / "registry.yml"
SERVICES = ("registry", "docker-prom-exporter")
PUSHED = "127.0.0.1:5000/team/sample:1"


@pytest.mark.parametrize("image", ["registry:2", "registry:3"])
def test_a_pushed_image_is_reported(machine: Machine, tmp_path: Path, image: str) -> None:
    """docker_registry_up is 1 before the first push; then the image is reported, and both become healthy."""
    services = {
        "docker-prom-exporter": {"environment": {"SCAN_INTERVAL": "1s"}},
        "registry": {"image": image},
    }
    override = tmp_path / "override.yml"
    override.write_text(json.dumps({"services": services}))
    provide(machine, EXPORTER, SAMPLE, image)
    with machine.deployed(FILE, override):
        wait_for(
            lambda: machine.scrape().value("docker_registry_up") == 1, what="the exporter"
        )
        machine.cli("tag", SAMPLE, PUSHED)
        wait_for(lambda: pushes(machine), what="the registry to take a push")
        wait_for(
            lambda: machine.scrape().value("repository_tags_total") == 1,
            what="a scan",
            seconds=30,
        )
        found = machine.scrape()
        wait_for(
            lambda: (
                {machine.health(f"docker-registry-{name}-1") for name in SERVICES}
                == {"healthy"}
            ),
            what="both to be healthy",
        )
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


def pushes(machine: Machine) -> bool:
    """Push the sample image and return whether the registry accepted it."""
    try:
        machine.cli("push", PUSHED)
    except CommandError:
        return False
    return True
