"""Owns the web side: sockets, routes, limits, the access log. Bounded in connections, time and memory."""

from __future__ import annotations

import asyncio
import http.client
import io
import ipaddress
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from urllib.parse import parse_qs, urlsplit

import structlog
from prometheus_client.exposition import gzip_accepted

from docker_prom_exporter.gzipped import deflated, gzipped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from docker_prom_exporter.metrics import Exposition
    from docker_prom_exporter.web.credentials import BearerToken, ServerTls
    from docker_prom_exporter.web.status_page import StatusPage

_MOST_CONNECTIONS: Final = 128
_MOST_TLS_CONNECTIONS: Final = 32  # each costs half a megabyte, most of it a buffer of asyncio's
_MOST_WAITING: Final = 1024
_MOST_LINE: Final = 8 * 1024
_MOST_HEADERS: Final = 100
_CHUNK: Final = 64 * 1024
_SECONDS_TO_ASK: Final = 10
_SECONDS_IDLE: Final = 120
_SECONDS_TO_ANSWER: Final = 30
_SECONDS_TO_LINGER: Final = 1

_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,20}) ([!-~]+) HTTP/1\.([01])\r?\n")
_TEXT: Final = "text/plain; charset=utf-8"
_TELLING: Final = ("/metrics", "/")
"""The paths that tell of containers: the guarded ones, and those that take a while to render."""

_CLIENT_IP_HEADERS: Final = {
    "RightmostXForwardedFor": "X-Forwarded-For",
    "RightmostForwarded": "Forwarded",
    "XRealIp": "X-Real-Ip",
    "CfConnectingIp": "CF-Connecting-IP",
    "TrueClientIp": "True-Client-IP",
    "FlyClientIp": "Fly-Client-IP",
    "CloudFrontViewerAddress": "CloudFront-Viewer-Address",
    "XEnvoyExternalAddress": "X-Envoy-External-Address",
}


class Request(NamedTuple):
    """The head of one request; `peer` is the address at the other end of the connection."""

    method: str
    path: str
    query: str
    headers: http.client.HTTPMessage
    peer: str
    keep_alive: bool


class Response(NamedTuple):
    """What goes out: the body in parts, none of which is copied for a client."""

    status: HTTPStatus
    body: tuple[bytes, ...]
    content_type: str = _TEXT
    headers: Mapping[str, str] = MappingProxyType({})


class _BadRequestError(Exception):
    def __init__(self, status: HTTPStatus, explanation: str) -> None:
        super().__init__(explanation)
        self.status = status


def listen(address: str, port: int) -> socket.socket:
    """Bind and listen; `::` takes IPv4 too. Raises `OSError` where the address or port can't be had."""
    if ipaddress.ip_address(address).version == 4:
        return socket.create_server((address, port))
    dual = address == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((address, port), family=socket.AF_INET6, dualstack_ipv6=dual)


class Web:
    """Serves an exposition and a status page from a thread of its own, which waits for nobody.

    What takes a while to render, for ten thousand containers a second, is rendered by another.
    Each connection has a time to ask in, one to be idle and one to take the answer; when there are too many,
    one of the address that has most of them goes, the one that has been quiet for longest, so that who comes
    to scrape always finds a place.
    """

    def __init__(  # noqa: PLR0913  what it serves, where, and to whom
        self,
        listener: socket.socket,
        exposition: Exposition,
        page: Callable[[], StatusPage],
        client_ip_source: str,
        *,
        tls: ServerTls | None = None,
        token: BearerToken | None = None,
    ) -> None:
        self._listener = listener
        self._exposition = exposition
        self._page = page
        self._client_ip_source = client_ip_source
        self._tls = tls
        self._token = token
        self._log = structlog.get_logger()
        self._most_connections = _MOST_CONNECTIONS if tls is None else _MOST_TLS_CONNECTIONS
        self._connections: dict[asyncio.StreamWriter, str] = {}
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="render")
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/metrics": self._metrics,
            "/": self._root,
            "/ping": lambda _: Response(HTTPStatus.OK, (b"pong",)),
            "/-/healthy": lambda _: _state("healthy", "the poll loop is stuck", good=exposition.is_trusted()),
            "/-/ready": lambda _: _state(
                "ready", "the first poll has not ended", good=exposition.is_polled()
            ),
        }

    def start(self) -> None:
        """Begin to accept; connections made since `listen` have been waiting."""
        self._thread.start()

    def stop(self) -> None:
        """Close the listener and every connection, within half a second."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(0.5)
        self._renderer.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_exception_handler(self._failed)
        server = await asyncio.start_server(self._converse, sock=self._listener, limit=_MOST_LINE)
        # asyncio accepts as many at once as it lets wait: more may wait than are to be open at a time.
        self._listener.listen(_MOST_WAITING)
        await self._stopping.wait()
        server.close()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self._log.debug("http.connection_failed", cause=str(context.get("exception") or context["message"]))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other, until one side has had enough."""
        seconds = _SECONDS_TO_ASK
        writer.transport.set_write_buffer_limits(high=0)  # so that drained means sent
        try:
            if self._tls is not None:
                await self._start_tls(writer, self._tls)
            while await self._exchange(reader, writer, seconds):
                seconds = _SECONDS_IDLE
        except (OSError, TimeoutError):
            pass
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _start_tls(self, writer: asyncio.StreamWriter, tls: ServerTls) -> None:
        """Shake hands, on a connection that is counted already and has its time for this, too."""
        self._touch(writer)
        cast("asyncio.Transport", writer.transport).pause_reading()
        await asyncio.sleep(0)  # of those that came with it, some may be too many, and need no buffers
        if writer.transport.is_closing():
            raise ConnectionAbortedError
        context = tls.context(same_host=_is_same_host(writer))
        try:
            await writer.start_tls(context, ssl_handshake_timeout=_SECONDS_TO_ASK)
        except OSError as error:
            self._log.debug("http.no_handshake", client=_peer(writer), cause=str(error))
            raise
        writer.transport.set_write_buffer_limits(high=1)  # with 0, asyncio's TLS waits though all is sent

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
    ) -> bool:
        """Take one request and answer it; False when the connection is to be closed."""
        self._touch(writer)
        peer = _peer(writer)
        try:
            async with asyncio.timeout(seconds):
                first = await _line(reader)
            async with asyncio.timeout(_SECONDS_TO_ASK):
                request = await _read_request(first, reader, peer)
        except _BadRequestError as error:
            await self._send(writer, None, _error(error.status, str(error)))
            await _linger(reader, writer, asking=True)
            return False
        if request is None:
            return False
        self._touch(writer)
        response = await self._answer(request, certified=self._is_certified(writer))
        await self._send(writer, request, response)
        if not request.keep_alive:
            await _linger(reader, writer, asking=False)
        return request.keep_alive

    def _touch(self, writer: asyncio.StreamWriter) -> None:
        """Put the connection last in the row of those to be dropped."""
        self._connections.pop(writer, None)
        self._connections[writer] = _peer(writer)
        if len(self._connections) > self._most_connections:
            ((greediest, _),) = Counter(self._connections.values()).most_common(1)
            oldest = next(writer for writer, peer in self._connections.items() if peer == greediest)
            del self._connections[oldest]
            oldest.transport.abort()

    def _is_certified(self, writer: asyncio.StreamWriter) -> bool:
        """Tell whether the client has a certificate of the client CA, or needs none."""
        needed = self._tls is not None and self._tls.asks_for_certificate
        return not needed or bool(writer.get_extra_info("peercert"))

    async def _answer(self, request: Request, *, certified: bool) -> Response:
        response = self._refusal(request, certified=certified) or await self._respond(request)
        self._log.debug(
            "http.request",
            client=client_address(request, self._client_ip_source),
            method=request.method,
            path=request.path,
            status=int(response.status),
        )
        return response

    def _refusal(self, request: Request, *, certified: bool) -> Response | None:
        """Return what to say to a client who has not proved itself, None to one who has or need not."""
        if request.path not in _TELLING:
            return None
        if not certified:
            return _error(HTTPStatus.FORBIDDEN, "this needs a client certificate")
        if self._token is None or self._token.is_in(request.headers.get("Authorization", "")):
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        return _error(HTTPStatus.UNAUTHORIZED, "this needs the bearer token", **challenge)

    async def _respond(self, request: Request) -> Response:
        route = self._routes.get(request.path)
        if route is None:
            return _error(HTTPStatus.NOT_FOUND, f"try one of {' '.join(self._routes)}")
        if request.method not in ("GET", "HEAD"):
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "try GET or HEAD", Allow="GET, HEAD")
        try:
            if request.path in _TELLING:
                return await self._loop.run_in_executor(self._renderer, route, request)
            return route(request)
        except Exception as error:  # noqa: BLE001  one bad answer must not end the conversation
            self._log.error("http.failed", path=request.path, exc_info=error)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "the log says more")

    def _root(self, request: Request) -> Response:
        """Give a browser the page, anything else the exposition."""
        if not prefers_html(",".join(request.headers.get_all("Accept", []))):
            return self._metrics(request)
        snapshot = self._exposition.snapshot()
        page = self._page()
        html = page.render(
            snapshot,
            age=time.monotonic() - snapshot.ended,
            now=time.time(),
            refreshing="refresh=off" not in request.query,
        )
        headers = {"Vary": "Accept, Accept-Encoding", **page.headers}
        if not gzip_accepted(",".join(request.headers.get_all("Accept-Encoding", []))):
            return Response(HTTPStatus.OK, (html,), "text/html; charset=utf-8", headers)
        headers["Content-Encoding"] = "gzip"
        return Response(HTTPStatus.OK, gzipped([deflated([html])]), "text/html; charset=utf-8", headers)

    def _metrics(self, request: Request) -> Response:
        names = parse_qs(request.query, max_num_fields=1000).get("name[]", [])
        content_type, encoding, body = self._exposition.render(
            ",".join(request.headers.get_all("Accept", [])),
            ",".join(request.headers.get_all("Accept-Encoding", [])),
            tuple(names),
        )
        headers = {"Vary": "Accept, Accept-Encoding"}
        if encoding:
            headers["Content-Encoding"] = encoding
        return Response(HTTPStatus.OK, body, content_type, headers)

    async def _send(self, writer: asyncio.StreamWriter, request: Request | None, response: Response) -> None:
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": sum(map(len, response.body)),
            "Date": formatdate(usegmt=True),
            "X-Content-Type-Options": "nosniff",
            **response.headers,
        }
        if request is None or not request.keep_alive:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        async with asyncio.timeout(_SECONDS_TO_ANSWER):
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            for part in () if request and request.method == "HEAD" else response.body:
                for start in range(0, len(part), _CHUNK):
                    writer.write(memoryview(part)[start : start + _CHUNK])
                    await writer.drain()
            await writer.drain()


def prefers_html(accept: str) -> bool:
    """Tell whether `Accept` names HTML, and neither text nor OpenMetrics before it, as a browser's does."""
    qualities = dict.fromkeys(("text/html", "text/plain", "application/openmetrics-text"), 0.0)
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type in qualities:
            qualities[media_type] = max(qualities[media_type], _quality(parameters))
    html = qualities.pop("text/html")
    return html > 0 and html >= max(qualities.values())


def _quality(parameters: list[str]) -> float:
    """Read the `q` of a media range; 1 without, 0 where it is none (RFC 9110, section 12.4.2)."""
    text = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0


def client_address(request: Request, source: str) -> str:
    """Find the client's address where `source` says; the connection's where that header has none to give.

    A proxy in front adds to what a client sent, so the last address of the last such header counts.
    """
    values = request.headers.get_all(_CLIENT_IP_HEADERS.get(source, ""), [])
    if not values:
        return request.peer
    last = values[-1].rpartition(",")[2].strip()
    if source == "RightmostForwarded":
        given = re.search(r'(?:^|;)\s*for\s*=\s*"?([^";]+)"?', last, re.IGNORECASE)
        last = _without_port(given[1]) if given else ""
    elif source == "CloudFrontViewerAddress":
        last = last.rpartition(":")[0].strip("[]")
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return request.peer


def _without_port(node: str) -> str:
    """Take the address from a node of RFC 7239: `192.0.2.60:4711`, `[2001:db8::17]:4711`, or without port."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0]


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise _BadRequestError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a line may have {_MOST_LINE} bytes"
        ) from None


async def _read_request(first: bytes, reader: asyncio.StreamReader, peer: str) -> Request | None:
    """Read the rest of a request's head; None where the client has closed the connection."""
    lines = []
    while (line := await _line(reader) if first.strip() else b"").strip():
        lines.append(line)
        if len(lines) > _MOST_HEADERS:
            raise _BadRequestError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"there may be {_MOST_HEADERS} headers"
            )
    if not first:
        return None
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise _BadRequestError(HTTPStatus.BAD_REQUEST, "that is no request of HTTP/1.0 or HTTP/1.1")
    method, target, minor = (group.decode("ascii") for group in match.groups())
    headers = http.client.parse_headers(io.BytesIO(b"".join([*lines, b"\r\n"])))
    try:
        url = urlsplit(target)
    except ValueError:
        raise _BadRequestError(HTTPStatus.BAD_REQUEST, "that is no request target") from None
    wishes = headers.get("Connection", "").lower()
    has_body = "Transfer-Encoding" in headers or headers.get("Content-Length", "0").strip() != "0"
    keep_alive = "close" not in wishes and (minor == "1" or "keep-alive" in wishes) and not has_body
    return Request(method, url.path, url.query, headers, peer, keep_alive)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asking: bool) -> None:
    """Read what the client still sends, for a moment: closing at once would reset its answer away.

    TLS can't close one direction only, and has the end of the answer in a buffer of its own: there, a client
    that may be still `asking` is read first, then both directions are closed in good order.
    """
    half_closed = writer.can_write_eof()
    if half_closed:
        writer.write_eof()
    if half_closed or asking:
        with suppress(TimeoutError, ValueError):
            async with asyncio.timeout(_SECONDS_TO_LINGER):
                while await reader.read(_CHUNK):
                    pass
    if not half_closed:
        async with asyncio.timeout(_SECONDS_TO_ANSWER):
            writer.close()
            await writer.wait_closed()


def _is_same_host(writer: asyncio.StreamWriter) -> bool:
    """Tell whether the client comes from the very address it connects to, which no other host can."""
    ends = (writer.get_extra_info(end) for end in ("peername", "sockname"))
    peer, own = (end[0] if end else None for end in ends)
    return peer is not None and peer == own


def _peer(writer: asyncio.StreamWriter) -> str:
    """Return the address at the other end; empty where it is gone already."""
    address = (writer.get_extra_info("peername") or ("",))[0]
    return str(address).removeprefix("::ffff:")


def _text(text: str, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> Response:
    return Response(status, (f"{text}\n".encode(),), headers=headers)


def _error(status: HTTPStatus, explanation: str, **headers: str) -> Response:
    return _text(f"{status.value} {status.phrase}: {explanation}", status, **headers)


def _state(good_text: str, bad_text: str, *, good: bool) -> Response:
    return _text(good_text) if good else _error(HTTPStatus.SERVICE_UNAVAILABLE, bad_text)
