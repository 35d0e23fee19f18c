"""The growth of the exporter's CPU time and memory with the number of containers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median

from bench.crowd import crowd
from bench.measuring import Row, cost, resident
from docker_prom_exporter import logs
from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from support.simulated import poller_for

_TOLERANCE = 1.25
"""The factor by which growth may exceed linear growth, for the noise of other processes."""


def rows(*, sizes: Sequence[int], rounds: int) -> Iterator[Row]:
    """Measure an exporter at each size, each in a separate process."""
    grown = [_measure(size, rounds) for size in sizes]
    times = sizes[-1] / sizes[0]
    for name in grown[0]:
        values = [each[name] for each in grown]
        ratio = values[-1] / values[0]
        yield Row(
            f"{name} at {', '.join(map(str, sizes))} containers",
            " → ".join(f"{value:.3g}" for value in values),
            ratio=f"{ratio:.2g}",
            goal=f"≤ {times:g}, linear",
            met=ratio <= times * _TOLERANCE,
        )


def _measure(size: int, rounds: int) -> dict[str, float]:
    with crowd(size, changes=1) as engine:
        command = [sys.executable, "-m", "bench.growth", engine, str(rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _main(url: str, rounds: str) -> None:
    logs.configure("warning", "logfmt")
    poller = poller_for(url, docker_timeout=60, poll_interval=60)
    exposition, metrics = Exposition(), SnapshotMetrics()
    scrape = partial(exposition.render, gzipped=True)

    def publish() -> None:
        exposition.publish(metrics.families_of(poller.snapshot))

    scrape()
    measured = {
        "first poll, all inspected: CPU ms": cost(poller.poll),
        "first encoding: CPU ms": cost(publish),
    }
    measured["memory after that: MiB"] = resident(os.getpid())
    later = [(cost(poller.poll), cost(publish), cost(scrape)) for _ in range(int(rounds))]
    names = ("poll, one changed", "encoding, one changed", "scrape")
    measured |= {
        f"{name}: CPU ms": median(costs)
        for name, costs in zip(names, zip(*later, strict=True), strict=True)
    }
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    _main(*sys.argv[1:])
