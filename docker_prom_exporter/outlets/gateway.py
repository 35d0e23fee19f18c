"""Requests to a Pushgateway."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from docker_prom_exporter import __version__
from docker_prom_exporter.deadline import call
from docker_prom_exporter.outlets.errors import MAX_DETAIL, OutletError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from docker_prom_exporter.settings import Settings

T = TypeVar("T")

_MAX_BYTES: Final = 64 * 1024

_ADVICE_BY_STATUS: Final = {
    401: "check --push-username and --push-password-file",
    403: "check --push-username and --push-password-file",
    404: "check the path of --push-url",
    407: "check --push-url: it leads to a proxy",
}


class GatewayRequest(NamedTuple):
    """A request to a Pushgateway."""

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class Gateway:
    """A Pushgateway. Each request opens a connection.

    Redirects are not followed and the environment's proxies are not used, so that only
    `--push-url` gets the password. Raises `OutletError` if the password or the
    certificates can't be read.
    """

    url: str
    # Opens a connection; takes its `timeout` in seconds.
    _connect: Callable[..., http.client.HTTPConnection]

    def __init__(self, settings: Settings) -> None:
        self.url = settings.push_url or ""
        self._username = settings.push_username
        self._password_file = settings.push_password_file
        # A missing file is reported at the start. Later it may be replaced.
        self._authorization()
        url = urlsplit(self.url)
        host, ca_file = url.hostname or "", settings.push_ca_file
        # Only if they are needed: the system's certificates take a megabyte.
        # Without a port http.client would look for one in an IPv6 address.
        if url.scheme == "https":
            port = url.port or http.client.HTTPS_PORT
            self._connect = partial(
                http.client.HTTPSConnection, host, port, context=_tls(ca_file)
            )
            return
        if ca_file:
            _tls(ca_file)  # a file that can't be used is reported all the same
        port = url.port or http.client.HTTP_PORT
        self._connect = partial(http.client.HTTPConnection, host, port)

    def send(
        self,
        request: GatewayRequest,
        seconds: float,
        parse: Callable[[http.client.HTTPResponse], T],
    ) -> T:
        """Send a request, and return what `parse` makes of a 2xx answer, all within `seconds`.

        Raises `OutletError`; `parse` may raise it, too.
        """
        agent = f"docker-prom-exporter/{__version__}"
        headers = {**dict(request.headers), **self._authorization(), "User-Agent": agent}
        path = urlsplit(request.url).path
        connection = self._connect(timeout=seconds)
        # `connection.sock` becomes `None` with an answer after which the gateway closes.
        sockets: list[socket.socket] = []

        def exchange() -> T:
            with closing(connection):
                connection.request(request.method, path, request.body, headers)
                sockets.append(connection.sock)
                with connection.getresponse() as response:
                    if not 200 <= response.status < 300:
                        raise _status_error(response)
                    return parse(response)

        try:
            return call(exchange, seconds, lambda _: _shut_down(*sockets, connection.sock))
        except TimeoutError as error:
            raise OutletError("timeout", f"no answer within {seconds:.3g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise OutletError("unreachable", one_line(error)) from error

    def _authorization(self) -> dict[str, str]:
        if self._username is None or self._password_file is None:
            return {}
        try:
            password = Path(self._password_file).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            detail = (
                f"can't read --push-password-file {self._password_file}: {one_line(error)}"
            )
            raise OutletError("no_password", detail) from error
        token = base64.b64encode(self._username.encode() + b":" + password).decode()
        return {"Authorization": f"Basic {token}"}


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OutletError(
            "no_ca", f"can't read --push-ca-file {ca_file}: {one_line(error)}"
        ) from error
    # The flags of curl: Python 3.13 sets both, and many private CAs don't pass the first.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context


def _shut_down(*sockets: socket.socket | None) -> None:
    """Shut down sockets, so that no thread waits for them."""
    for each in filter(None, sockets):  # there is none yet during the name lookup
        with suppress(OSError):
            socket.socket.shutdown(each, socket.SHUT_RDWR)


def _status_error(response: http.client.HTTPResponse) -> OutletError:
    status = response.status
    if 300 <= status < 400:
        target = response.getheader("Location")
        detail = f"redirects are not followed; it leads to {target}: set --push-url"
    else:
        text = beginning(response).decode("utf-8", "replace")
        detail = _ADVICE_BY_STATUS.get(status, " ".join(text.split()))
    return OutletError(f"{status} {response.reason}".rstrip(), detail[:MAX_DETAIL], status)


def beginning(response: http.client.HTTPResponse) -> bytes:
    """Read an answer, but not more of it than can be used."""
    return response.read(_MAX_BYTES)
