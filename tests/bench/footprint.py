"""The CPU time of `healthcheck`, and the exporter's memory after many polls, compared with docker-py's."""

import gzip
import statistics
import sys
import time
from collections.abc import Iterator

from bench.crowd import crowd
from bench.measuring import Row, at_most, child, compared, next_line, resident, run_cost
from bench.scrapes import scrape
from support.footprint import footprint
from support.ports import free_port
from support.waiting import wait_for

_LIST_ONCE = """
import sys, docker
docker.APIClient(base_url=sys.argv[1], version="auto").containers(all=True)
print(flush=True)
sys.stdin.read()
"""
_MAIN = "import sys; from docker_prom_exporter.cli import main; sys.exit(main())"
_HEALTHCHECK = (sys.executable, "-c", _MAIN, "healthcheck")


def rows(*, size: int, rounds: int, polls: int) -> Iterator[Row]:
    """Measure `healthcheck`, then the exporter's memory over many polls with replaced containers."""
    yield _healthcheck(rounds)
    yield from _memory(size, polls)


def _healthcheck(rounds: int) -> Row:
    return compared(
        5,
        "CPU of `healthcheck`, compared with `python -c pass`",
        lambda: run_cost(*_HEALTHCHECK, f"--listen-port={free_port()}"),
        lambda: run_cost(sys.executable, "-c", "pass"),
        rounds=rounds,
    )


def _options(engine: str, port: int) -> tuple[str, ...]:
    return (f"--docker-host={engine}", f"--listen-port={port}", "--log-level=error")


def _memory(size: int, polls: int) -> Iterator[Row]:
    with crowd(size) as quiet, child("-c", _LIST_ONCE, quiet) as docker_py:
        next_line(docker_py)
        reference = resident(docker_py.pid)
    url = f"http://127.0.0.1:{(port := free_port())}"
    with (
        crowd(size, changes=1, churn=1) as engine,
        child("-m", "bench.continuous", *_options(engine, port)) as exporter,
    ):
        early, files = _after(polls // 10, url, exporter.pid)
        late, files_late = _after(polls, url, exporter.pid)
    what = f"memory at {size} with details, after {polls} polls with churn"
    yield at_most(
        1.4, f"{what}, compared with docker-py after one list", late, reference, unit="MiB"
    )
    growth = late - early
    yield Row(
        f"the same: growth over the last {polls - polls // 10} polls",
        f"{growth:.2f} MiB",
        goal="< 1 MiB",
        met=growth < 1,
    )
    yield Row(
        "the same: open file descriptors",
        str(files_late),
        str(files),
        goal="constant",
        met=files == files_late,
    )


def _after(polls: int, url: str, pid: int) -> tuple[float, int]:
    """Return the median memory and the most frequent number of descriptors after this number of polls."""
    wait_for(lambda: _polls(url) >= polls, what=f"{polls} polls", seconds=3600, every=0.1)
    moments = []
    for _ in range(9):
        moments.append((resident(pid), footprint(pid)["descriptors"]))
        time.sleep(0.1)
    held, files = zip(*moments, strict=True)
    return statistics.median(held), statistics.mode(files)


def _polls(url: str) -> float:
    try:
        lines = gzip.decompress(scrape(url)).splitlines()
    except OSError:
        return 0
    return next(
        float(line.split()[1])
        for line in lines
        if line.startswith(b'docker_exporter_polls_total{result="success"}')
    )
