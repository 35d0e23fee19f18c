"""Owns docker-py's client: where it asks, what it may ask, how much it reads, and how it is cut short."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import contextmanager, suppress
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
# with an error that hides the cause. This one, the least it takes, is never sent.
NO_VERSION: Final = "1.24"

_MOST_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 64 * 1024


class BadTargetError(ValueError):
    """What says where the engine is (context, certificates, the Docker CLI's `config.json`) can't be used."""


class ForbiddenRequestError(RuntimeError):
    """Something tried to ask Docker for more than the four questions; nothing was sent."""


class StatusError(Exception):
    """The answer is another than 200; `status` is which."""

    def __init__(self, status: int, phrase: str) -> None:
        super().__init__(f"the answer is {status} {phrase}".rstrip())
        self.status = status


class TooLargeError(Exception):
    """The answer is larger than is read."""


def find_target(docker_host: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Find the engine as docker-py does: the host given, else the CLI's context, else the local socket.

    Returns docker-py's `base_url` and `tls`, each where set. Raises `BadTargetError` where docker-py would
    raise, or would quietly take the default socket because the context does not exist.
    """
    try:
        target: dict[str, Any] = {**kwargs_from_env({**environ, "DOCKER_HOST": docker_host or ""})}
        if docker_host is None:
            target = {**_context(environ.get("DOCKER_CONTEXT") or get_current_context_name()), **target}
    except Exception as error:
        raise BadTargetError(f"the Docker context or its certificates: {one_line(error)}") from error
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
            f"the Docker CLI's configuration {find_config_file()!r} is malformed: {one_line(error)}"
        ) from error
    except DockerException as error:
        raise BadTargetError(one_line(error)) from error


class Client(APIClient):
    """docker-py's low-level client, let out for four `GET`s only, and never through `HTTP_PROXY`."""

    def __init__(self, in_flight: InFlight, **kwargs: Any) -> None:
        self._in_flight = in_flight
        self._pinged: tuple[str | None, ...] | None = None
        self._same_engine = True
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
        """Refuse all but the four; raise unless the answer is a 200; read it to its end, but for a list."""
        path = _path(request.url)
        if request.method != "GET" or not _ALLOWED.fullmatch(path):
            raise ForbiddenRequestError(f"{request.method} {path}")
        response = super().send(request, **{**kwargs, "stream": True, "allow_redirects": False})
        if response.status_code != 200:
            response.close()
            raise StatusError(response.status_code, response.reason)
        if not _is_list(response):
            response._content = b"".join(_pieces(response))  # noqa: SLF001  requests can't read within a bound
            response.encoding = "utf-8"  # as JSON is, instead of a guess that takes seconds for a large body
        if path.endswith("/_ping"):
            pinged = tuple(response.headers.get(name) for name in ("Server", "Api-Version"))
            self._same_engine = self._pinged in (None, pinged)
            self._pinged = pinged
        return response

    def _result(self, response: requests.Response, *args: Any, **kwargs: Any) -> Any:
        """Leave a list in the pieces it comes in: they tell, unread, whether anything changed."""
        if _is_list(response):
            return _pieces(response)
        return super()._result(response, *args, **kwargs)  # type: ignore[misc]  # the stubs leave it out


def _path(url: str | None) -> str:
    return str(urlsplit(url or "").path)


def _is_list(response: requests.Response) -> bool:
    return _path(response.url).endswith("/containers/json")


def _pieces(response: requests.Response) -> list[bytes]:
    """Read an answer to its end, and close it."""
    pieces, size = [], 0
    with response:
        for piece in response.iter_content(_CHUNK):
            pieces.append(piece)
            size += len(piece)
            if size > _MOST_BYTES:
                raise TooLargeError(f"the answer is larger than {_MOST_BYTES} bytes")
    return pieces


class InFlight:
    """The requests under way, one a thread, so that another thread can end them.

    docker-py's timeout is for each read, so that a server which drips outlasts it; shutting the connection
    down from outside ends the read whatever it waits for.
    """

    def __init__(self) -> None:
        self._connections: dict[int, urllib3.connection.HTTPConnection] = {}

    def watch(self, adapter: requests.adapters.HTTPAdapter) -> None:
        """Note the connection each request through the adapter takes.

        On a unix socket it also gives all paths one pool, where docker-py makes a pool a path and so leaves
        an idle connection for each inspect.
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

    @contextmanager
    def bounded(self, seconds: float) -> Iterator[_Bound]:
        """End the calling thread's request after so many seconds; the bound tells whether it came to that."""
        bound = _Bound(self, threading.get_ident())
        timer = threading.Timer(seconds, bound.expire)
        timer.daemon = True
        timer.start()
        try:
            yield bound
        finally:
            timer.cancel()
            self._connections.pop(bound.thread, None)

    def abort(self, thread: int | None = None) -> None:
        """Shut down the connection of one thread, or of all."""
        for ident, connection in list(self._connections.items()):
            if thread in (None, ident) and connection.sock is not None:
                with suppress(OSError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


class _Bound:
    def __init__(self, in_flight: InFlight, thread: int) -> None:
        self.thread = thread
        self.expired = False
        self._in_flight = in_flight

    def expire(self) -> None:
        self.expired = True
        self._in_flight.abort(self.thread)


def one_line(error: BaseException) -> str:
    """Return what an error says in a line of at most 200 characters; its name if it says nothing."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
