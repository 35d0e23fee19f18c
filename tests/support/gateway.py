"""A fake Pushgateway whose answers a test chooses, and settings and expositions for pushes to it.

It also takes the messages of an Alertmanager.
"""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from docker_prom_exporter.exposition import Exposition, Publication
from docker_prom_exporter.settings import Settings, read_settings
from support.expositions import Scrape, parse
from support.simulated import Fault, answers

TAKEN = answers("200 OK", "")
UNAVAILABLE = answers("503 Service Unavailable", "come again")
GROUP = "/metrics/job/docker_prom_exporter/instance/host1"


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the gateway received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def scrape(self) -> Scrape:
        """The pushed exposition."""
        zipped = self.headers.get("Content-Encoding") == "gzip"
        return parse((gzip.decompress(self.body) if zipped else self.body).decode())


class FakeGateway(http.server.ThreadingHTTPServer):
    """Answers GET with `status`, other requests with the next of `answers` and the last one repeatedly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[ReceivedRequest] = []
        self.answers: list[Fault] = [TAKEN]
        self.status = status_of({})

    @property
    def pushed(self) -> list[ReceivedRequest]:
        """The received pushes."""
        return [asked for asked in self.asked if asked.method == "PUT"]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeGateway

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(
            ReceivedRequest(self.command, self.path, dict(self.headers), body)
        )
        if self.command == "GET":
            self.server.status(self.connection)
        elif len(self.server.answers) > 1:
            self.server.answers.pop(0)(self.connection)
        else:
            self.server.answers[0](self.connection)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815  the names that http.server calls

    def log_message(self, *_: Any) -> None:
        pass


def status_of(flags: dict[str, str]) -> Fault:
    """Return an answer to `/api/v1/status` with these command-line flags."""
    return answers("200 OK", json.dumps({"status": "success", "data": {"flags": flags}}))


def push_settings(url: str, interval: float = 10, **options: Any) -> Settings:
    """Return settings for pushes to this gateway; `options` override them."""
    given = {"push_url": url, "push_instance": "host1", **options}
    settings = read_settings({name: str(value) for name, value in given.items()}, {})
    return settings._replace(push_interval=interval)


@contextmanager
def fake_gateway() -> Iterator[FakeGateway]:
    """Yield a fake gateway that listens."""
    with FakeGateway() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def exposition(*, up: bool = True, **health: float) -> Exposition:
    """Return an exposition of `docker_up` and of each container's `container_health`."""
    held = Exposition()
    publish(held, up=up, **health)
    return held


def publish(held: Exposition, *, up: bool = True, **health: float) -> None:
    """Publish new values of `docker_up` and of each container's `container_health`."""
    verdicts = GaugeMetricFamily("container_health", "Health.", labels=["name"])
    for name, value in health.items():
        verdicts.add_metric([name], value)
    held.publish(
        Publication(families=[verdicts], own=[GaugeMetricFamily("docker_up", "Up.", value=up)])
    )
