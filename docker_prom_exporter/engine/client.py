"""docker-py's client: where it asks, what it may ask, how much it reads, and how it is cut short."""

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

from docker_prom_exporter.engine.errors import BadAnswerError, BadTargetError, ForbiddenRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import urllib3

_ALLOWED: Final = re.compile(
    r"(?:/v[\d.]+)?/(?:version|_ping|containers/json|containers/[A-Za-z0-9_.-]+/json)"
)

# docker-py asks /version by itself unless it is told a version: before HTTP_PROXY can be turned off, and
# with an error that hides the cause. This one, the lowest it takes, is never sent.
NO_VERSION: Final = "1.24"

_FIELDS: Final = frozenset(
    (
        *("Id", "Names", "Image", "ImageID", "ImageManifestDescriptor", "Created"),
        *("Labels", "State", "Status", "Health"),
    )
)
_ONE_PATH: Final = "http+docker://localhost"
_MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_MAX_DETAIL: Final = 200


def find_target(docker_host: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Find the engine as docker-py does: the host given, else the CLI's context, else the local socket.

    Returns docker-py's `base_url` and `tls`, each where set. Raises `BadTargetError` where docker-py would
    raise, or would silently take the default socket because the context does not exist.
    """
    try:
        target: dict[str, Any] = {**kwargs_from_env({**environ, "DOCKER_HOST": docker_host or ""})}
        if docker_host is None:
            name = environ.get("DOCKER_CONTEXT") or get_current_context_name()
            if ContextAPI.get_context(name) is None:
                raise LookupError(f"there is no context {name!r}")  # noqa: TRY301  as docker-py should
            target = {**ContextAPI.kwargs_from_context(name), **target}
    except Exception as error:
        raise BadTargetError(f"the Docker context or its certificates: {_one_line(error)}") from error
    new_client(target, 1, NO_VERSION, InFlight()).close()
    return target


def new_client(target: Mapping[str, Any], timeout: float, version: str, in_flight: InFlight) -> Client:
    """Build a client, which sends nothing by that; raises `BadTargetError`."""
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
    """docker-py's low-level client, limited to four `GET`s, and never through `HTTP_PROXY`.

    `pinged` has the headers of the last answer to a ping, whatever its status.
    """

    def __init__(self, in_flight: InFlight, **kwargs: Any) -> None:
        self.pinged: Mapping[str, str] = {}
        self._in_flight = in_flight
        super().__init__(**kwargs)
        self.trust_env = False

    def mount(self, prefix: str | bytes, adapter: requests.adapters.BaseAdapter) -> None:
        """Have `InFlight` know of every connection an adapter uses."""
        if isinstance(adapter, requests.adapters.HTTPAdapter):
            self._in_flight.watch(adapter)
        super().mount(prefix, adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Refuse all but the four endpoints; raise unless the answer is a 200; read it within a bound."""
        path = str(urlsplit(request.url or "").path)
        if request.method != "GET" or not _ALLOWED.fullmatch(path):
            raise ForbiddenRequestError(f"{request.method} {path}")
        try:
            response = super().send(request, **{**kwargs, "stream": True, "allow_redirects": False})
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
        """Return the JSON of `/containers/json`: `containers` would parse it even if nothing changed."""
        url = f"{self.base_url}/v{self.api_version}/containers/json"
        params = {"all": 1, "limit": limit, "filters": json.dumps(filters) if filters else None}
        return self.get(url, params=params, timeout=self.timeout).content

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[requests.Response]:
        """Follow none: requests would read the body of a redirect whole, however large."""
        return iter(())


def parse_rows(body: bytes) -> list[Any]:
    """Parse the rows of a list."""
    rows = json.loads(str(body, errors="replace"), object_hook=_trimmed)
    if not isinstance(rows, list):
        raise BadAnswerError("the answer is not a JSON array")
    return rows


def _trimmed(fields: dict[str, Any]) -> dict[str, Any]:
    """Keep of a row, as soon as it is parsed, what is read of it: a few hundred rows in full are megabytes.

    Only a row has `Names` that are no string: of all else, only labels have names that anybody may choose.
    """
    if isinstance(fields.get("Names", ""), str):
        return fields
    return {key: fields[key] for key in _FIELDS & fields.keys()}


def _read(response: requests.Response) -> None:
    """Read an answer to its end, within a bound that requests itself does not have."""
    content = BytesIO()
    with response:
        for chunk in response.iter_content(_CHUNK):
            content.write(chunk)
            if content.tell() > _MAX_BYTES:
                raise BadAnswerError("the answer is larger than 64 MiB")
    response._content = content.getvalue()  # noqa: SLF001  where requests keeps what it has read
    response.encoding = "utf-8"  # as JSON is, instead of a guess that takes seconds for a large body


class InFlight:
    """The requests under way, one a thread, so that another thread can end them.

    docker-py's timeout is for each read, so that a server that drips outlasts it; shutting the connection
    down from outside ends the read whatever it waits for.
    """

    def __init__(self) -> None:
        self._connections: dict[threading.Thread, urllib3.connection.HTTPConnection] = {}

    def watch(self, adapter: requests.adapters.HTTPAdapter) -> None:
        """Note the connection each request through the adapter takes.

        On a unix socket it also gives all paths one pool, where docker-py makes a pool for each path and so
        leaves an idle connection for each inspect.
        """
        unix, pool_of = isinstance(adapter, UnixHTTPAdapter), adapter.get_connection_with_tls_context

        def watched(*args: Any, **kwargs: Any) -> Any:
            pool: Any = adapter.get_connection(_ONE_PATH) if unix else pool_of(*args, **kwargs)
            pool._get_conn = partial(self._take, pool)  # noqa: SLF001  urllib3 offers no hook a request
            return pool

        adapter.get_connection_with_tls_context = watched  # type: ignore[method-assign]

    def _take(self, pool: Any, *args: Any, **kwargs: Any) -> Any:
        connection = type(pool)._get_conn(pool, *args, **kwargs)  # noqa: SLF001  what `watch` replaced
        self._connections[threading.current_thread()] = connection
        return connection

    def forget(self) -> None:
        """Note that the calling thread's request has ended."""
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
