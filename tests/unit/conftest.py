"""A simulated engine for whoever asks for one."""

from collections.abc import Iterator

import pytest

from support.simulated import Simulation, simulation


@pytest.fixture
def simulated() -> Iterator[Simulation]:
    """Yield a listening engine of the newest API version, with nobody on its stage."""
    with simulation() as engine:
        yield engine
