"""A socket proxy: a real HAProxy with rules like those of the proxies that are built on it."""

import socket
from collections.abc import Collection
from pathlib import Path

from support.missing import require_program
from support.processes import Command, Daemon
from support.waiting import wait_for

ENDPOINTS = {
    "version": r"^(/v[\d\.]+)?/version$",
    "ping": r"^(/v[\d\.]+)?/_ping$",
    "list": r"^(/v[\d\.]+)?/containers/json$",
    "inspect": r"^(/v[\d\.]+)?/containers/[a-zA-Z0-9_.-]+/json$",
}

# Idle connections live for 10 s and a stuck engine is waited for 10 minutes, as in the proxies' own settings.
_CONFIG = """
global
    stats socket {stats} mode 600
defaults
    mode http
    timeout http-request 10s
    timeout connect 10s
    timeout client 10m
    timeout server 10m
    timeout http-keep-alive {keep_alive}
frontend proxy
    bind 127.0.0.1:{port}
    http-request deny unless METH_GET
{rules}
    http-request deny
    default_backend engine
backend engine
    server engine unix@{engine}
"""


class Proxy:
    """A socket proxy in front of an engine's socket, on a port of its own that stays the same."""

    def __init__(self, folder: Path, engine: Path) -> None:
        self._program = require_program("haproxy")
        self._folder = folder
        self._engine = engine
        self._daemon = Daemon(folder / "haproxy.log")
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self._address: tuple[str, int] = unused.getsockname()

    @property
    def url(self) -> str:
        """Return what `DOCKER_HOST` takes."""
        return "tcp://{}:{}".format(*self._address)

    def start(self, *, denied: Collection[str] = (), keep_alive: str = "10s") -> None:
        """Let all of `ENDPOINTS` through but those denied, which get HAProxy's own 403."""
        allowed = [pattern for name, pattern in ENDPOINTS.items() if name not in denied]
        rules = "\n".join(f"    http-request allow if {{ path -m reg {pattern} }}" for pattern in allowed)
        config = self._folder / "haproxy.cfg"
        config.write_text(
            _CONFIG.format(
                stats=self._folder / "stats",
                keep_alive=keep_alive,
                port=self._address[1],
                rules=rules.replace("\\", "\\\\"),
                engine=self._engine,
            )
        )
        self._daemon.start(Command([self._program, "-db", "-f", str(config)], {}))
        wait_for(self._listens, what="HAProxy to listen")

    def stop(self) -> None:
        """End it at once, with all its connections."""
        self._daemon.kill()

    def _listens(self) -> bool:
        if not self._daemon.running:
            raise ChildProcessError(f"HAProxy ended: {self._daemon.last_words()}")
        try:
            socket.create_connection(self._address, 1).close()
        except ConnectionRefusedError:
            return False
        return True
