"""Free ports for servers that need a port number at their start."""

import itertools
import os
import socket
from contextlib import suppress

# Below the kernel's ephemeral ports. Each process that shares the tests has its own range.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw"))
_CANDIDATES = itertools.cycle(range(12000 + 1500 * WORKER, 13500 + 1500 * WORKER))


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free and that no other caller gets soon."""
    for port in _CANDIDATES:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("unreachable: the candidates are endless")
