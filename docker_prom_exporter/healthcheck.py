"""The command `healthcheck`: ask a running exporter whether it is healthy.

Fast, because it runs often.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import Final

_TIMEOUT: Final = 2
_MAX_BYTES: Final = 4096
_OWN_ADDRESSES: Final = {"0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}  # noqa: S104  not for binding


def healthcheck(address: str, port: int, *, encrypted: bool) -> int:
    """Request `/-/healthy` from the exporter that listens there.

    Print the answer, return 0 or 1. It uses a socket, because importing http.client takes
    longer than everything else. The path needs no token, and no client certificate for
    requests from the exporter's own address. The exporter's certificate is not verified:
    nothing secret is sent, and without TLS the answer is trusted, too.
    """
    hosts = _OWN_ADDRESSES.get(address, (address,))
    try:
        connection = _connect(hosts, port)
        if encrypted:
            connection = _encrypted(connection)
        with connection, connection.makefile("rb") as file:
            connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            answer = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        where = f"{' and '.join(hosts)} port {port}"
        sys.stdout.write(f"no answer from {where}: {error.strerror or error}\n")
        return 1
    head, _, body = answer.partition("\r\n\r\n")
    sys.stdout.write(f"{body.strip()}\n")
    if head.startswith("HTTP/1.1 200 "):
        return 0
    return 1


def _connect(hosts: tuple[str, ...], port: int) -> socket.socket:
    """Connect to the first host that listens; a machine without IPv6 has no `::1`."""
    *others, last = hosts
    for host in others:
        with suppress(OSError):
            return socket.create_connection((host, port), _TIMEOUT)
    return socket.create_connection((last, port), _TIMEOUT)


def _encrypted(connection: socket.socket) -> socket.socket:
    import ssl  # noqa: PLC0415  importing ssl is slow, too

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)
