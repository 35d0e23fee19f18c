"""Clients that try to keep an exporter from answering other clients, each in its own process."""

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

_FAMILIES = (
    "container_health",
    "docker_container_created_timestamp_seconds",
    "docker_container_health_status",
    "docker_container_info",
    "docker_container_oom_killed",
    "docker_container_restarts_total",
    "docker_container_started_timestamp_seconds",
    "docker_container_state",
)
NAMES = "/metrics?" + "&".join(f"name[]={name}" for name in _FAMILIES)

_MAX_SECONDS = 60
_PAUSE = 0.001  # without it, the clients use up the CPU time of the exporter's cores

Address = tuple[str, int]


def hang_up(address: Address) -> None:
    """Send a request with a large answer, and close the connection without reading."""
    with socket.create_connection(address, 5) as connection:
        connection.sendall(f"GET {NAMES} HTTP/1.1\r\n\r\n".encode())


def ask_for_odd_versions(address: Address) -> None:
    """Request OpenMetrics versions that do not exist, a different one each time."""
    for number in range(100):
        _ask(address, f"Accept: application/openmetrics-text; version=1.0.{number}\r\n")


def ask_for_many_fields(address: Address) -> None:
    """Send a query with more fields than the exporter accepts."""
    _ask(address, path=f"/metrics?{'&' * 5000}")


def send_many_headers(address: Address) -> None:
    """Send more headers than the exporter accepts."""
    _ask(address, 200 * "X: y\r\n")


def browse(address: Address) -> None:
    """Request the status page."""
    _ask(address, "Accept: text/html\r\n", path="/")


def stay_silent(address: Address) -> None:
    """Open more connections than the exporter serves, and send nothing."""
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(address, 5))


def send_half_a_request(address: Address) -> None:
    """Open connections, and send an incomplete request on each."""
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(address, 5)).sendall(
                b"GET /metrics HTTP/1.1\r\n"
            )


def read_nothing(address: Address) -> None:
    """Send many requests on one connection, and read no answer."""
    with socket.create_connection(address, 0.2) as connection:
        for _ in range(100):
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 100)


def _ask(address: Address, headers: str = "", path: str = "/metrics") -> None:
    with socket.create_connection(address, 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n{headers}\r\n".encode())
        while connection.recv(65536):
            pass


ATTACKS: tuple[Callable[[Address], None], ...] = (
    hang_up,
    ask_for_odd_versions,
    ask_for_many_fields,
    send_many_headers,
    browse,
    stay_silent,
    send_half_a_request,
    read_nothing,
)


@contextmanager
def hostile_clients(url: str) -> Iterator[None]:
    """Run one client for each attack, for a minute at most."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    with ExitStack() as stack:
        for number in range(len(ATTACKS)):
            argv = [sys.executable, __file__, str(host), str(port), str(number)]
            process = stack.enter_context(subprocess.Popen(argv))
            stack.callback(process.kill)
        yield


def _main(host: str, port: str, number: str) -> None:
    os.nice(10)  # clients on another machine would not use the exporter's CPU
    ends = time.monotonic() + _MAX_SECONDS
    for _ in itertools.takewhile(lambda _: time.monotonic() < ends, itertools.count()):
        with suppress(OSError):
            ATTACKS[int(number)]((host, int(port)))
        time.sleep(_PAUSE)


if __name__ == "__main__":
    _main(*sys.argv[1:])
