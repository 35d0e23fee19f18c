"""The requests of a poll, and the healths that it finds."""

from collections.abc import Callable
from typing import Any

import pytest

from docker_prom_exporter.snapshot import ENDPOINTS, Mode, Snapshot
from support.simulated import Simulation

STEADY = {"version": 0, "ping": 1, "list": 1, "inspect": 0}
"""The requests of a poll in list mode when nothing has changed."""


def force_mode(patch: pytest.MonkeyPatch, mode: Mode) -> None:
    """Let all polls use this mode, whatever the engine is."""
    patch.setattr("docker_prom_exporter.collect.choose_mode", lambda **_: mode)


def healths(snapshot: Snapshot) -> dict[str, int]:
    """Return the health of each container by name."""
    return {container.name: int(container.health) for container in snapshot.containers}


def asked(simulated: Simulation, poll: Callable[[], Any]) -> dict[str, int]:
    """Count the requests of a poll to each endpoint."""
    before = {endpoint: simulated.asked(endpoint) for endpoint in ENDPOINTS}
    poll()
    return {endpoint: simulated.asked(endpoint) - count for endpoint, count in before.items()}
