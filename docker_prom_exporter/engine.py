"""Owns docker-py: the four questions, the guard, the deadlines; answers, or an `EngineError`."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from docker import APIClient
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.errors import DockerException, InvalidConfigFile
from docker.transport import UnixHTTPAdapter
from docker.utils import kwargs_from_env, parse_host
from docker.utils.config import find_config_file

from docker_prom_exporter.containers import as_text
from docker_prom_exporter.snapshot import EngineInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ALLOWED: Final = re.compile(
    r"(?:/v[\d.]+)?/(?:version|_ping|containers/json|containers/[A-Za-z0-9_.-]+/json)"
)
_VERSION: Final = re.compile(r"\d{1,3}\.\d{1,4}")

# docker-py asks /version by itself unless it is told a version: before HTTP_PROXY can be turned off, and
# with an error that hides the cause. This one, the least it takes, is never sent.
_NO_VERSION: Final = "1.24"

_MOST_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 256 * 1024

_REASONS_BY_STATUS: Final = {
    401: "denied",
    403: "denied",
    404: "not_found",
    407: "denied",
    408: "timeout",
    502: "unreachable",
    503: "unreachable",
    504: "timeout",
}


class EngineError(Exception):
    """A question failed: `endpoint` and `reason` as `snapshot` lists them, and one line of detail.

    The detail never holds what the engine answered, so that no text of a container can reach a log. `status`
    is the HTTP status where an answer came at all.
    """

    def __init__(self, endpoint: str, reason: str, detail: str, status: int | None = None) -> None:
        super().__init__(f"{endpoint}: {detail}")
        self.endpoint = endpoint
        self.reason = reason
        self.detail = detail
        self.status = status


class BadTargetError(ValueError):
    """What says where the engine is (context, certificates, the Docker CLI's `config.json`) can't be used."""


class ForbiddenRequestError(RuntimeError):
    """Something tried to ask Docker for more than the four questions; nothing was sent."""


class _StatusError(Exception):
    def __init__(self, status: int, phrase: str) -> None:
        super().__init__(f"the answer is {status} {phrase}".rstrip())
        self.status = status


class _TooLargeError(Exception):
    pass


# The first of these that has a cause of its kind tells; certificate errors are ValueErrors, too.
# urllib3 counts a connection that was refused, or a name that is unknown, among the timeouts.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((urllib3.exceptions.NewConnectionError,), "unreachable"),
    ((requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError), "timeout"),
    ((PermissionError,), "denied"),
    ((ssl.SSLError,), "error"),
    ((ConnectionError,), "unreachable"),
    ((_TooLargeError, http.client.HTTPException, ValueError, RecursionError), "bad_response"),
    ((requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError), "bad_response"),
    ((requests.ConnectionError,), "unreachable"),
)


class Engine:
    """One Docker engine, or one that speaks its API, asked through one long-lived docker-py client.

    `timeout` is in seconds, for one request from its first byte to its last. Nothing is asked before
    `connect`; each question raises `EngineError` and takes a `deadline` on the monotonic clock that can only
    shorten the timeout. `inspect` may be called by several threads at once; `abort` by any.
    """

    def __init__(self, target: Mapping[str, Any], timeout: float) -> None:
        self._target = dict(target)
        self._timeout = timeout
        self._in_flight = _InFlight()
        self._client: _Client | None = None
        self._aborted = False

    @property
    def url(self) -> str:
        """Where the engine is asked: `unix:///PATH`, `http://HOST:PORT` or `https://HOST:PORT`."""
        address = parse_host(self._target.get("base_url"), tls=bool(self._target.get("tls")))
        return str(address).removeprefix("http+")

    @property
    def connected(self) -> bool:
        """Whether a version was negotiated since the last failure."""
        return self._client is not None

    def connect(self, deadline: float) -> EngineInfo:
        """Ask `/version`, and speak the engine's own API version from here on."""
        self.disconnect()
        client = self._new_client(_NO_VERSION)
        try:
            answer = self._ask("version", deadline, lambda: client.version(api_version=False))
        finally:
            client.close()
        info = _engine_info(answer)
        self._client = self._new_client(info.api_version)
        return info

    def assume(self, api_version: str) -> None:
        """Speak this API version from here on: for who asks on although `/version` got no good answer."""
        self.disconnect()
        self._client = self._new_client(api_version)

    def disconnect(self) -> None:
        """Forget the client; the next question must be `connect`."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ping(self, deadline: float) -> bool:
        """Ask `/_ping`; False where another engine than the connected one answers at its place."""
        client = self._connected()
        if not self._ask("ping", deadline, client.ping):
            raise EngineError("ping", "bad_response", "the answer is not OK")
        return client.is_same_engine()

    def containers(self, deadline: float) -> list[Any]:
        """Ask for all containers: the rows of `/containers/json` as they came."""
        client = self._connected()
        rows = self._ask("list", deadline, lambda: client.containers(all=True))
        if not isinstance(rows, list):
            raise EngineError("list", "bad_response", f"a list was expected, not {type(rows).__name__}")
        return rows

    def inspect(self, container_id: str, deadline: float) -> dict[str, Any] | None:
        """Ask for one container; None where it is gone."""
        client = self._connected()
        try:
            answer = self._ask("inspect", deadline, lambda: client.inspect_container(container_id))
        except EngineError as error:
            if error.reason == "not_found":
                return None
            raise
        if not isinstance(answer, dict):
            raise EngineError(
                "inspect", "bad_response", f"an object was expected, not {type(answer).__name__}"
            )
        return answer

    def abort(self) -> None:
        """End every request under way, and any to come."""
        self._aborted = True
        self._in_flight.abort()

    def _connected(self) -> _Client:
        if self._client is None:
            raise RuntimeError("connect first")
        return self._client

    def _new_client(self, version: str) -> _Client:
        try:
            return _new_client(self._target, self._timeout, version, self._in_flight)
        except BadTargetError as error:
            raise EngineError("version", "error", str(error)) from error

    def _ask(self, endpoint: str, deadline: float, question: Callable[[], Any]) -> Any:
        seconds = min(self._timeout, deadline - time.monotonic())
        if seconds <= 0 or self._aborted:
            raise EngineError(endpoint, "timeout", "the poll ran out of time")
        with self._in_flight.bounded(seconds) as bound:
            try:
                answer = question()
            except ForbiddenRequestError:
                raise
            except Exception as error:
                if not bound.expired:
                    raise EngineError(endpoint, *_reason(error)) from error
        if bound.expired:  # even after an answer: cut off, it may read like a whole one
            raise EngineError(endpoint, "timeout", f"no answer within {seconds:.3g} s")
        return answer


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
        raise BadTargetError(f"the Docker context or its certificates: {_line(error)}") from error
    _new_client(target, 1, _NO_VERSION, _InFlight()).close()
    return target


def _context(name: str) -> Mapping[str, Any]:
    if ContextAPI.get_context(name) is None:
        raise LookupError(f"there is no context {name!r}")
    return {**ContextAPI.kwargs_from_context(name)}


def _new_client(target: Mapping[str, Any], timeout: float, version: str, in_flight: _InFlight) -> _Client:
    """Build a client, which sends nothing by that; raises `BadTargetError`."""
    try:
        return _Client(in_flight, **target, timeout=timeout, version=version)
    except (InvalidConfigFile, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadTargetError(
            f"the Docker CLI's configuration {find_config_file()!r} is malformed: {_line(error)}"
        ) from error
    except DockerException as error:
        raise BadTargetError(_line(error)) from error


def _engine_info(answer: Any) -> EngineInfo:
    """Read `/version`, where Podman names itself in `Components`, as Docker names its `Engine`."""
    fields = answer if isinstance(answer, dict) else {}
    api_version = fields.get("ApiVersion")
    if not isinstance(api_version, str) or not _VERSION.fullmatch(api_version):
        raise EngineError("version", "bad_response", "it names no API version")
    components = fields.get("Components")
    names = (
        [part.get("Name") for part in components if isinstance(part, dict)]
        if isinstance(components, list)
        else []
    )
    podman = "Podman Engine" in names
    version, system, arch = (as_text(fields.get(key)) for key in ("Version", "Os", "Arch"))
    return EngineInfo(
        "Podman" if podman else "Docker", version, api_version, system, arch, health_listed=not podman
    )


def _reason(error: Exception) -> tuple[str, str, int | None]:
    """Name what docker-py, requests, urllib3 or the system raised, as `EngineError` takes it."""
    if isinstance(error, _StatusError):
        fallback = "error" if error.status >= 400 else "bad_response"
        return _REASONS_BY_STATUS.get(error.status, fallback), str(error), error.status
    found = list(causes(error))
    reason = next((reason for kinds, reason in _REASONS if any(isinstance(c, kinds) for c in found)), "error")
    system = next((c.strerror for c in found if isinstance(c, OSError) and c.strerror), None)
    return reason, system or _line(found[-1]), None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Walk from what was raised to what caused it: requests and urllib3 hide it in `args` and `reason`."""
    yield error
    hidden = (*error.args, getattr(error, "reason", None), error.__cause__)
    inner = next((one for one in hidden if isinstance(one, BaseException)), None)
    if inner is not None:
        yield from causes(inner)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _read_body(response: requests.Response) -> None:
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > _MOST_BYTES:
            raise _TooLargeError(f"the answer is larger than {_MOST_BYTES} bytes")
    response._content = bytes(body)  # noqa: SLF001  requests has no other way to read within a bound
    response.encoding = "utf-8"  # as JSON is, instead of a guess that takes seconds for a large body


class _Client(APIClient):
    """docker-py's low-level client, let out for four `GET`s only, and never through `HTTP_PROXY`."""

    def __init__(self, in_flight: _InFlight, **kwargs: Any) -> None:
        self._in_flight = in_flight
        self._pinged: tuple[str | None, ...] | None = None
        self._same_engine = True
        self._listed: tuple[bytes, Any] = (b"", None)
        super().__init__(**kwargs)
        self.trust_env = False

    def is_same_engine(self) -> bool:
        """Tell whether the last ping was answered by what answered the one before it."""
        return self._same_engine

    def mount(self, prefix: str | bytes, adapter: requests.adapters.BaseAdapter) -> None:
        """Have `_InFlight` know of every connection an adapter uses."""
        if isinstance(adapter, requests.adapters.HTTPAdapter):
            self._in_flight.watch(adapter)
        super().mount(prefix, adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Refuse all but the four; read the answer to its end, within bounds; raise unless it is a 200."""
        path = str(urlsplit(request.url or "").path)
        if request.method != "GET" or not _ALLOWED.fullmatch(path):
            raise ForbiddenRequestError(f"{request.method} {path}")
        with super().send(request, **{**kwargs, "stream": True, "allow_redirects": False}) as response:
            if response.status_code != 200:
                raise _StatusError(response.status_code, response.reason)
            _read_body(response)
        if path.endswith("/_ping"):
            pinged = tuple(response.headers.get(name) for name in ("Server", "Api-Version"))
            self._same_engine = self._pinged in (None, pinged)
            self._pinged = pinged
        return response

    def _result(self, response: requests.Response, *args: Any, **kwargs: Any) -> Any:
        """Parse a list only where its bytes differ from the last one's: from poll to poll they rarely do."""
        parse = super()._result  # type: ignore[misc]  # the stubs leave it out
        if urlsplit(response.url).path.endswith("/containers/json"):
            if response.content != self._listed[0]:
                self._listed = response.content, parse(response, *args, **kwargs)
            return self._listed[1]
        return parse(response, *args, **kwargs)


class _InFlight:
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
    def __init__(self, in_flight: _InFlight, thread: int) -> None:
        self.thread = thread
        self.expired = False
        self._in_flight = in_flight

    def expire(self) -> None:
        self.expired = True
        self._in_flight.abort(self.thread)
