"""Every serving command tells systemd when it is ready, that it works, and that it stops."""

import signal
import socket
from pathlib import Path

import pytest

from support.exporters import exporter
from support.gateway import fake_gateway
from support.simulated import Simulation, hangs
from support.waiting import wait_for


def until(manager: socket.socket, message: str) -> list[str]:
    """Return the messages up to this one."""
    messages: list[str] = []
    while message not in messages:
        messages.append(manager.recv(4096).decode())
    return messages


@pytest.mark.parametrize("command", ["serve", "demo", "registry", "expire"])
def test_messages_to_systemd(command: str, tmp_path: Path, simulated: Simulation) -> None:
    """A serving command is ready after its first result, then feeds the watchdog, and ends."""
    with (
        fake_gateway() as gateway,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        arguments = {
            "serve": [f"--docker-host={simulated.url}"],
            "registry": ["registry", str(tmp_path)],
            "expire": ["expire", f"--push-url={gateway.url}"],
        }.get(command, [command])
        watched = ("env", f"NOTIFY_SOCKET={tmp_path}/notify", "WATCHDOG_USEC=200000")
        with exporter(*arguments, wrapper=watched) as running:
            messages = until(manager, "WATCHDOG=1")
            again = until(manager, "WATCHDOG=1")
            ready = running.get("/-/ready")[0]
            running.stop(signal.SIGTERM)
            last = until(manager, "STOPPING=1")[-1]

    assert ["READY=1", "WATCHDOG=1"] == messages[-2:]
    assert ["WATCHDOG=1"] == again
    assert (200, "STOPPING=1") == (ready, last)


def test_a_start_while_the_engine_hangs(tmp_path: Path, simulated: Simulation) -> None:
    """While the first poll has not ended, the service is not ready, and the start is extended."""
    simulated.faults = {"version": hangs()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        wrapper = ("env", f"NOTIFY_SOCKET={tmp_path}/notify")
        options = (f"--docker-host={simulated.url}", "--docker-timeout=600")
        with exporter(*options, wrapper=wrapper) as running:
            first = until(manager, "EXTEND_TIMEOUT_USEC=30000000")
            wait_for(lambda: running.get("/-/ready")[0] == 503, what="the answer not ready")

    assert ["EXTEND_TIMEOUT_USEC=30000000"] == first
