"""An HTTP server with limits on connections, times and sizes."""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from email import message_from_string
from http import HTTPStatus
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, ThreadingMixIn
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import structlog

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable

    from docker_prom_exporter.web.credentials import ServerTls

_MAX_CONNECTIONS: Final = 48
_OTHER_DESCRIPTORS: Final = 32  # reserved for the rest of the exporter
_BACKLOG: Final = 1024
_MAX_LINE: Final = 8 * 1024
_MAX_HEADERS: Final = 100
_MAX_HEAD: Final = 64 * 1024  # all headers together: each connection may hold as much
_BUFFER: Final = 64 * 1024

# In seconds.
_REQUEST_TIMEOUT: Final = 10
_IDLE_TIMEOUT: Final = 120
_ANSWER_TIMEOUT: Final = 30
_LINGER_TIMEOUT: Final = 1
_DROP_TIMEOUT: Final = 0.1
_STOP_TIMEOUT: Final = 0.4

_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,20}) ([!-~]+) HTTP/1\.([01])\r?\n")


class Request(NamedTuple):
    """A request without its body."""

    method: str
    path: str
    query: str
    headers: HTTPMessage
    peer: str  # the address of the connection's other end
    certified: bool  # whether the client has a valid certificate, or needs none


class Response(NamedTuple):
    """An answer."""

    status: HTTPStatus
    body: tuple[bytes, ...]  # parts that all clients share, so that they are not copied
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()  # a name may occur twice


def refusal(status: HTTPStatus, explanation: str, *headers: tuple[str, str]) -> Response:
    """Return an error response whose body is one line: the status and an explanation."""
    line = f"{status.value} {status.phrase}: {explanation}\n"
    return Response(status, (line.encode(),), headers=headers)


class _RefusedError(Exception):
    """A request is not passed to the app. Its arguments are those of `refusal`."""


def listen(address: str, port: int) -> socket.socket:
    """Bind and listen, or raise `OSError`.

    `::` accepts IPv4 too, and only IPv4 on a host without IPv6.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    dual = address == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((address, port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        # A host without IPv6 can still serve all of its addresses.
        if address != "::" or error.errno != errno.EAFNOSUPPORT:
            raise
        return socket.create_server(("", port))


class _Slot(NamedTuple):
    """A connection's right to a thread."""

    host: str  # the client's address
    deadline: float  # on the monotonic clock; then the connection is dropped


class BoundedServer(ThreadingMixIn, BaseServer):
    """Answers requests with `app`; each connection has a thread.

    At the maximum number of threads, a new connection replaces the longest-idle
    connection of the host that has the most, so that a scrape always gets a connection.
    """

    daemon_threads = True

    app: Callable[[Request], Response]
    tls: ServerTls | None
    # The connections that are not dropped, the longest-idle first.
    _slots: dict[socket.socket, _Slot]
    # Threads that have not ended, those of dropped connections included.
    _thread_count: int
    # Guards the two; notified when a thread ends.
    _changed: threading.Condition
    # Whether a lack of descriptors was logged.
    _warned: bool

    def __init__(
        self,
        listener: socket.socket,
        app: Callable[[Request], Response],
        tls: ServerTls | None = None,
    ) -> None:
        super().__init__(listener.getsockname(), _ConnectionHandler)
        self.app = app
        self.tls = tls
        self._listener = listener
        self._descriptor = listener.fileno()
        self._slots = {}
        self._thread_count = 0
        self._max_threads = _max_threads()
        self._changed = threading.Condition()
        self._log = structlog.get_logger()
        self._warned = False
        self._thread = threading.Thread(target=self.serve_forever, name="web", daemon=True)
        listener.listen(_BACKLOG)

    def start(self) -> None:
        """Begin to accept; connections made since `listen` wait in the backlog."""
        self._thread.start()

    def stop(self) -> None:
        """Close the listener and every connection, within half a second."""
        threading.Thread(target=self.shutdown, daemon=True).start()
        # This wakes `serve_forever` on Linux; on other systems it wakes twice a second.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(_STOP_TIMEOUT)
        self._listener.close()
        with self._changed:
            self._drop([*self._slots])

    def fileno(self) -> int:
        """Return the descriptor on which `serve_forever` waits."""
        return self._descriptor

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection that is not abandoned; return it and its client's address."""
        try:
            connection, (host, port, *_) = self._listener.accept()
            while self.is_abandoned(connection):
                connection.close()
                connection, (host, port, *_) = self._listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                self._free_a_descriptor(error)
            raise
        if self.tls is not None:
            same_host = host == connection.getsockname()[0]
            connection = self.tls.wrap(connection, same_host=same_host)
        # An IPv4 client of an IPv6 listener has a mapped address.
        return connection, (host.removeprefix("::ffff:"), port)

    def verify_request(self, request: socket.socket, client_address: tuple[str, int]) -> bool:  # type: ignore[override]
        """Wait until another thread is allowed, and add a slot for the connection."""
        with self._changed:
            while self._thread_count >= self._max_threads:
                self._drop_one()
            self._thread_count += 1
            deadline = time.monotonic() + _REQUEST_TIMEOUT
            self._slots[request] = _Slot(client_address[0], deadline)
        return True

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Close a connection at the end of its thread."""
        with self._changed:
            self._thread_count -= 1
            self._slots.pop(request, None)
            request.close()
            self._changed.notify()

    def service_actions(self) -> None:
        """Drop connections past their deadlines.

        `serve_forever` calls this at least twice a second.
        """
        now = time.monotonic()
        late = []
        with self._changed:
            for connection, slot in self._slots.items():
                if slot.deadline < now:
                    late.append(connection)
            self._drop(late)

    def handle_error(self, request: object, client_address: tuple[str, int]) -> None:  # noqa: ARG002  inherited
        """Log why a connection ended early."""
        error = sys.exception()
        if isinstance(error, OSError):
            self._log.debug(
                "http.connection_failed", client=client_address[0], cause=str(error)
            )
        else:
            self._log.error("http.failed", client=client_address[0], exc_info=error)

    def allow(self, connection: socket.socket, seconds: float) -> None:
        """Set a connection's next deadline, and move it to the end of the eviction order.

        Raises `ConnectionAbortedError` if the connection was dropped.
        """
        with self._changed:
            if connection not in self._slots:
                raise ConnectionAbortedError("dropped")
            slot = self._slots.pop(connection)
            self._slots[connection] = slot._replace(deadline=time.monotonic() + seconds)

    def is_abandoned(self, connection: socket.socket) -> bool:
        """Return whether the client hung up while others wait to be accepted.

        Always false if the system is not Linux.
        """
        if sys.platform != "linux":
            return False
        # If none waits, this client gets an answer: busybox's `nc` closes only its sending
        # side, as if it had hung up.
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP)
        poll.register(self._descriptor, select.POLLIN)
        return len(poll.poll(0)) == 2

    def _drop_one(self) -> None:
        """Drop the longest-idle connection of the host with the most.

        Wait briefly for a thread to end.
        """
        counts = Counter(slot.host for slot in self._slots.values())
        # There may be none: a thread does not end at once when its connection is dropped.
        if counts:
            greediest = max(counts, key=counts.__getitem__)
            for connection, slot in self._slots.items():
                if slot.host == greediest:
                    self._drop([connection])
                    break
        self._changed.wait(_DROP_TIMEOUT)

    def _free_a_descriptor(self, error: OSError) -> None:
        """Drop a connection, and warn once."""
        if not self._warned:
            advice = "raise the limit: ulimit -n"
            self._log.warning("http.no_descriptors", cause=error.strerror, advice=advice)
        self._warned = True
        with self._changed:
            self._drop_one()  # which also waits: `accept` would fail again at once

    def _drop(self, connections: Iterable[socket.socket]) -> None:
        """Shut down connections, which ends their threads, even if these wait for a client."""
        for connection in connections:
            del self._slots[connection]
            with suppress(OSError):
                # SSLSocket.shutdown would discard the TLS state that the thread still uses.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _max_threads() -> int:
    """Return the maximum number of connections; a low limit of open descriptors reduces it."""
    if sys.platform == "win32":
        return _MAX_CONNECTIONS
    limit = os.sysconf("SC_OPEN_MAX")
    if limit < 0:  # there is none
        return _MAX_CONNECTIONS
    return max(1, min(_MAX_CONNECTIONS, limit - _OTHER_DESCRIPTORS))


class _ConnectionHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = request_version = "HTTP/1.1"
    # Otherwise the end of an answer waits for the client's delayed ACK.
    disable_nagle_algorithm = True
    # Headers and a small body are one write.
    wbufsize = _BUFFER
    server: BoundedServer
    rfile: io.BufferedReader

    def setup(self) -> None:
        """Do the TLS handshake."""
        if self.server.tls is not None:
            self.request.do_handshake()
            self.server.allow(self.request, _REQUEST_TIMEOUT)
        super().setup()

    def handle_one_request(self) -> None:
        """Read and answer a request, unless the client has closed the connection."""
        self.close_connection = True
        if not self.rfile.peek(1):
            return
        self.server.allow(self.request, _REQUEST_TIMEOUT)
        try:
            request = self._read_request()
        except _RefusedError as error:
            self._answer(refusal(*error.args))
            return
        if not self.server.is_abandoned(self.request):
            self._answer(self.server.app(request), has_body=request.method != "HEAD")

    def _read_request(self) -> Request:
        match = _REQUEST_LINE.fullmatch(self._read_line())
        if match is None:
            raise _RefusedError(
                HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.0 or HTTP/1.1"
            )
        method, target, minor_version = match[1].decode(), match[2].decode(), match[3]
        headers = self._read_headers()
        try:
            url = urlsplit(target)
        except ValueError:
            raise _RefusedError(
                HTTPStatus.BAD_REQUEST, "the request target is invalid"
            ) from None
        self.close_connection = _has_body(headers) or not _is_kept(headers, minor_version)
        tls = self.server.tls
        certified = tls is None or tls.is_certified(self.request)
        return Request(method, url.path, url.query, headers, self.client_address[0], certified)

    def _read_headers(self) -> HTTPMessage:
        lines = []
        size = 0
        while (line := self._read_line()).strip():
            lines.append(line.decode("latin-1"))
            size += len(line)
            if len(lines) > _MAX_HEADERS:
                raise _RefusedError(_TOO_LARGE, f"there may be {_MAX_HEADERS} headers")
            if size > _MAX_HEAD:
                raise _RefusedError(_TOO_LARGE, f"the headers may have {_MAX_HEAD} bytes")
        return message_from_string("".join(lines), _class=HTTPMessage)

    def _read_line(self) -> bytes:
        line = self.rfile.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            raise _RefusedError(_TOO_LARGE, f"a line may have {_MAX_LINE} bytes")
        if not line.endswith(b"\n"):
            raise ConnectionAbortedError("closed within a request")
        return line

    def _answer(self, response: Response, *, has_body: bool = True) -> None:
        self.server.allow(self.request, _ANSWER_TIMEOUT)
        self.send_response_only(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(sum(map(len, response.body))))
        self.send_header("Date", self.date_time_string())
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in response.headers:
            self.send_header(name, value)
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        if has_body:
            for part in response.body:
                self.wfile.write(part)
        self.wfile.flush()
        if self.close_connection:
            self._linger()
        else:
            self.server.allow(self.request, _IDLE_TIMEOUT)

    def _linger(self) -> None:
        """Discard what the client still sends: a reset at once could destroy the answer."""
        self.server.allow(self.request, _LINGER_TIMEOUT)
        # With TLS the bytes need not be decrypted.
        socket.socket.shutdown(self.request, socket.SHUT_WR)
        while socket.socket.recv(self.request, _BUFFER):
            pass


def _has_body(headers: HTTPMessage) -> bool:
    """Return whether a body follows the headers; it is not read."""
    length = headers.get("Content-Length", "0").strip()
    return "Transfer-Encoding" in headers or length != "0"


def _is_kept(headers: HTTPMessage, minor_version: bytes) -> bool:
    """Return whether the client keeps the connection; by default HTTP/1.0 does not."""
    requested = headers.get("Connection", "").lower()
    if "close" in requested:
        return False
    return minor_version == b"1" or "keep-alive" in requested
