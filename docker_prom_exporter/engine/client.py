"""docker-py's client: find its target, and limit its requests, its answers and their time."""

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

import requests
from docker import APIClient
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.errors import DockerException, InvalidConfigFile
from docker.transport import UnixHTTPAdapter
from docker.utils import kwargs_from_env
from docker.utils.config import find_config_file

from docker_prom_exporter.engine.errors import (
    BadAnswerError,
    BadTargetError,
    ForbiddenRequestError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import urllib3

_ALLOWED: Final = re.compile(
    r"(?:/v[\d.]+)?/(?:version|_ping|containers/json|containers/[A-Za-z0-9_.-]+/json)"
)

# Without a version docker-py requests /version on its own: before HTTP_PROXY can be turned off, and with an
# error that hides the cause. This version, the lowest that docker-py accepts, is never sent.
NO_VERSION: Final = "1.24"

_FIELDS: Final = frozenset(
    (
        *("Id", "Names", "Image", "ImageID", "ImageManifestDescriptor", "Created"),
        *("Labels", "State", "Status", "Health"),
    )
)
_SHARED_POOL_URL: Final = "http+docker://localhost"
_MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_MAX_DETAIL: Final = 200


def find_target(docker_host: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Find the engine as docker-py does: the host given, else the CLI's context, else the local socket.

    Returns docker-py's `base_url` and `tls`, each if set. Raises `BadTargetError` where docker-py would
    raise, and for a context that does not exist, where docker-py would silently use the default socket.
    """
    try:
        target: dict[str, Any] = {
            **kwargs_from_env({**environ, "DOCKER_HOST": docker_host or ""})
        }
        if docker_host is None:
            name = environ.get("DOCKER_CONTEXT") or get_current_context_name()
            if ContextAPI.get_context(name) is None:
                raise LookupError(f"there is no context {name!r}")  # noqa: TRY301  as docker-py's errors
            target = {**ContextAPI.kwargs_from_context(name), **target}
    except Exception as error:
        raise BadTargetError(
            f"the Docker context or its certificates: {_one_line(error)}"
        ) from error
    new_client(target, 1, NO_VERSION, InFlight()).close()
    return target


def new_client(
    target: Mapping[str, Any], timeout: float, version: str, in_flight: InFlight
) -> Client:
    """Build a client without sending a request; raises `BadTargetError`."""
    try:
        return Client(in_flight, **target, timeout=timeout, version=version)
    except (InvalidConfigFile, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadTargetError(
            f"the Docker CLI's configuration {find_config_file()!r} is malformed: {_one_line(error)}"
        ) from error
    except DockerException as error:
        raise BadTargetError(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_DETAIL] or type(error).__name__


class Client(APIClient):
    """docker-py's low-level client, limited to `GET`s of four endpoints, without `HTTP_PROXY`.

    `pinged` has the headers of the last answer to a ping, whatever its status.
    """

    def __init__(self, in_flight: InFlight, **kwargs: Any) -> None:
        self.pinged: Mapping[str, str] = {}
        self._in_flight = in_flight
        super().__init__(**kwargs)
        self.trust_env = False

    def mount(self, prefix: str | bytes, adapter: requests.adapters.BaseAdapter) -> None:
        """Mount an adapter, and have `InFlight` record its connections."""
        if isinstance(adapter, requests.adapters.HTTPAdapter):
            self._in_flight.watch(adapter)
        super().mount(prefix, adapter)

    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> requests.Response:
        """Send a request as `requests.Session` would, but never with a body, cookies or credentials.

        `Session.request` also reads proxies, certificates and credentials from the environment, and
        merges settings, which takes a quarter of the CPU time of a request.
        """
        request = requests.PreparedRequest()
        request.prepare(method, url, headers=self.headers, params=params)
        return self.send(request, timeout=timeout)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send only `GET`s of the four endpoints; limit the answer's size.

        The adapter sends one request and follows no redirect. Raises `requests.HTTPError` unless the
        status is 200, and `ForbiddenRequestError` before anything is sent.
        """
        url = request.url or ""
        path = urlsplit(url).path
        if request.method != "GET" or not _ALLOWED.fullmatch(path):
            raise ForbiddenRequestError(f"{request.method} {path}")
        adapter = self.get_adapter(url)
        try:
            response = adapter.send(
                request,
                stream=True,
                timeout=kwargs.get("timeout"),
                verify=self.verify or False,
                cert=self.cert,
            )
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
        """Return `/containers/json` unparsed: docker-py's `containers` parses even an unchanged answer."""
        url = f"{self.base_url}/v{self.api_version}/containers/json"
        params = {
            "all": 1,
            "limit": limit,
            "filters": json.dumps(filters) if filters else None,
        }
        return self.get(url, params=params, timeout=self.timeout).content


def parse_rows(body: bytes) -> list[Any]:
    """Parse an answer of `/containers/json`; raises `BadAnswerError` unless it is an array."""
    rows = json.loads(str(body, errors="replace"), object_hook=_trim_row)
    if not isinstance(rows, list):
        raise BadAnswerError("the answer is not a JSON array")
    return rows


def _trim_row(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop the unused fields of a row while the list is parsed: a few hundred full rows are megabytes.

    Only a row has `Names` that are not a string: labels may have any key, but their values are strings.
    """
    if isinstance(fields.get("Names", ""), str):
        return fields
    return {key: fields[key] for key in _FIELDS & fields.keys()}


def _read(response: requests.Response) -> None:
    """Read an answer to its end; raises `BadAnswerError` above `_MAX_BYTES`, as requests has no limit."""
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

    docker-py's timeout is for each read, so that an answer that drips can outlast it. Shutting the connection
    down ends any read.
    """

    def __init__(self) -> None:
        self._connections: dict[threading.Thread, urllib3.connection.HTTPConnection] = {}

    def watch(self, adapter: requests.adapters.HTTPAdapter) -> None:
        """Record the connection of each request through the adapter.

        On a unix socket all paths then share one pool: docker-py makes a pool for each path, which leaves an
        idle connection for each inspect.
        """
        unix, pool_of = (
            isinstance(adapter, UnixHTTPAdapter),
            adapter.get_connection_with_tls_context,
        )

        def watched(*args: Any, **kwargs: Any) -> Any:
            pool: Any = (
                adapter.get_connection(_SHARED_POOL_URL) if unix else pool_of(*args, **kwargs)
            )
            pool._get_conn = partial(self._take, pool)  # noqa: SLF001  urllib3 has no hook for it
            return pool

        adapter.get_connection_with_tls_context = watched  # type: ignore[method-assign]

    def _take(self, pool: Any, *args: Any, **kwargs: Any) -> Any:
        connection = type(pool)._get_conn(pool, *args, **kwargs)  # noqa: SLF001  the method `watch` replaced
        self._connections[threading.current_thread()] = connection
        return connection

    def forget(self) -> None:
        """Remove the connection of the calling thread."""
        self._connections.pop(threading.current_thread(), None)

    def cut(self, thread: threading.Thread) -> None:
        """Shut down the connection of one thread's request."""
        connection = self._connections.get(thread)
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def cut_all(self) -> None:
        """Shut down the connection of every request."""
        for thread in list(self._connections):
            self.cut(thread)
