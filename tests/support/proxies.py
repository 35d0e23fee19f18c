"""A socket proxy: real HAProxy with rules like those of the proxies made from it."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.missing import require_program
from support.processes import Command, Daemon
from support.waiting import wait_for

ALL = {"PING": "1", "VERSION": "1", "CONTAINER_LIST": "1", "CONTAINER_INSPECT": "1"}

_CONFIG = r"""
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10m
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
    server engine unix@{listen}
"""


@contextmanager
def socket_proxy(folder: Path, listen: Path, allowed: Mapping[str, str], tls: str = "") -> Iterator[int]:
    """Yield the port of a proxy for the engine at `listen`; `tls` is what `bind` takes for it."""
    program = require_program("haproxy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / f"haproxy-{port}.cfg"
    config.write_text(_CONFIG.format(port=port, listen=listen, tls=tls))
    daemon = Daemon(folder / f"haproxy-{port}.log")
    daemon.start(Command([program, "-db", "-f", str(config)], dict(allowed)))
    try:
        wait_for(lambda: _listens(port), what="HAProxy to listen")
        yield port
    finally:
        daemon.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
