"""What a scrape costs and how long it takes, beside prometheus-client's own server and renderer."""

import gzip
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from statistics import median
from urllib.parse import urlsplit

from prometheus_client import start_http_server
from prometheus_client.exposition import generate_latest

from bench.crowd import crowd
from bench.measuring import Row, at_most, cost, medians, p99
from docker_prom_exporter import logs
from docker_prom_exporter.containers import Container
from docker_prom_exporter.metrics import Exposition
from support.builders import container, details, snapshot
from support.exporters import exporter
from support.simulated import poller_for
from support.waiting import wait_for

_ZIPPED = {"Accept-Encoding": "gzip"}


def rows(*, size: int, rounds: int, scrapes: int) -> Iterator[Row]:
    """Measure scrapes of so many containers."""
    yield from _unchanged(size, rounds, scrapes)
    yield _one_change(size, rounds)
    yield _during_a_poll(size, rounds, scrapes)


def _unchanged(size: int, rounds: int, scrapes: int) -> Iterator[Row]:
    idle = ("--poll-interval=3600", "--docker-timeout=30")
    with (
        crowd(size) as engine,
        exporter(f"--docker-host={engine}", *idle) as ours,
        _reference(engine) as theirs,
    ):
        await_containers(ours.url)
        measured = medians(
            rounds,
            {
                "ours": lambda: cost(partial(scrape, ours.url), ours._daemon.pid, times=20),
                "theirs": lambda: cost(partial(scrape, theirs[0]), theirs[1]),
                "our bytes": lambda: len(scrape(ours.url)),
                "their bytes": lambda: len(scrape(theirs[0])),
            },
        )
        loaded = [_load(ours.url, scrapes, clients=2) for _ in range(rounds)]
    what = f"scrape of {size}, nothing changed"
    yield at_most(
        1 / 50, f"{what}: CPU, beside prometheus-client", measured["ours"], measured["theirs"], unit="ms"
    )
    ours_in_kb, theirs_in_kb = (f"{measured[name] / 1000:.4g} kB" for name in ("our bytes", "their bytes"))
    yield Row(f"{what}: gzipped", ours_in_kb, theirs_in_kb)
    yield at_most(
        10,
        f"{what}: p99 under two clients, beside the median",
        _typical(p99, loaded),
        _typical(median, loaded),
        unit="ms",
    )


def _crowd(size: int) -> tuple[Container, ...]:
    return tuple(
        container(
            f"web-{number}",
            image=f"web:1.{number}",
            health_status="healthy",
            created=1.7e9 + number,
            details=details(started=1.7e9 + number + 0.25, finished=1.7e9 + number - 0.5),
        )
        for number in range(size)
    )


def _one_change(size: int, rounds: int) -> Row:
    """Compare rendering and zipping what changed with rendering all, which is not even zipped."""
    containers = _crowd(size)
    verdicts = cycle(("unhealthy", "healthy"))
    shown = [snapshot(*containers)]
    exposition = Exposition(lambda: shown[0], lambda: shown[0].ended)
    exposition.render("", "gzip")

    def change() -> None:
        shown[0] = snapshot(containers[0]._replace(health_status=next(verdicts)), *containers[1:])
        exposition.render("", "gzip")

    measured = medians(
        rounds,
        {
            "ours": partial(cost, change),
            "theirs": partial(cost, lambda: generate_latest(exposition.registry(shown[0]))),
        },
    )
    what = f"one of {size} changes: CPU until rendered and zipped, beside rendering all"
    return at_most(1 / 5, what, measured["ours"], measured["theirs"], unit="ms")


def _during_a_poll(size: int, rounds: int, scrapes: int) -> Row:
    """Scrape an exporter that always has a poll under way, and one that never has, in turns."""
    patient = "--docker-timeout=30"
    with (
        crowd(size) as quick,
        crowd(size, seconds=1) as slow,
        exporter(f"--docker-host={quick}", patient, "--poll-interval=3600") as idle,
        exporter(f"--docker-host={slow}", patient) as busy,
    ):
        for each in (idle, busy):
            await_containers(each.url)
        loads = [_load_in_turns((idle.url, busy.url), scrapes) for _ in range(rounds)]
    of_idle, of_busy = zip(*loads, strict=True)
    what = f"scrape of {size} while a poll is under way: p99, beside an idle exporter's"
    return at_most(3, what, _typical(p99, of_busy), _typical(p99, of_idle), unit="ms")


def scrape(url: str) -> bytes:
    """Return the zipped exposition; each time over a new connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("GET", "/metrics", headers=_ZIPPED)
        return connection.getresponse().read()
    finally:
        connection.close()


def await_containers(url: str) -> None:
    """Wait until there is something to scrape."""
    wait_for(lambda: b"container_health{" in gzip.decompress(scrape(url)), what="containers", seconds=120)


@contextmanager
def _reference(engine: str) -> Iterator[tuple[str, int]]:
    """Yield url and pid of prometheus-client's own server, in a process of its own, on the same families."""
    with _child("serve", engine) as process:
        yield _line(process), process.pid


def _typical(figure: Callable[[list[float]], float], runs: Sequence[list[float]]) -> float:
    """Return the median of what a figure is in each run."""
    return median(figure(run) for run in runs)


def _load(url: str, scrapes: int, *, clients: int) -> list[float]:
    """Return the milliseconds each scrape took, of that many clients that scrape without a pause."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_child("ask", str(scrapes), url)) for _ in range(clients)]
        return [took for process in processes for took in json.loads(_line(process))[0]]


def _load_in_turns(urls: Sequence[str], scrapes: int) -> list[list[float]]:
    """Return the milliseconds each scrape took, for each address; one client asks them in turns."""
    with _child("ask", str(scrapes), *urls) as process:
        answer: list[list[float]] = json.loads(_line(process))
        return answer


@contextmanager
def _child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.scrapes", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    if process.stdout is None or not (line := process.stdout.readline()):
        raise RuntimeError("a process of the benchmark ended early")
    return line.strip()


def _serve(engine: str) -> None:
    """Serve what one poll finds as prometheus-client does by itself, until standard input ends."""
    logs.configure("warning", "logfmt")
    poller = poller_for(engine, docker_timeout=30)
    exposition = Exposition(poller.poll)
    server, _ = start_http_server(0, "127.0.0.1", exposition.registry(exposition.snapshot()))
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


def _ask(scrapes: str, *urls: str) -> None:
    """Scrape each address so many times, in turns, and tell the milliseconds each scrape took."""
    took: list[list[float]] = [[] for _ in urls]
    for _ in range(int(scrapes)):
        for url, milliseconds in zip(urls, took, strict=True):
            began = time.perf_counter()
            scrape(url)
            milliseconds.append(1e3 * (time.perf_counter() - began))
    sys.stdout.write(json.dumps(took) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(*sys.argv[2:])
    else:
        _ask(*sys.argv[2:])
