"""docker-py's client: where it asks, what it may ask, how much it reads, and how it is cut short."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import partial
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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

_MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_MAX_DETAIL: Final = 200


class BadTargetError(ValueError):
    """What says where the engine is (context, certificates, the Docker CLI's `config.json`) can't be used."""


class ForbiddenRequestError(RuntimeError):
    """Something tried to ask Docker for more than the four endpoints; nothing was sent."""


class StatusError(Exception):
    """The answer is another than 200; `status` is which."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class TooLargeError(Exception):
    """The answer is larger than is read."""


def find_target(docker_host: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Find the engine as docker-py does: the host given, else the CLI's context, else the local socket.

    Returns docker-py's `base_url` and `tls`, each where set. Raises `BadTargetError` where docker-py would
    raise, or would silently take the default socket because the context does not exist.
    """
    try:
        target: dict[str, Any] = {**kwargs_from_env({**environ, "DOCKER_HOST": docker_host or ""})}
        if docker_host is None:
            target = {**_context(environ.get("DOCKER_CONTEXT") or get_current_context_name()), **target}
    except Exception as error:
        raise BadTargetError(f"the Docker context or its certificates: {_one_line(error)}") from error
    new_client(target, 1, NO_VERSION, InFlight()).close()
    return target


def _context(name: str) -> Mapping[str, Any]:
    if ContextAPI.get_context(name) is None:
        raise LookupError(f"there is no context {name!r}")
    return {**ContextAPI.kwargs_from_context(name)}


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


class Client(APIClient):
    """docker-py's low-level client, limited to four `GET`s, and never through `HTTP_PROXY`.

    `date` is the engine's clock in Unix seconds and `named_api_version` its API version, by the headers of
    its last answer; each is `None` where that did not say.
    """

    def __init__(self, in_flight: InFlight, **kwargs: Any) -> None:
        self.date: float | None = None
        self.named_api_version: str | None = None
        self._in_flight = in_flight
        self._pinged: tuple[str | None, ...] | None = None
        self._same_engine = True
        self._listed: tuple[tuple[str, bytes], Any] = (("", b""), None)
        super().__init__(**kwargs)
        self.trust_env = False

    def is_same_engine(self) -> bool:
        """Tell whether the last ping was answered by what answered the one before it."""
        return self._same_engine

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
        response = super().send(request, **{**kwargs, "stream": True, "allow_redirects": False})
        self._note(response)
        if response.status_code != 200:
            response.close()
            raise StatusError(response.status_code)
        _read(response)
        if path.endswith("/_ping"):
            self._note_ping(response)
        if path.endswith("/containers/json"):
            setattr(response, "json", partial(self._parsed_list, response))  # noqa: B010  typed as a method
        return response

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[requests.Response]:
        """Follow none: requests would read the body of a redirect whole, however large."""
        return iter(())

    def _note(self, response: requests.Response) -> None:
        self.date = _unix_time(response.headers.get("Date"))
        self.named_api_version = response.headers.get("Api-Version")

    def _note_ping(self, response: requests.Response) -> None:
        pinged = response.headers.get("Server"), response.headers.get("Api-Version")
        self._same_engine = self._pinged in (None, pinged)
        self._pinged = pinged

    def _parsed_list(self, response: requests.Response) -> Any:
        """Parse a list, unless the last one had the same bytes: then return the same object.

        It stays in memory until the next one, so that its rows keep only the fields that are read.
        """
        key = (response.url, hashlib.sha256(response.content).digest())
        if key != self._listed[0]:
            self._listed = key, _trimmed(requests.Response.json(response))
        return self._listed[1]


def _trimmed(rows: Any) -> Any:
    if not isinstance(rows, list):
        return rows
    return [{key: row[key] for key in _FIELDS & row.keys()} if isinstance(row, dict) else row for row in rows]


def _read(response: requests.Response) -> None:
    """Read an answer to its end, within a bound that requests itself does not have."""
    content = bytearray()
    with response:
        for chunk in response.iter_content(_CHUNK):
            content += chunk
            if len(content) > _MAX_BYTES:
                raise TooLargeError
    response._content = bytes(content)  # noqa: SLF001  where requests keeps what it has read
    response.encoding = "utf-8"  # as JSON is, instead of a guess that takes seconds for a large body


def _unix_time(date: str | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


class InFlight:
    """The requests under way, one a thread, so that another thread can end them.

    docker-py's timeout is for each read, so that a server that drips outlasts it; shutting the connection
    down from outside ends the read whatever it waits for.
    """

    def __init__(self) -> None:
        self._connections: dict[int, urllib3.connection.HTTPConnection] = {}

    def watch(self, adapter: requests.adapters.HTTPAdapter) -> None:
        """Note the connection each request through the adapter takes.

        On a unix socket it also gives all paths one pool, where docker-py makes a pool for each path and so
        leaves an idle connection for each inspect.
        """
        pool_of = adapter.get_connection_with_tls_context
        if isinstance(adapter, UnixHTTPAdapter):

            def pool_of(*_: Any, **__: Any) -> Any:
                return adapter.get_connection("http+docker://localhost")

        def watched(*args: Any, **kwargs: Any) -> Any:
            pool: Any = pool_of(*args, **kwargs)
            if "_get_conn" not in vars(pool):
                pool._get_conn = self._noting(pool._get_conn)  # noqa: SLF001  urllib3 offers no hook a request
            return pool

        adapter.get_connection_with_tls_context = watched  # type: ignore[method-assign]

    def _noting(self, get_connection: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            connection = get_connection(*args, **kwargs)
            self._connections[threading.get_ident()] = connection
            return connection

        return noting

    def forget(self) -> None:
        """Note that the calling thread's request has ended."""
        self._connections.pop(threading.get_ident(), None)

    def cut(self, thread: int) -> None:
        """Shut down the connection of one thread's request."""
        connection = self._connections.get(thread)
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def cut_all(self) -> None:
        """Shut down the connection of every request."""
        for thread in list(self._connections):
            self.cut(thread)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_DETAIL] or type(error).__name__
