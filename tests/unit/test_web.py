"""What the web side answers, to whom, and how little a bad client costs the others."""

import gzip
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from email.message import Message
from http.client import HTTPMessage, parse_headers
from io import BytesIO
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.metrics import Exposition
from docker_prom_exporter.settings import CLIENT_IP_SOURCES
from docker_prom_exporter.snapshot import Snapshot
from docker_prom_exporter.web.server import _CLIENT_IP_HEADERS, Request, Web, client_address, listen
from support.builders import container
from support.clients import read_all
from support.snapshots import PAGE
from support.waiting import wait_for


class Site:
    """A running web side and the snapshot it serves, which a test may replace."""

    def __init__(self, web: Web, address: tuple[str, int]) -> None:
        self.web = web
        self.address = address
        self.snapshot = Snapshot(ended=time.monotonic(), trusted_for=3600, up=True, listed=True)

    def url(self, path: str) -> str:
        host, port = self.address[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
        """Ask as a decent client does."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url(path), method=method, headers=names)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def connect(self) -> socket.socket:
        """Connect and say nothing yet."""
        return socket.create_connection(self.address[:2], timeout=10)

    def say(self, raw: bytes) -> bytes:
        """Send these bytes and read until the other side closes, or has answered and waits."""
        with self.connect() as connection:
            with suppress(OSError):
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


@contextmanager
def serving(address: str = "127.0.0.1", client_ip_source: str = "ConnectInfo") -> Iterator[Site]:
    listener = listen(address, 0)
    site: Site
    web = Web(listener, Exposition(lambda: site.snapshot), lambda: PAGE, client_ip_source)
    site = Site(web, listener.getsockname())
    web.start()
    try:
        yield site
    finally:
        web.stop()
        wait_for(lambda: not web._thread.is_alive(), what="the web thread to end")
        listener.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.mark.parametrize("path", ["/metrics", "/"])
def test_serves_the_exposition(site: Site, path: str) -> None:
    """In the text format to who asks for nothing else."""
    status, headers, body = site.ask(path)

    assert 200 == status
    assert "text/plain; version=0.0.4; charset=utf-8" == headers["Content-Type"]
    assert str(len(body)) == headers["Content-Length"]
    assert b"\ndocker_up 1.0\n" in body


def test_negotiates_format_and_encoding(site: Site) -> None:
    """OpenMetrics by Accept, gzip by Accept-Encoding; caches are told."""
    _, headers, body = site.ask(
        "/metrics", Accept="application/openmetrics-text; version=1.0.0", Accept_Encoding="gzip"
    )

    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "gzip" == headers["Content-Encoding"]
    assert "Accept, Accept-Encoding" == headers["Vary"]
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_serves_names_only(site: Site) -> None:
    """`name[]` picks samples, as prometheus-client's own server does."""
    _, _, body = site.ask("/metrics?name[]=docker_up&name[]=python_info")

    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    assert {"docker_up", "python_info"} == {line.partition("{")[0].partition(" ")[0] for line in lines}


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x", "text/plain;version=1.x", "*/*;q=x", ",;=,", "\xff"]
)
def test_an_odd_accept_gets_the_text_format(site: Site, accept: str) -> None:
    """A version that is none is no reason to fail a scrape."""
    status, headers, _ = site.ask("/metrics", Accept=accept)

    assert 200 == status
    assert "text/plain; version=0.0.4; charset=utf-8" == headers["Content-Type"]


def test_answers_head_without_a_body(site: Site) -> None:
    """With the length it would have had."""
    with site.connect() as connection:
        connection.sendall(b"HEAD /ping HTTP/1.0\r\n\r\n")
        head, _, body = read_all(connection).partition(b"\r\n\r\n")

    assert b"Content-Length: 4" in head
    assert b"" == body


def test_ping(site: Site) -> None:
    """For who wants to know that something listens."""
    assert (200, b"pong") == site.ask("/ping")[::2]


@pytest.mark.parametrize(
    ("ended", "polled", "healthy", "ready"),
    [(0, True, 200, 200), (-7200, True, 503, 200), (0, False, 200, 503)],
    ids=["fine", "stuck", "starting"],
)
def test_says_how_it_is(site: Site, ended: float, polled: bool, healthy: int, ready: int) -> None:  # noqa: FBT001
    """Healthy: the loop turns. Ready: a poll has ended. An engine that is down is neither's matter."""
    site.snapshot = replace(site.snapshot, ended=time.monotonic() + ended, polled=polled, up=False)

    assert (healthy, ready) == (site.ask("/-/healthy")[0], site.ask("/-/ready")[0])


def test_a_stuck_loop_takes_docker_down(site: Site) -> None:
    """What is too old to trust is not served as if it were new."""
    site.snapshot = replace(site.snapshot, ended=time.monotonic() - 7200)

    assert b"\ndocker_up 0.0\n" in site.ask("/metrics")[2]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_refuses_other_methods(site: Site, method: str) -> None:
    """With a body that says what would do."""
    status, headers, body = site.ask("/metrics", method)

    assert (405, "GET, HEAD") == (status, headers["Allow"])
    assert body.startswith(b"405 Method Not Allowed")


@pytest.mark.parametrize("path", ["/nope", "/metrics/", "//metrics", "/%6detrics", "/..", "/metrics%00"])
def test_refuses_other_paths(site: Site, path: str) -> None:
    """With a body that names the paths there are."""
    status, _, body = site.ask(path)

    assert 404 == status
    assert b"/metrics" in body


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
        (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\nX: " + b"x" * 8_000_000 + b"\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /ping HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 200),
        (b"GET /ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
        (b"GET /ping HTTP/1.1\r\nnonsense\r\n\r\n", 200),
        (b"GET /ping HTTP/1.1\n\n", 200),
        (b"GET http://exporter/ping HTTP/1.1\r\n\r\n", 200),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else None,
)
def test_survives_odd_requests(site: Site, raw: bytes, status: int) -> None:
    """Each gets an answer, and one answer only; the next client gets its own."""
    answer = site.say(raw)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert 1 == answer.count(b"HTTP/1.1 ")
    assert 200 == site.ask("/ping")[0]


def test_keeps_a_connection_and_answers_in_order(site: Site) -> None:
    """Pipelined requests are answered one after the other; `close` ends it."""
    answer = site.say(
        b"GET /ping HTTP/1.1\r\n\r\nGET /nope HTTP/1.1\r\n\r\n"
        b"GET /-/ready HTTP/1.1\r\nConnection: close\r\n\r\nGET /ping HTTP/1.1\r\n\r\n"
    )

    assert [b"200", b"404", b"200"] == [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]


def test_http_1_0_closes_unless_asked(site: Site) -> None:
    """As HTTP/1.0 has it."""
    assert 1 == site.say(b"GET /ping HTTP/1.0\r\n\r\nGET /ping HTTP/1.0\r\n\r\n").count(b"HTTP/1.1 200")
    kept = site.say(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
    assert 2 == kept.count(b"HTTP/1.1 200")


def test_a_thousand_silent_clients_cost_nobody_a_scrape(site: Site) -> None:
    """Those quiet for longest are dropped; threads stay as they were, connections below their bound."""
    site.ask("/metrics")
    threads = threading.active_count()
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(site.connect())
            with suppress(OSError):
                stack.enter_context(site.connect()).send(b"G")

        assert 200 == site.ask("/metrics")[0]
        assert threads == threading.active_count()
        assert len(site.web._connections) <= 129


def test_a_slow_reader_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not take the answer loses the connection; others are served meanwhile."""
    monkeypatch.setattr("docker_prom_exporter.web._SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(Exposition, "render", lambda *_: ("text/plain", "", (b"x" * 50_000_000,)))

    with site.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")

        assert 200 == site.ask("/ping")[0]
        wait_for(lambda: len(site.web._connections) <= 1, what="the slow reader to be dropped")
        with suppress(ConnectionResetError):
            assert len(read_all(connection)) < 50_000_000


def test_a_slow_asker_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that never ends has its time, however steadily it drips."""
    monkeypatch.setattr("docker_prom_exporter.web._SECONDS_TO_ASK", 0.2)

    with site.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nX: ")

        def dropped() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return False

        wait_for(dropped, what="the slow asker to be dropped")


def test_a_large_exposition_arrives_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, over a connection that is then closed or kept."""
    parts = (b"a" * 3_000_000, b"b" * 3_000_001)
    monkeypatch.setattr(Exposition, "render", lambda *_: ("text/plain", "", parts))

    assert b"".join(parts) == site.ask("/metrics")[2]
    assert b"".join(parts) == site.ask("/metrics", Connection="close")[2]


def test_rendering_holds_nobody_else_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large exposition is rendered, the paths that need none are answered."""
    rendering, done = threading.Event(), threading.Event()

    def render(*_: object) -> tuple[str, str, tuple[bytes, ...]]:
        rendering.set()
        assert done.wait(10)
        return "text/plain", "", (b"large",)

    monkeypatch.setattr(Exposition, "render", render)
    answers: list[bytes] = []
    scraping = threading.Thread(target=lambda: answers.append(site.ask("/metrics")[2]))
    scraping.start()
    assert rendering.wait(10)
    meanwhile = site.ask("/ping")[2]
    done.set()
    scraping.join()

    assert b"pong" == meanwhile
    assert [b"large"] == answers


def test_an_error_of_our_own_is_a_500(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged with its traceback, says nothing to the client, and the next request is answered."""
    monkeypatch.setattr(Exposition, "render", lambda *_: 1 / 0)

    with capture_logs() as logs:
        status, _, body = site.ask("/metrics")

    assert 500 == status
    assert b"Zero" not in body
    assert ["http.failed"] == [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert 200 == site.ask("/ping")[0]


@pytest.mark.parametrize("address", ["::1", "::"])
def test_listens_on_ipv6(address: str) -> None:
    """`::` takes IPv4, too."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with serving(address) as site, capture_logs() as logs:
        site.address = ("::1", site.address[1])
        assert 200 == site.ask("/ping")[0]
        if address == "::":
            site.address = ("127.0.0.1", site.address[1])
            assert 200 == site.ask("/ping")[0]
            assert "127.0.0.1" == [entry["client"] for entry in logs if entry["event"] == "http.request"][-1]


def test_logs_each_request(site: Site) -> None:
    """One line at debug with the client's address."""
    with capture_logs() as logs:
        site.ask("/nope?x=1")

    (line,) = [entry for entry in logs if entry["event"] == "http.request"]
    assert ("debug", "127.0.0.1", "GET", "/nope", 404) == tuple(
        line[key] for key in ("log_level", "client", "method", "path", "status")
    )


def request_with(**headers: str | list[str]) -> Request:
    lines = [
        f"{name.replace('_', '-')}: {value}"
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    message: HTTPMessage = parse_headers(BytesIO("\r\n".join([*lines, "", ""]).encode()))
    return Request("GET", "/", "", message, "192.0.2.99", keep_alive=True)


@pytest.mark.parametrize(
    ("source", "headers", "address"),
    [
        ("ConnectInfo", {"X_Forwarded_For": "192.0.2.1"}, "192.0.2.99"),
        ("RightmostXForwardedFor", {"X_Forwarded_For": "192.0.2.1, 192.0.2.2"}, "192.0.2.2"),
        (
            "RightmostXForwardedFor",
            {"X_Forwarded_For": ["192.0.2.1", "192.0.2.2,2001:db8::3"]},
            "2001:db8::3",
        ),
        ("RightmostForwarded", {"Forwarded": "for=192.0.2.1, for=192.0.2.2;proto=https"}, "192.0.2.2"),
        (
            "RightmostForwarded",
            {"Forwarded": 'proto=https;For="[2001:db8:cafe::17]:4711"'},
            "2001:db8:cafe::17",
        ),
        ("RightmostForwarded", {"Forwarded": "for=192.0.2.7:4711"}, "192.0.2.7"),
        ("RightmostForwarded", {"Forwarded": "for=_hidden"}, "192.0.2.99"),
        ("XRealIp", {"X_Real_Ip": "192.0.2.3"}, "192.0.2.3"),
        ("CfConnectingIp", {"CF_Connecting_IP": "2001:db8::4"}, "2001:db8::4"),
        ("TrueClientIp", {"True_Client_IP": "192.0.2.5"}, "192.0.2.5"),
        ("FlyClientIp", {"Fly_Client_IP": "192.0.2.6"}, "192.0.2.6"),
        ("CloudFrontViewerAddress", {"CloudFront_Viewer_Address": "192.0.2.8:46532"}, "192.0.2.8"),
        ("CloudFrontViewerAddress", {"CloudFront_Viewer_Address": "2001:db8::8:46532"}, "2001:db8::8"),
        ("XEnvoyExternalAddress", {"X_Envoy_External_Address": "192.0.2.9"}, "192.0.2.9"),
    ],
)
def test_finds_the_client_behind_a_proxy(source: str, headers: dict[str, Any], address: str) -> None:
    """The address the nearest proxy added, from the header named."""
    assert address == client_address(request_with(**headers), source)


@pytest.mark.parametrize("source", CLIENT_IP_SOURCES)
@pytest.mark.parametrize(
    "value", [None, "", ",", "nonsense", "999.1.1.1", "for=", 'for="', ":", "[", "x" * 5000]
)
def test_a_missing_or_spoilt_header_gives_the_connection(source: str, value: str | None) -> None:
    """No header a client can send fails its request."""
    names = [name.replace("-", "_") for name in _CLIENT_IP_HEADERS.values()]
    headers: dict[str, Any] = {} if value is None else dict.fromkeys(names, value)

    assert "192.0.2.99" == client_address(request_with(**headers), source)


def test_a_port_in_use_is_an_oserror(site: Site) -> None:
    """It is found before anything else starts."""
    with pytest.raises(OSError, match="in use"):
        listen(*site.address)


def test_no_scrape_sees_two_snapshots(site: Site) -> None:
    """However fast they are swapped: what is said of the poll and of the containers comes from one."""
    generations = [
        replace(site.snapshot, duration=float(n), containers=(container(f"generation-{float(n)}"),))
        for n in range(50)
    ]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for generation in generations:
                site.snapshot = generation

    site.snapshot = generations[0]
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(50):
            text = site.ask("/metrics")[2].decode()
            duration = re.search(r"^docker_exporter_poll_duration_seconds (.*)", text, re.MULTILINE)
            assert duration is not None
            assert {duration[1]} == set(re.findall(r'name="generation-([^"]*)"', text))
    finally:
        stop.set()
        swapping.join()
