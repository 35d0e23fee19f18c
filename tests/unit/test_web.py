"""What the web side answers, and to whom."""

import base64
import gzip
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily
from structlog.testing import capture_logs

from docker_prom_exporter.exposition import Exposition, Publication
from docker_prom_exporter.web import App, BearerToken, BoundedServer, Site, listen
from support.snapshots import PAGE

HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Served:
    """A running web side, what it serves, and a decent client of it."""

    def __init__(self, token: BearerToken | None = None) -> None:
        self.exposition = Exposition()
        self.exposition.publish(Publication([GaugeMetricFamily("container_health", "Health.", 4)]))
        self.healthy = self.ready = True
        self.listener = listen("127.0.0.1", 0)
        site = Site(self.exposition, lambda: self.healthy, lambda: self.ready, PAGE)
        self.server = BoundedServer(self.listener, App(site, "XRealIp", token))

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.listener.getsockname()[1]}{path}"
        request = urllib.request.Request(url, method=method, headers=names)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()


@contextmanager
def serving(token: BearerToken | None = None) -> Iterator[Served]:
    served = Served(token)
    served.server.start()
    try:
        yield served
    finally:
        served.server.stop()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.mark.parametrize("path", ["/metrics", "/"])
def test_serves_the_exposition(served: Served, path: str) -> None:
    """In the text format, if nothing else is asked for."""
    status, headers, body = served.ask(path)

    assert 200 == status
    assert "text/plain; version=0.0.4; charset=utf-8" == headers["Content-Type"]
    assert str(len(body)) == headers["Content-Length"]
    assert b"\ncontainer_health 4.0\n" in body


def test_negotiates_format_and_encoding(served: Served) -> None:
    """OpenMetrics by Accept, gzip by Accept-Encoding; caches are told."""
    _, headers, body = served.ask(
        "/metrics", Accept="application/openmetrics-text; version=1.0.0", Accept_Encoding="gzip"
    )

    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "gzip" == headers["Content-Encoding"]
    assert "Accept, Accept-Encoding" == headers["Vary"]
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_serves_names_only(served: Served) -> None:
    """`name[]` picks samples, as prometheus-client's own server does."""
    _, _, body = served.ask("/metrics?name[]=container_health&name[]=python_info")

    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    assert ["container_health", "python_info"] == [re.split("[{ ]", line)[0] for line in lines]


@pytest.mark.parametrize(("fields", "status"), [(1000, 200), (1001, 400)])
def test_a_query_has_a_thousand_fields_at_most(served: Served, fields: int, status: int) -> None:
    """More are refused in one line, and are no error of ours."""
    with capture_logs() as logs:
        got, _, body = served.ask(f"/metrics?{'&' * (fields - 1)}")

    assert status == got
    assert (b"400 Bad Request: a query may have 1000 fields\n" == body) == (status == 400)
    assert [] == [entry for entry in logs if entry["log_level"] != "debug"]


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=x",
        "application/openmetrics-text; version=2.0.0",
        "text/plain;version=1.x",
        "*/*;q=x",
        ",;=,",
        "\xff",
    ],
)
def test_an_odd_accept_gets_the_text_format(served: Served, accept: str) -> None:
    """A version that nobody writes is no reason to fail a scrape."""
    status, headers, _ = served.ask("/metrics", Accept=accept)

    assert 200 == status
    assert "text/plain; version=0.0.4; charset=utf-8" == headers["Content-Type"]


def test_ping(served: Served) -> None:
    """It says that something listens."""
    assert (200, b"pong") == served.ask("/ping")[::2]


@pytest.mark.parametrize(
    ("healthy", "ready", "statuses"),
    [(True, True, (200, 200)), (False, True, (503, 200)), (True, False, (200, 503))],
)
def test_says_how_it_is(served: Served, *, healthy: bool, ready: bool, statuses: tuple[int, int]) -> None:
    """As the site says."""
    served.healthy, served.ready = healthy, ready

    assert statuses == (served.ask("/-/healthy")[0], served.ask("/-/ready")[0])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_refuses_other_methods(served: Served, method: str) -> None:
    """With a body that says what would do."""
    status, headers, body = served.ask("/metrics", method)

    assert (405, "GET, HEAD") == (status, headers["Allow"])
    assert body.startswith(b"405 Method Not Allowed")


@pytest.mark.parametrize("path", ["/nope", "/metrics/", "//metrics", "/%6detrics", "/..", "/metrics%00"])
def test_refuses_other_paths(served: Served, path: str) -> None:
    """With a body that names the paths there are."""
    status, _, body = served.ask(path)

    assert 404 == status
    assert b"/metrics" in body


def test_an_error_of_our_own_is_a_500(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged with its traceback, says nothing to the client, and the next request is answered."""
    monkeypatch.setattr(Exposition, "render", lambda *_: 1 / 0)

    with capture_logs() as logs:
        status, _, body = served.ask("/metrics")

    assert 500 == status
    assert b"Zero" not in body
    assert ["http.failed"] == [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert 200 == served.ask("/ping")[0]


def test_logs_each_request(served: Served) -> None:
    """One line at debug with the client's address, as the proxy in front names it."""
    with capture_logs() as logs:
        served.ask("/nope?x=1", X_Real_Ip="192.0.2.1")

    (line,) = [entry for entry in logs if entry["event"] == "http.request"]
    assert ("debug", "192.0.2.1", "GET", "/nope", 404) == tuple(
        line[key] for key in ("log_level", "client", "method", "path", "status")
    )


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'anybody:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [("Bearer s3cret", 200), (basic("s3cret"), 200), (basic("secret"), 401), ("", 401)],
)
def test_a_token_guards_what_is_told_of_containers(tmp_path: Path, authorization: str, status: int) -> None:
    """The metrics and the page; a browser can show it as a password."""
    (tmp_path / "token").write_text("s3cret")
    with serving(BearerToken(str(tmp_path / "token"))) as served:
        statuses = [
            served.ask(path, Accept=HTML, Authorization=authorization)[0]
            for path in ("/metrics", "/", "/ping", "/-/healthy", "/nope")
        ]

    assert [status, status, 200, 200, 404] == statuses


def test_the_challenge_names_both_ways_in(tmp_path: Path) -> None:
    """Each in a header of its own, as Chromium looks no further than the first in one."""
    (tmp_path / "token").write_text("s3cret")
    with serving(BearerToken(str(tmp_path / "token"))) as served:
        _, headers, body = served.ask("/metrics")

    challenges = headers.get_all("WWW-Authenticate", [])
    assert ["Bearer", 'Basic realm="docker-prom-exporter", charset="UTF-8"'] == challenges
    assert b"401 Unauthorized: this needs the bearer token, or the token as password\n" == body


def test_without_a_page_the_root_is_the_exposition(served: Served) -> None:
    """For browsers, too."""
    site = Site(served.exposition, lambda: True, lambda: True)
    with listen("127.0.0.1", 0) as listener:
        server = BoundedServer(listener, App(site, "ConnectInfo"))
        server.start()
        served.listener = listener
        _, headers, _ = served.ask("/", Accept=HTML)
        server.stop()

    assert headers["Content-Type"].startswith("text/plain")


def test_no_scrape_sees_two_publications(served: Served) -> None:
    """However fast they are swapped: all that a scrape says comes from one."""
    generations = [
        Publication(
            [GaugeMetricFamily("families", "Of a generation.", n)],
            own=[GaugeMetricFamily("own", "Of a generation.", n)],
        )
        for n in range(10)
    ]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for generation in generations:
                served.exposition.publish(generation)

    served.exposition.publish(generations[0])
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        texts = [served.ask("/metrics")[2].decode() for _ in range(20)]
    finally:
        stop.set()
        swapping.join()

    assert all(1 == len(set(re.findall(r"^(?:families|own) (.*)$", text, re.MULTILINE))) for text in texts)
