"""Fixtures of the unit tests: simulated servers, no signal handlers, no pauses and a log that is reset."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import structlog
from tenacity import wait_none

from docker_prom_exporter import cli, commands, poller
from docker_prom_exporter.registry import storage
from support.gateway import FakeGateway, fake_gateway
from support.simulated import Simulation, simulation


@pytest.fixture
def simulated() -> Iterator[Simulation]:
    """Yield a simulated engine without containers that listens and has the newest API version."""
    with simulation() as engine:
        yield engine


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """Yield a fake Pushgateway."""
    with fake_gateway() as server:
        yield server


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Replace `StopSignals` with a mock, so that commands leave pytest's signal handlers alone."""
    signals = Mock()
    for module in (cli, commands):
        monkeypatch.setattr(module, "StopSignals", signals)
    return signals


@pytest.fixture(autouse=True)
def _no_pause_between_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a registry scan check suspect repositories again without a pause."""
    monkeypatch.setattr(storage, "_SECONDS_BETWEEN_CHECKS", 0)


@pytest.fixture(autouse=True)
def _no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a poll repeat a failed attempt without a pause."""
    monkeypatch.setattr(poller, "wait_fixed", lambda _: wait_none())


@pytest.fixture(autouse=True)
def _reset_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for owner, name in (
        *((sys, name) for name in ("stderr", "excepthook", "unraisablehook")),
        (threading, "excepthook"),
        (warnings, "showwarning"),
        *((logging, name) for name in ("lastResort", "raiseExceptions")),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    yield
    structlog.reset_defaults()
