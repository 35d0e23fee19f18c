"""The private engines that other tests use are what they should be, and leave nothing behind.

The tests of the exporter on these engines show that their commands work: run, pause, kill, set a health.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from support.real import DOCKER_20, Engine, EngineUnavailableError


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


def test_the_reason_is_given() -> None:
    """The error for a missing engine names its programs and `tests/run`, which unpacks them."""
    engine = Engine(replace(DOCKER_20, version="19.03"))

    with pytest.raises(
        EngineUnavailableError, match=r"dockerd, docker, containerd not found: tests/run"
    ):
        engine.start()
