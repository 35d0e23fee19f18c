"""The machine that all tests here deploy on: one engine with networks of its own and Compose."""

import signal
from collections.abc import Iterator

import pytest

from support.machine import Machine
from support.missing import give_up
from support.real import EngineUnavailableError


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """Yield a machine; if it can't be started, skip the test, or fail it in CI."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = Machine()
    try:
        machine.start()
    except EngineUnavailableError as error:
        give_up(str(error))
    yield machine
    machine.stop()
    signal.signal(signal.SIGTERM, before)
