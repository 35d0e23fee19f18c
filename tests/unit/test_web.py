"""The routes of the web server: answers, status codes and access."""

import gzip
import re
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
from support.snapshots import BROWSER, PAGE


class Served:
    """A running web server, its exposition and a client for it."""

    def __init__(self, token: BearerToken | None = None) -> None:
        self.exposition = Exposition()
        self.exposition.publish(
            Publication([GaugeMetricFamily("container_health", "Health.", 4)])
        )
        self.healthy = self.ready = True
        self.listener = listen("127.0.0.1", 0)
        site = Site(self.exposition, lambda: self.healthy, lambda: self.ready, PAGE)
        self.server = BoundedServer(self.listener, App(site, "XRealIp", token))

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, Message, bytes]:
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
    """The exposition is served in the text format by default."""
    status, headers, body = served.ask(path)

    assert 200 == status
    assert "text/plain; version=0.0.4; charset=utf-8" == headers["Content-Type"]
    assert str(len(body)) == headers["Content-Length"]
    assert b"\ncontainer_health 4.0\n" in body


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_a_browser_gets_the_page(served: Served, path: str, content_type: str) -> None:
    """At `/` browsers get the page, gzipped, but not at `/metrics`; `Vary` has `Accept` for caches."""
    _, headers, _ = served.ask(path, Accept=BROWSER, Accept_Encoding="gzip, br")

    assert content_type == headers["Content-Type"]
    assert "gzip" == headers["Content-Encoding"]
    assert "Accept" in headers["Vary"].split(", ")


def test_security_headers(served: Served) -> None:
    """The page may use only its own style, by its hash, and data URLs for the icon."""
    _, headers, _ = served.ask("/", Accept=BROWSER)

    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]{44}'; img-src data:; "
        r"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        headers["Content-Security-Policy"],
    )
    assert "nosniff" == headers["X-Content-Type-Options"]
    assert "DENY" == headers["X-Frame-Options"]
    assert "no-referrer" == headers["Referrer-Policy"]
    assert "no-store" == headers["Cache-Control"]


def test_negotiates_format_and_encoding(served: Served) -> None:
    """`Accept` selects OpenMetrics and `Accept-Encoding` gzip; `Vary` has both for caches."""
    _, headers, body = served.ask(
        "/metrics",
        Accept="application/openmetrics-text; version=1.0.0",
        Accept_Encoding="gzip",
    )

    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "gzip" == headers["Content-Encoding"]
    assert "Accept, Accept-Encoding" == headers["Vary"]
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_names(served: Served) -> None:
    """`name[]` selects samples, as in prometheus-client's own server."""
    _, _, body = served.ask("/metrics?name[]=container_health&name[]=python_info")

    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    assert ["container_health", "python_info"] == [re.split("[{ ]", line)[0] for line in lines]


@pytest.mark.parametrize(("fields", "status"), [(1000, 200), (1001, 400)])
def test_a_query_has_a_thousand_fields_at_most(
    served: Served, fields: int, status: int
) -> None:
    """A query with more than 1000 fields is a 400 with one line, and no line is logged above level debug."""
    with capture_logs() as logs:
        got, _, body = served.ask(f"/metrics?{'&' * (fields - 1)}")

    assert status == got
    assert (b"400 Bad Request: a query may have 1000 fields\n" == body) == (status == 400)
    assert [] == [entry for entry in logs if entry["log_level"] != "debug"]


def test_ping(served: Served) -> None:
    """`/ping` answers `pong`."""
    assert (200, b"pong") == served.ask("/ping")[::2]


@pytest.mark.parametrize(
    ("healthy", "ready", "statuses"),
    [(True, True, (200, 200)), (False, True, (503, 200)), (True, False, (200, 503))],
)
def test_health_and_readiness(
    served: Served, *, healthy: bool, ready: bool, statuses: tuple[int, int]
) -> None:
    """`/-/healthy` and `/-/ready` answer 200 or 503, as the site reports."""
    served.healthy, served.ready = healthy, ready

    assert statuses == (served.ask("/-/healthy")[0], served.ask("/-/ready")[0])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_other_methods(served: Served, method: str) -> None:
    """Other methods are a 405 that names the allowed ones."""
    status, headers, body = served.ask("/metrics", method)

    assert (405, "GET, HEAD") == (status, headers["Allow"])
    assert body.startswith(b"405 Method Not Allowed")


@pytest.mark.parametrize(
    "path", ["/nope", "/metrics/", "//metrics", "/%6detrics", "/..", "/metrics%00"]
)
def test_other_paths(served: Served, path: str) -> None:
    """Other paths are a 404 that names the existing ones."""
    status, _, body = served.ask(path)

    assert 404 == status
    assert b"/metrics" in body


def test_an_internal_error_is_a_500(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An internal error is logged and is a 500 without details; the next request is answered."""
    monkeypatch.setattr(Exposition, "render", lambda *_: 1 / 0)

    with capture_logs() as logs:
        status, _, body = served.ask("/metrics")

    assert 500 == status
    assert b"Zero" not in body
    assert ["http.failed"] == [
        entry["event"] for entry in logs if entry["log_level"] == "error"
    ]
    assert 200 == served.ask("/ping")[0]


def test_logs_each_request(served: Served) -> None:
    """Each request is logged at level debug, with the client's address from the proxy's header."""
    with capture_logs() as logs:
        served.ask("/nope?x=1", X_Real_Ip="192.0.2.1")

    (line,) = [entry for entry in logs if entry["event"] == "http.request"]
    assert ("debug", "192.0.2.1", "GET", "/nope", 404) == tuple(
        line[key] for key in ("log_level", "client", "method", "path", "status")
    )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "token").write_text("s3cret")
    with serving(BearerToken(str(tmp_path / "token"))) as served:
        yield served


@pytest.mark.parametrize(
    ("authorization", "status"), [("Bearer s3cret", 200), ("Bearer secret", 401)]
)
def test_a_token_protects_metrics_and_page(
    guarded: Served, authorization: str, status: int
) -> None:
    """The token is required for the metrics and the page, and for nothing else."""
    statuses = [
        guarded.ask(path, Accept=BROWSER, Authorization=authorization)[0]
        for path in ("/metrics", "/", "/ping", "/-/healthy", "/nope")
    ]

    assert [status, status, 200, 200, 404] == statuses


def test_the_challenges(guarded: Served) -> None:
    """A 401 has a header for each scheme, because Chromium reads only the first challenge of a header."""
    _, headers, body = guarded.ask("/metrics")
    challenges = headers.get_all("WWW-Authenticate", [])
    assert ["Bearer", 'Basic realm="docker-prom-exporter", charset="UTF-8"'] == challenges
    assert b"401 Unauthorized: this needs the bearer token, or the token as password\n" == body


def test_without_a_page_the_root_is_the_exposition(served: Served) -> None:
    """Without a status page, `/` is the exposition for browsers too."""
    site = Site(served.exposition, lambda: True, lambda: True)
    with listen("127.0.0.1", 0) as listener:
        server = BoundedServer(listener, App(site, "ConnectInfo"))
        server.start()
        served.listener = listener
        _, headers, _ = served.ask("/", Accept=BROWSER)
        server.stop()

    assert headers["Content-Type"].startswith("text/plain")
