"""The CPU time and duration of scrapes, compared with prometheus-client's own server and encoder."""

import gzip
import http.client
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from statistics import median
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.exposition import generate_latest

from bench.crowd import crowd
from bench.measuring import Row, child, compared, cost, next_line, say
from docker_prom_exporter import logs
from docker_prom_exporter.containers import Container
from docker_prom_exporter.exposition import Exposition, Families
from docker_prom_exporter.metrics import SnapshotMetrics
from support.builders import container, details, snapshot
from support.exporters import exporter
from support.hostile import hostile_clients
from support.simulated import poller_for
from support.waiting import wait_for

_ZIPPED = {"Accept-Encoding": "gzip"}


def rows(*, size: int, few: int, rounds: int, scrapes: int) -> Iterator[Row]:
    """Measure scrapes of many containers, and of `few`, as many as a host usually has."""
    yield _unchanged(size, rounds)
    for changing in (size, few):
        yield _one_change(changing, rounds)
    yield _among_hostile_clients(few, scrapes)


def _unchanged(size: int, rounds: int) -> Row:
    idle = ("--poll-interval=3600", "--docker-timeout=30")
    with (
        crowd(size) as engine,
        exporter(f"--docker-host={engine}", *idle) as ours,
        child("-m", "bench.scrapes", engine) as reference,
    ):
        await_containers(ours.url)
        theirs = next_line(reference)
        return compared(
            1 / 50,
            f"scrape of {size}, nothing changed: CPU, compared with prometheus-client",
            lambda: cost(partial(scrape, ours.url), ours._daemon.pid, times=20),
            lambda: cost(partial(scrape, theirs), reference.pid),
            rounds=rounds,
        )


def _crowd(size: int) -> tuple[Container, ...]:
    return tuple(
        container(
            f"web-{number}",
            image=f"web:1.{number}",
            health_status="healthy",
            created_ns=(1_700_000_000 + number) * 10**9,
            details=details(started=1.7e9 + number + 0.25, finished=1.7e9 + number - 0.5),
        )
        for number in range(size)
    )


def _one_change(size: int, rounds: int) -> Row:
    """Compare encoding and gzipping one change with prometheus-client encoding everything, without gzip."""
    containers = _crowd(size)
    verdicts = cycle(("unhealthy", "healthy"))
    exposition, metrics = Exposition(clock=lambda: 101.0), SnapshotMetrics()
    exposition.publish(metrics.families_of(snapshot(*containers)))
    exposition.render(gzipped=True)

    def change() -> None:
        changed = containers[0]._replace(health_status=next(verdicts))
        exposition.publish(metrics.families_of(snapshot(changed, *containers[1:])))
        exposition.render(gzipped=True)

    def all_by_prometheus_client() -> None:
        publication = SnapshotMetrics().families_of(snapshot(*containers))
        generate_latest(Families([*publication.families, *publication.own]))

    return compared(
        1 / 3,
        f"one of {size} changes: CPU until encoded and gzipped, compared with encoding all",
        partial(cost, change),
        partial(cost, all_by_prometheus_client),
        rounds=rounds,
    )


def _among_hostile_clients(size: int, scrapes: int) -> Row:
    """Scrape while eight hostile clients try to block the exporter."""
    with crowd(size) as engine, exporter(f"--docker-host={engine}") as ours:
        await_containers(ours.url)
        with hostile_clients(ours.url):
            took = sorted(_seconds(partial(scrape, ours.url)) for _ in range(scrapes))
    return Row(
        f"scrape of {size} among eight hostile clients: the slowest of {scrapes}",
        f"{took[-1]:.2g} s",
        f"{median(took):.2g} s, the median",
        goal="≤ 1 s",
        met=took[-1] <= 1,
    )


def _seconds(question: partial[bytes]) -> float:
    began = time.monotonic()
    question()
    return time.monotonic() - began


def scrape(url: str) -> bytes:
    """Return the gzipped exposition, received over a new connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        return _get(connection)
    finally:
        connection.close()


def _get(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/metrics", headers=_ZIPPED)
    return connection.getresponse().read()


def await_containers(url: str) -> None:
    """Wait until a scrape has containers."""
    wait_for(
        lambda: b"container_health{" in gzip.decompress(scrape(url)),
        what="containers",
        seconds=120,
    )


def _serve(engine: str) -> None:
    """Serve the result of one poll with prometheus-client's own server, until standard input ends."""
    logs.configure("warning", "logfmt")
    publication = SnapshotMetrics().families_of(poller_for(engine, docker_timeout=30).poll())
    registry = CollectorRegistry()
    registry.register(Families([*publication.families, *publication.own]))
    for collector in (PlatformCollector(registry=None), ProcessCollector(registry=None)):
        registry.register(collector)
    server, _ = start_http_server(0, "127.0.0.1", registry)
    say(f"http://127.0.0.1:{server.server_port}")
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
