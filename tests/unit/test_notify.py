"""Messages to systemd, on real datagram sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_prom_exporter.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Yield a socket like systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        name = str(tmp_path / "notify")
        server.bind(name if request.param == "path" else f"\0{name}")
        server.settimeout(5)
        yield server


def environment(manager: socket.socket, **others: str) -> dict[str, str]:
    name = manager.getsockname()
    return {
        "NOTIFY_SOCKET": name if isinstance(name, str) else f"@{name[1:].decode()}"
    } | others


def received(manager: socket.socket) -> list[str]:
    manager.settimeout(0)
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_a_start_and_a_stop(manager: socket.socket) -> None:
    """The start is extended until the first result; then the service is ready, once."""
    notifier = Notifier(environment(manager))
    pauses = [
        notifier.report(ready=ready, healthy=True) for ready in (False, False, True, True)
    ]
    notifier.stopping()

    assert [1, 1, None, None] == pauses
    assert ["EXTEND_TIMEOUT_USEC=30000000"] * 2 + ["READY=1", "STOPPING=1"] == received(
        manager
    )


@pytest.mark.parametrize("pid", [{}, {"WATCHDOG_PID": str(os.getpid())}], ids=["any", "own"])
def test_the_watchdog(manager: socket.socket, pid: dict[str, str]) -> None:
    """The watchdog hears twice an interval from a healthy service, and nothing from a stuck one."""
    notifier = Notifier(environment(manager, WATCHDOG_USEC="60000000", **pid))
    pauses = [notifier.report(ready=True, healthy=healthy) for healthy in (True, False, True)]

    assert [30, 30, 30] == pauses
    assert ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] == received(manager)


def test_a_stuck_start(manager: socket.socket) -> None:
    """A start that is stuck is not extended."""
    assert 1 == Notifier(environment(manager)).report(ready=False, healthy=False)
    assert [] == received(manager)


@pytest.mark.parametrize(
    "variables",
    [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": ""}],
    ids=str,
)
def test_no_watchdog(manager: socket.socket, variables: dict[str, str]) -> None:
    """A watchdog for another process, or without an interval, gets no messages."""
    notifier = Notifier(environment(manager, **{"WATCHDOG_USEC": "1", **variables}))

    assert None is notifier.report(ready=True, healthy=True)
    assert ["READY=1"] == received(manager)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": "/nonexistent"},
        {"WATCHDOG_USEC": "1"},
    ],
    ids=str,
)
def test_without_systemd(environ: dict[str, str]) -> None:
    """Without a socket nothing is sent, and one that nobody listens on stops nothing."""
    notifier = Notifier(environ)
    notifier.stopping()

    assert None is notifier.report(ready=True, healthy=True)
