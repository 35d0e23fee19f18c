"""A simulated engine for whoever asks for one, and a log and signals that are as before after each test."""

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import structlog

from docker_prom_exporter import cli, commands
from docker_prom_exporter.registry import storage
from support.simulated import Simulation, simulation


@pytest.fixture
def simulated() -> Iterator[Simulation]:
    """Yield a listening engine of the newest API version, with nobody on its stage."""
    with simulation() as engine:
        yield engine


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Leave the handling of signals to pytest, and return what stands in for it in the command."""
    signals = Mock()
    for module in (cli, commands):
        monkeypatch.setattr(module, "StopSignals", signals)
    return signals


@pytest.fixture(autouse=True)
def _no_pause_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a scan of a registry look again at once: nothing is being written, unless a test does it."""
    monkeypatch.setattr(storage, "_SECONDS_BETWEEN_LOOKS", 0)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()
