"""Ports for servers that must be told theirs."""

import itertools
import os
import socket
from contextlib import suppress

# Below the ports that the kernel gives to connections; other ones for each process that shares the tests.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw"))
_CANDIDATES = itertools.cycle(range(12000 + 1500 * _WORKER, 13500 + 1500 * _WORKER))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on and nobody else is given."""
    for port in _CANDIDATES:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("the candidates never end")
