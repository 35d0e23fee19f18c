"""A socket proxy: HAProxy with rules like those of the socket proxies that are based on it."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.missing import require_program
from support.ports import free_port
from support.processes import Command, Daemon
from support.waiting import wait_for

SETTINGS = {
    "version": "VERSION",
    "ping": "PING",
    "list": "CONTAINER_LIST",
    "inspect": "CONTAINER_INSPECT",
}
ALL = dict.fromkeys(SETTINGS.values(), "1")

# As in the proxies' own settings, idle connections live for 10 s and the engine has 10 minutes to answer.
_CONFIG = r"""
defaults
    mode http
    timeout http-request 10s
    timeout connect 10s
    timeout client 10m
    timeout server 10m
    timeout http-keep-alive {keep_alive}
frontend proxy
    bind 127.0.0.1:{port} {tls}
    acl version path,url_dec -m reg -i ^(/v[\d\.]+)?/version$
    acl ping path,url_dec -m reg -i ^(/v[\d\.]+)?/_ping$
    acl list path,url_dec -m reg -i ^(/v[\d\.]+)?/containers/json$
    acl inspect path,url_dec -m reg -i ^(/v[\d\.]+)?/containers/[a-zA-Z0-9_.-]+/json$
    acl containers path,url_dec -m reg -i ^(/v[\d\.]+)?/containers
    http-request deny unless METH_GET
    http-request allow if version {{ env(VERSION) -m bool }}
    http-request allow if ping {{ env(PING) -m bool }}
    http-request allow if list {{ env(CONTAINER_LIST) -m bool }}
    http-request allow if inspect {{ env(CONTAINER_INSPECT) -m bool }}
    http-request allow if containers {{ env(CONTAINERS) -m bool }}
    http-request deny
    default_backend engine
backend engine
    server engine unix@{engine}
"""


def all_but(*denied: str) -> dict[str, str]:
    """Return the settings that allow all endpoints except these."""
    return {
        setting: "0" if endpoint in denied else "1" for endpoint, setting in SETTINGS.items()
    }


class Proxy:
    """A socket proxy in front of an engine's socket, on a port that stays the same after a restart."""

    def __init__(self, folder: Path, engine: Path) -> None:
        self._program = require_program("haproxy")
        self._folder = folder
        self._engine = engine
        self._daemon = Daemon(folder / "haproxy.log")
        self.port = free_port()

    @property
    def url(self) -> str:
        """Return the proxy's address for `DOCKER_HOST`."""
        return f"tcp://127.0.0.1:{self.port}"

    def start(
        self, allowed: Mapping[str, str] = ALL, *, keep_alive: str = "10s", tls: str = ""
    ) -> None:
        """Start with these settings; HAProxy answers 403 to other requests. `tls` is appended to `bind`."""
        config = self._folder / "haproxy.cfg"
        config.write_text(
            _CONFIG.format(keep_alive=keep_alive, port=self.port, tls=tls, engine=self._engine)
        )
        self._daemon.start(Command([self._program, "-db", "-f", str(config)], dict(allowed)))
        wait_for(self._listens, what="HAProxy to listen")

    def stop(self) -> None:
        """Kill the proxy, which closes all its connections."""
        self._daemon.kill()

    def _listens(self) -> bool:
        if not self._daemon.running:
            raise ChildProcessError(f"HAProxy ended: {self._daemon.log_tail()}")
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def socket_proxy(
    folder: Path, engine: Path, allowed: Mapping[str, str], tls: str = ""
) -> Iterator[int]:
    """Yield the port of a proxy with these settings; kill the proxy afterwards."""
    proxy = Proxy(folder, engine)
    proxy.start(allowed, tls=tls)
    try:
        yield proxy.port
    finally:
        proxy.stop()
