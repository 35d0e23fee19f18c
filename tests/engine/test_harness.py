"""The private engines that other tests use are what they should be, and leave nothing behind.

The tests of the exporter on these engines show that their commands work: run, pause, kill, set a health.
"""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from docker import APIClient

from support.processes import CommandError
from support.real import DOCKER_20, DOCKER_26, PODMAN_6, Engine, EngineUnavailableError


def test_generations_speak_other_versions(docker_20: Engine, docker_26: Engine) -> None:
    """Two release lines of Docker run side by side, each with its own API version."""
    versions = [
        each.cli("version", "--format", "{{.Server.APIVersion}}")
        for each in (docker_20, docker_26)
    ]

    assert ["1.41", "1.45"] == versions


def test_image_stores_differ(docker_28: Engine, docker_28_containerd: Engine) -> None:
    """The same Docker release keeps its images in a graph driver or in containerd, as configured."""
    stores = [
        each.cli("info", "--format", "{{.DriverStatus}}")
        for each in (docker_28, docker_28_containerd)
    ]

    assert [False, True] == ["io.containerd.snapshotter.v1" in store for store in stores]


def test_rows_name_the_containerd_store(docker_28_containerd: Engine) -> None:
    """With the containerd image store a row of a multi-platform image has its manifest's descriptor."""
    docker_28_containerd.load_platforms("eight:tests")
    docker_28_containerd.crowd(running=0, created=20, labels={}, image="eight:tests")
    with closing(APIClient(base_url=docker_28_containerd.url, version="1.48")) as api:
        rows = api.containers(all=True)

    assert all("ImageManifestDescriptor" in row for row in rows)


def test_a_test_leaves_no_container(engine: Engine) -> None:
    """`restore` removes all containers, even paused ones of an engine that was killed."""
    engine.run("web")
    engine.cli("pause", "web")
    engine.kill()

    assert not engine.answers()

    engine.restore()

    assert "" == engine.cli("ps", "--all", "--quiet")


def test_nothing_is_left(engine: Engine) -> None:
    """`stop` ends the processes of a killed engine and removes its mounts, control groups and files."""
    engine.run("web")
    engine.cli("pause", "web")
    engine.kill()
    engine.stop()

    assert [] == engine.sandbox.processes()
    assert str(engine.sandbox.directory) not in Path("/proc/self/mounts").read_text()
    assert [] == engine.sandbox.cgroups()
    assert not engine.sandbox.directory.exists()


@pytest.mark.usefixtures("docker_20", "docker_26")
def test_one_engine_follows_another(tmp_path: Path) -> None:
    """Two release lines of Docker can follow each other on one socket, as in an upgrade."""
    versions = []
    for kind in (DOCKER_20, DOCKER_26):
        engine = Engine(kind, listen=tmp_path / "engine.sock")
        engine.start()
        versions.append(engine.cli("version", "--format", "{{.Server.APIVersion}}"))
        engine.stop()

    assert ["1.41", "1.45"] == versions


def test_the_reason_is_given() -> None:
    """The error for a missing engine names its programs and `tests/run`, which unpacks them."""
    engine = Engine(replace(DOCKER_20, version="19.03"))

    with pytest.raises(
        EngineUnavailableError, match=r"dockerd, docker, containerd not found: tests/run"
    ):
        engine.start()


@pytest.mark.usefixtures("podman_6")
def test_a_root_that_cannot_be_made_is_a_reason() -> None:
    """When Podman's root file system can't be made, the error has the reason."""
    engine = Engine(PODMAN_6)
    engine.sandbox.create()
    (engine.sandbox.state / "root").touch()

    with pytest.raises(EngineUnavailableError, match=r"podman-6 did not come up: .*root"):
        engine.start()


def test_a_failed_command_says_why(docker_26: Engine) -> None:
    """CommandError has what the client wrote to standard error."""
    with pytest.raises(CommandError, match=r"[Nn]o such"):
        docker_26.cli("inspect", "nobody")
