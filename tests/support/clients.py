"""An HTTP client that behaves like Prometheus, with a client certificate, a token, or neither."""

import http.client
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from support.exporters import AT_ONCE, Exporter


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes until the other side closes or resets the connection."""
    answer = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@dataclass(frozen=True)
class Client:
    """A client of an exporter, over TLS if `tls` is set; `address` is its source address."""

    exporter: Exporter
    tls: ssl.SSLContext | None = None
    token: str = ""
    address: str = "127.0.0.1"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return the status and body of a response; raise TimeoutError if it is not there at once."""
        connection = self._connection()
        authorization = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        began = time.monotonic()
        try:
            connection.request("GET", path, headers={**authorization, **headers})
            response = connection.getresponse()
            status, body = response.status, response.read().decode()
        finally:
            connection.close()
        if time.monotonic() - began > AT_ONCE:
            raise TimeoutError(f"{path} took {time.monotonic() - began:.2f} s")
        return status, body

    def _connection(self) -> http.client.HTTPConnection:
        url = urlsplit(self.exporter.url)
        host, port = str(url.hostname), url.port
        if self.tls is None:
            return http.client.HTTPConnection(
                host, port, timeout=AT_ONCE, source_address=(self.address, 0)
            )
        return http.client.HTTPSConnection(
            host, port, timeout=AT_ONCE, source_address=(self.address, 0), context=self.tls
        )
