"""The bounded server: requests, timeouts, and limits that protect other clients."""

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.web import server as module
from docker_prom_exporter.web.server import BoundedServer, Request, Response, listen
from support.exporters import AT_ONCE
from support.missing import give_up
from support.waiting import wait_for

GET = b"GET /ping HTTP/1.1\r\n\r\n"
LARGE = Response(HTTPStatus.OK, (b"x" * 1_000_000,) * 50)


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes until the other side closes or resets the connection."""
    answer = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


class Served:
    """A running server and clients of it. `answer` answers each request; `requests` has all requests."""

    def __init__(self, listener: socket.socket) -> None:
        self.answer: Callable[[Request], Response] = lambda _: Response(
            HTTPStatus.OK, (b"pong",)
        )
        self.requests: list[Request] = []
        self.address = listener.getsockname()[:2]
        self.server = BoundedServer(listener, self.app)

    def app(self, request: Request) -> Response:
        self.requests.append(request)
        return self.answer(request)

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        """Connect from this address, and send nothing."""
        return socket.create_connection(self.address, timeout=10, source_address=(host, 0))

    def exchange(self, raw: bytes) -> bytes:
        """Send these bytes and end of input, and return all bytes that the server sends."""
        with self.connect() as connection:
            with suppress(OSError):
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


@contextmanager
def not_started() -> Iterator[Served]:
    """Yield a server that does not accept connections yet."""
    threads = threading.active_count()
    with listen("127.0.0.1", 0) as listener:
        yield Served(listener)
    wait_for(lambda: threading.active_count() <= threads, what="the server's threads to end")


@pytest.fixture
def served() -> Iterator[Served]:
    with not_started() as served:
        served.server.start()
        try:
            yield served
        finally:
            served.server.stop()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /ping\r\n\r\n", 400),
        (b"GET /ping HTTP/2.0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
        (b"get /ping HTTP/1.1\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"\r\n" + GET, 400),
        (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\nX: " + b"x" * 8_000_000 + b"\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 100 + b"\r\n", 200),
        (b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 9 + b"\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /ping HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 200),
        (b"GET /ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
        (b"GET /ping HTTP/1.1\r\nnonsense\r\n\r\n", 200),
        (b"GET /ping HTTP/1.1\n\n", 200),
        (b"GET http://exporter/ping HTTP/1.1\r\n\r\n", 200),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else None,
)
def test_unusual_requests(served: Served, raw: bytes, status: int) -> None:
    """An unusual request gets one answer, whose body says what is wrong; the next client is served."""
    head, _, body = served.exchange(raw).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert body.startswith(b"pong" if status == 200 else b"%d " % status)
    assert b"HTTP/1.1 " not in body.replace(b"of HTTP/1.0 or HTTP/1.1", b"")
    assert served.exchange(GET).endswith(b"pong")


def segments(connection: socket.socket) -> int:
    """Return the number of segments with data that have arrived: `tcpi_data_segs_in` of tcp(7)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int.from_bytes(info[152:156], sys.byteorder)


def test_an_answer_is_one_segment(served: Served) -> None:
    """A small answer is sent at once: its body does not wait for the ACK of its headers, 40 ms."""
    with served.connect() as connection:
        for number in range(1, 4):
            connection.sendall(GET)
            answer = b""
            while not answer.endswith(b"pong"):
                answer += connection.recv(65536)

            assert number == segments(connection)


def test_a_refusal_arrives(served: Served) -> None:
    """After a refusal, the server reads what the client still sends, so that no reset drops the answer."""
    with served.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk

    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "raw", [b"", b"GET /ping", GET[:-2], b"GET /ping HTTP/1.1\r\nHost: a"]
)
def test_half_a_request_gets_no_answer(served: Served, raw: bytes) -> None:
    """An incomplete request gets no answer, because its client has disconnected."""
    assert b"" == served.exchange(raw)
    assert [] == served.requests


def test_keeps_a_connection_and_answers_in_order(served: Served) -> None:
    """Pipelined requests are answered in their order, up to the one with `Connection: close`."""
    served.answer = lambda request: Response(HTTPStatus.OK, (request.path.encode(),))
    answer = served.exchange(
        b"GET /1 HTTP/1.1\r\n\r\nHEAD /2 HTTP/1.1\r\n\r\n"
        b"GET /3 HTTP/1.1\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\n\r\n"
    )

    parts = [part.partition(b"\r\n\r\n") for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert [b"/1", b"", b"/3"] == [body for _, _, body in parts]
    assert all(b"Content-Length: 2\r\n" in head for head, _, _ in parts)


def test_http_1_0_closes_unless_asked(served: Served) -> None:
    """An HTTP/1.0 connection is closed unless the client asks to keep it; the answer says which."""
    assert 1 == served.exchange(b"GET /ping HTTP/1.0\r\n\r\n" * 2).count(b"Connection: close")
    kept = served.exchange(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
    assert 2 == kept.count(b"Connection: keep-alive")


def test_an_answer_waits_for_no_acknowledgement(served: Served) -> None:
    """A connection has TCP_NODELAY, so that the end of an answer waits for no acknowledgement."""
    with served.connect() as connection:
        connection.sendall(GET)
        connection.recv(1)
        (accepted,) = served.server._slots

        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_large_answer_arrives_whole(served: Served) -> None:
    """A large answer in parts arrives whole, whether its connection is then closed or kept."""
    parts = (b"a" * 1_000_000, b"b" * 1_000_001)
    served.answer = lambda _: Response(HTTPStatus.OK, parts)
    answer = served.exchange(GET + b"GET /ping HTTP/1.0\r\n\r\n")

    assert 2 == answer.count(b"".join(parts))


def test_many_silent_clients(served: Served) -> None:
    """Silent clients do not keep others from an answer, and there are no more threads than slots."""
    others = threading.active_count()
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(served.connect())
            with suppress(OSError):
                stack.enter_context(served.connect()).send(b"G")

        assert served.exchange(GET).endswith(b"pong")
        assert len(served.server._slots) <= 48
        assert threading.active_count() - others <= 48


def test_threads_that_do_not_end_are_not_replaced(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped connection makes room only once its thread has ended."""
    monkeypatch.setattr(module, "_DROP_TIMEOUT", 0.001)
    others, done = threading.active_count(), threading.Event()
    served.answer = lambda _: Response(
        HTTPStatus.OK, (b"late" if done.wait(30) else b"never",)
    )
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(served.connect()).sendall(GET)
        wait_for(lambda: len(served.requests) == 48, what="every thread to be busy")
        wait_for(
            lambda: not served.server._slots, what="every connection to be dropped", seconds=20
        )

        assert 48 == threading.active_count() - others
        done.set()


def test_the_host_with_most_connections_loses_one(served: Served) -> None:
    """The host with the most connections loses one, so that a quiet scraper keeps its own."""
    with served.connect("127.0.0.2") as scraper, ExitStack() as stack:
        scraper.sendall(GET)
        scraper.recv(65536)
        for _ in range(100):
            stack.enter_context(served.connect())
        assert served.exchange(GET).endswith(b"pong")
        scraper.sendall(GET)

        assert scraper.recv(65536).endswith(b"pong")


def test_clients_that_have_disconnected() -> None:
    """A request whose client has disconnected is not processed; a client that waits gets its answer."""
    with not_started() as served:
        for _ in range(100):
            with served.connect() as gone:
                gone.sendall(GET)
        with served.connect() as honest:
            honest.sendall(GET)
            served.server.start()

            assert honest.recv(65536).endswith(b"pong")
        assert 1 == len(served.requests)
        served.server.stop()


@pytest.mark.parametrize(
    ("timeout", "raw"),
    [
        ("_REQUEST_TIMEOUT", b""),
        ("_REQUEST_TIMEOUT", b"GET /ping HTTP/1.1\r\nX: "),
        ("_IDLE_TIMEOUT", GET),
        ("_ANSWER_TIMEOUT", b"GET /large HTTP/1.1\r\n\r\n"),
        ("_LINGER_TIMEOUT", b"GET /ping HTTP/1.1\r\nContent-Length: 9\r\n\r\n"),
    ],
    ids=["silent", "asks slowly", "idle", "reads slowly", "sends on"],
)
def test_timeouts(
    served: Served, monkeypatch: pytest.MonkeyPatch, timeout: str, raw: bytes
) -> None:
    """Each step of a connection has a timeout, even for a client that sends steadily; others are served."""
    # Also for the requests below: on a busy machine a tenth of this is not enough.
    monkeypatch.setattr(module, timeout, 1)
    pong = served.answer
    served.answer = lambda request: LARGE if request.path == "/large" else pong(request)
    with served.connect() as slow:
        slow.sendall(raw)

        def dropped() -> bool:
            assert served.exchange(GET).endswith(b"pong")
            with suppress(OSError):
                slow.sendall(b"" if raw in (b"", GET) else b"x")
            return not served.server._slots

        wait_for(dropped, what="the slow client to be dropped")
        with suppress(OSError):
            assert len(read_all(slow)) < 50_000_000


def test_stop(served: Served) -> None:
    """`stop` closes silent, sending, idle and slow connections at once, and refuses new ones."""
    served.answer = lambda _: LARGE
    with ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall([b"", b"GET /", GET, GET * 100][number % 4])
        wait_for(lambda: len(served.requests) == 10, what="the requests")
        began = time.monotonic()
        served.server.stop()
        took = time.monotonic() - began
        for client in clients:
            read_all(client)

        assert took < AT_ONCE
        with pytest.raises(ConnectionRefusedError):
            served.connect()


def test_without_descriptors_a_connection_is_dropped(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If `accept` lacks descriptors, a connection is dropped, and the log has one line on that."""
    failure = OSError(errno.EMFILE, "Too many open files")

    class Exhausted:
        def accept(self) -> None:
            raise failure

    with served.connect() as quiet:
        wait_for(lambda: served.server._slots, what="the connection")
        with capture_logs() as logs, monkeypatch.context() as patch:
            patch.setattr(served.server, "_listener", Exhausted())
            for _ in range(3):
                with pytest.raises(OSError, match="Too many"):
                    served.server.get_request()

        assert b"" == read_all(quiet)
    assert ["http.no_descriptors"] == [
        entry["event"] for entry in logs if entry["log_level"] == "warning"
    ]


@pytest.mark.parametrize(
    ("limit", "expected"), [(1024, 48), (80, 48), (64, 32), (20, 1), (-1, 48)], ids=str
)
def test_descriptors_bound_the_slots(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
) -> None:
    """The limit of descriptors bounds the slots; -1 is no limit.

    The rest of the exporter needs some descriptors too.
    """
    monkeypatch.setattr(os, "sysconf", lambda _: limit)

    assert expected == module._max_threads()


@pytest.mark.parametrize("address", ["::1", "::"])
def test_listens_on_ipv6(address: str) -> None:
    """A server listens on IPv6, and with `::` also on IPv4."""
    if not socket.has_ipv6:
        give_up("this machine has no IPv6")
    with listen(address, 0) as listener:
        for host in ("::1", "127.0.0.1") if address == "::" else ("::1",):
            socket.create_connection((host, listener.getsockname()[1]), timeout=10).close()


def test_listens_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without IPv6, `::` listens on all IPv4 addresses, and `::1` is an error."""
    create = socket.create_server

    def create_server(
        address: tuple[str, int], *, family: int = socket.AF_INET, dualstack_ipv6: bool = False
    ) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(address, dualstack_ipv6=dualstack_ipv6)

    monkeypatch.setattr(socket, "create_server", create_server)
    with listen("::", 0) as listener:
        assert "0.0.0.0" == listener.getsockname()[0]
    with pytest.raises(OSError, match="not supported"):
        listen("::1", 0)


def test_a_port_in_use_is_an_oserror(served: Served) -> None:
    """A port in use is an OSError of `listen`, before anything else starts."""
    with pytest.raises(OSError, match="in use"):
        listen(*served.address)


def test_ipv4_clients_of_an_ipv6_listener_have_their_own_address() -> None:
    """An IPv4 client of an IPv6 listener has its IPv4 address, not the mapped one."""
    if not socket.has_dualstack_ipv6():
        give_up("this machine has no IPv6")
    served = Served(listen("::", 0))
    served.address = ("127.0.0.1", served.address[1])
    served.server.start()
    try:
        served.exchange(GET)
    finally:
        served.server.stop()

    assert ["127.0.0.1"] == [request.peer for request in served.requests]
