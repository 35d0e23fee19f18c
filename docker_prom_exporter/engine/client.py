"""docker-py's client, with limits on its requests, its answers and their time.

This is the only module that uses private parts of docker-py, requests and urllib3.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import docker.transport
import requests
import urllib3
from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.transport import UnixHTTPAdapter
from docker.utils import version_lt

from docker_prom_exporter import __version__
from docker_prom_exporter.engine.errors import (
    BadAnswerError,
    BadTargetError,
    ForbiddenRequestError,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from docker_prom_exporter.engine.target import Target

_ALLOWED: Final = re.compile(
    r"(?:/v[\d.]+)?/(?:version|_ping|containers/json|containers/[A-Za-z0-9_.-]+/json)"
)

# For a client that only requests /version, without a version in the path.
NO_VERSION: Final = MINIMUM_DOCKER_API_VERSION

_USER_AGENT: Final = f"docker-prom-exporter/{__version__}"

_FIELDS: Final = frozenset(
    (
        *("Id", "Names", "Image", "ImageID", "ImageManifestDescriptor", "Created"),
        *("Labels", "State", "Status", "Health"),
    )
)
_SOCKET_URL: Final = "http+docker://localhost"
_MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024


def new_client(target: Target, timeout: float, version: str, in_flight: InFlight) -> Client:
    """Build a client without sending a request; raises `BadTargetError`.

    The TLS files are read each time: a renewed certificate counts from the next
    connection on.
    """
    if version_lt(version, MINIMUM_DOCKER_API_VERSION):
        raise BadTargetError(
            f"the engine's API {version} is too old: {MINIMUM_DOCKER_API_VERSION} is needed"
        )
    return Client(target, timeout, version, in_flight)


class Client(APIClient):
    """docker-py's low-level client, limited to `GET`s of four endpoints of one target.

    `pinged` has the headers of the last answer to a ping, whatever its status.
    """

    def __init__(
        self, target: Target, timeout: float, version: str, in_flight: InFlight
    ) -> None:
        # docker-py's own constructor is not called: it reads config.json wherever it finds
        # one, where an odd entry raises an error, and it reads `base_url` in a way of its own.
        requests.Session.__init__(self)
        self.pinged: Mapping[str, str] = {}
        self.base_url, adapter = _adapter(target, timeout)
        self.timeout = timeout  # type: ignore[assignment]
        self.headers.update({"User-Agent": _USER_AGENT, **target.headers})
        self._in_flight = in_flight
        self._version = version
        self._general_configs: dict[str, Any] = {}
        in_flight.watch(adapter)
        self.adapters.clear()
        self.mount(self.base_url, adapter)

    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> requests.Response:
        """Send a request as a session does, but never with a body, cookies or credentials.

        `Session.request` also reads proxies, certificates and credentials from the
        environment, and merges settings, which takes a quarter of the CPU time of a
        request.
        """
        request = requests.PreparedRequest()
        request.prepare(method, url, headers=self.headers, params=params)
        return self.send(request, timeout=timeout)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send only `GET`s of the four endpoints; limit the answer's size.

        The adapter sends one request and follows no redirect. Raises `requests.HTTPError`
        unless the status is 200, and `ForbiddenRequestError` before anything is sent.
        """
        url = request.url or ""
        path = urlsplit(url).path
        if request.method != "GET" or not _ALLOWED.fullmatch(path):
            raise ForbiddenRequestError(f"{request.method} {path}")
        adapter = self.get_adapter(url)
        try:
            response = adapter.send(request, stream=True, timeout=kwargs.get("timeout"))
            self._in_flight.answered(response)
            if path.endswith("/_ping"):
                self.pinged = response.headers
            if response.status_code != 200:
                response.close()
                raise requests.HTTPError(response=response)
            _read(response)
        finally:
            self._in_flight.forget()
        return response

    def list_unparsed(self, limit: int, filters: Mapping[str, list[str]]) -> bytes:
        """Return `/containers/json` unparsed: an unchanged answer need not be parsed."""
        url = f"{self.base_url}/v{self.api_version}/containers/json"
        params = {
            "all": 1,
            "limit": limit,
            "filters": json.dumps(filters) if filters else None,
        }
        return self.get(url, params=params, timeout=self.timeout).content


def _adapter(target: Target, timeout: float) -> tuple[str, requests.adapters.HTTPAdapter]:
    """Return the base URL of requests to the target, and the adapter that sends them."""
    scheme, _, rest = target.url.partition("://")
    if scheme == "unix":
        return _SOCKET_URL, UnixHTTPAdapter(f"http+unix://{rest}", timeout)  # type: ignore[arg-type]
    if scheme == "npipe":
        # docker-py has no such adapter without pywin32.
        adapter = getattr(docker.transport, "NpipeHTTPAdapter", None)
        if adapter is None:
            raise BadTargetError(f"{target.url} can't be used: install the package pywin32")
        return _SOCKET_URL, adapter(target.url, timeout)
    if target.tls is None:
        return target.url, requests.adapters.HTTPAdapter()
    if not target.tls.verified:
        # It would be said for each connection; the exporter says it once, at its start.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return target.url, _TlsAdapter(target.tls.context())


class _TlsAdapter(requests.adapters.HTTPAdapter):
    """An adapter whose connections use one TLS context, as it is.

    requests would build another one from paths of files, with the CAs of certifi.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        # urllib3 1.26 tells OpenSSL no name for an IP address; it compares the name itself
        # then.
        if urllib3.__version__.startswith("1."):  # type: ignore[attr-defined]
            context.check_hostname = False
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *_: Any, **__: Any
    ) -> Any:
        return self.poolmanager.connection_from_url(request.url)

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leave the connection as it is: requests would change what its context verifies."""


def parse_rows(body: bytes) -> list[Any]:
    """Parse an answer of `/containers/json`; raises `BadAnswerError` unless it is an array."""
    rows = json.loads(str(body, errors="replace"), object_hook=_trim_row)
    if not isinstance(rows, list):
        raise BadAnswerError("the answer is not a JSON array")
    return rows


def _trim_row(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop unused fields of a row at once: a few hundred full rows are megabytes.

    Only a row has `Names` that are not a string: labels may have any key, but their
    values are strings.
    """
    if isinstance(fields.get("Names", ""), str):
        return fields
    return {key: fields[key] for key in _FIELDS & fields.keys()}


def _read(response: requests.Response) -> None:
    """Read an answer to its end; `BadAnswerError` above `_MAX_BYTES`."""
    content = BytesIO()
    with response:
        for chunk in response.iter_content(_CHUNK):
            content.write(chunk)
            if content.tell() > _MAX_BYTES:
                raise BadAnswerError("the answer is larger than 64 MiB")
    response._content = content.getvalue()  # noqa: SLF001  requests' cache of the body
    response.encoding = "utf-8"  # JSON's; requests' guess takes seconds for a large body


class InFlight:
    """The connections of running requests by thread, so that another thread can end a request.

    docker-py's timeout is for each read, so that an answer that drips can outlast it.
    Shutting the connection down ends any read.
    """

    def __init__(self) -> None:
        # A connection, and once its answer has begun, the socket that it is read from.
        self._connections: dict[
            threading.Thread, urllib3.connection.HTTPConnection | socket.socket
        ] = {}

    def watch(self, adapter: requests.adapters.HTTPAdapter) -> None:
        """Record the connection of each request through the adapter.

        On a unix socket all paths then share one pool: docker-py makes a pool for each
        path, which leaves an idle connection for each inspect.
        """
        pool_of = adapter.get_connection_with_tls_context

        def watched(*args: Any, **kwargs: Any) -> Any:
            pool: Any
            if isinstance(adapter, UnixHTTPAdapter):
                pool = adapter.get_connection(_SOCKET_URL)
            else:
                pool = pool_of(*args, **kwargs)
            pool._get_conn = partial(self._take, pool)  # noqa: SLF001  urllib3 has no hook for it
            return pool

        adapter.get_connection_with_tls_context = watched  # type: ignore[method-assign]

    def _take(self, pool: Any, *args: Any, **kwargs: Any) -> Any:
        connection = type(pool)._get_conn(pool, *args, **kwargs)  # noqa: SLF001  the method `watch` replaced
        self._connections[threading.current_thread()] = connection
        return connection

    def answered(self, response: requests.Response) -> None:
        """Record the socket of an answer, which has begun.

        A connection that is closed after its answer gives the socket away.
        """
        answer: Any = response.raw._fp  # noqa: SLF001  urllib3 has no name for it before 2.3
        sock = getattr(getattr(answer.fp, "raw", None), "_sock", None)
        if isinstance(sock, socket.socket):
            self._connections[threading.current_thread()] = sock

    def forget(self) -> None:
        """Remove the connection of the calling thread."""
        self._connections.pop(threading.current_thread(), None)

    def cut(self, thread: threading.Thread) -> None:
        """Shut down the connection of one thread's request.

        docker-py's named pipe is no socket: its reads end after their own timeout.
        """
        connection = self._connections.get(thread)
        sock = getattr(connection, "sock", connection)
        if not isinstance(sock, socket.socket):
            return
        with suppress(OSError):
            # Not the method of `SSLSocket`, which drops the TLS state that the thread still
            # uses.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def cut_all(self) -> None:
        """Shut down the connection of every request."""
        for thread in list(self._connections):
            self.cut(thread)
