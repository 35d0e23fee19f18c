"""A machine of its own to deploy on: one engine with networks and Compose, for all tests here."""

import signal
from collections.abc import Iterator

import pytest

from support.machine import Machine
from support.missing import give_up
from support.real import EngineUnavailableError


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """Yield a machine; where it can't be had, skip the test, or fail it in CI."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = Machine()
    try:
        machine.start()
    except EngineUnavailableError as error:
        give_up(str(error))
    yield machine
    machine.stop()
    signal.signal(signal.SIGTERM, before)
