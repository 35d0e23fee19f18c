"""Owns the question to a running exporter whether it is healthy: quick, as it is asked every few seconds."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from docker_prom_exporter.settings import Settings

_SECONDS: Final = 2
_MOST_BYTES: Final = 4096
_ALL_ADDRESSES: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  not bound to, but replaced


def healthcheck(settings: Settings) -> int:
    """Ask `/-/healthy` at the address and port of the same settings; print the answer, return 0 or 1.

    By hand over a socket: http.client takes longer to import than all the rest takes together. It needs no
    token and no client certificate: the path asks for no token, and who comes from the exporter's own
    address gets to it without a certificate. Nor does it look at the exporter's certificate: it sends no
    secret, and believes what it hears there without TLS, too.
    """
    address = _ALL_ADDRESSES.get(settings.listen_addr, settings.listen_addr), settings.listen_port
    try:
        head, _, body = _ask(address, tls=settings.web_tls_cert_file is not None).partition("\r\n\r\n")
    except OSError as error:
        sys.stdout.write(f"no answer from {address[0]} port {address[1]}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(f"{body.strip()}\n")
    return 0 if head.startswith("HTTP/1.1 200 ") else 1


def _ask(address: tuple[str, int], *, tls: bool) -> str:
    with _connected(address, tls=tls) as connection:
        connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        answer = b""
        while len(answer) < _MOST_BYTES and (chunk := connection.recv(_MOST_BYTES)):
            answer += chunk
    return answer.decode("utf-8", "replace")


def _connected(address: tuple[str, int], *, tls: bool) -> socket.socket:
    connection = socket.create_connection(address, _SECONDS)
    if not tls:
        return connection
    import ssl  # noqa: PLC0415  it takes a while, too

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)
