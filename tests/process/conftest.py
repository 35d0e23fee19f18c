"""The fixtures of tests/process."""

from collections.abc import Iterator

import pytest

from support.simulated import Simulation, simulation


@pytest.fixture
def simulated() -> Iterator[Simulation]:
    """Yield a simulated engine with one healthy container."""
    with simulation() as engine:
        engine.stage.add("web", health="healthy")
        yield engine
