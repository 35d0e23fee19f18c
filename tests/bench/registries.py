"""The CPU time of a registry scan compared with `du -s`, its memory, and the scrape of many tags."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client.exposition import generate_latest

from bench.measuring import Row, at_most, compared, cost, medians, resident, run_cost
from docker_prom_exporter import logs
from docker_prom_exporter.exposition import OPENMETRICS, TEXT, Exposition, Families
from docker_prom_exporter.registry import Scanner
from docker_prom_exporter.registry.storage import Storage
from support.storages import HandMade, crowd, crowd_of_indexes

_SECONDS_TO_SETTLE = 3


def rows(*, repositories: int, tags: int, rounds: int) -> Iterator[Row]:
    """Measure a storage of `repositories`, each with this number of `tags`."""
    with TemporaryDirectory() as folder:
        storage = crowd(Path(folder, "v2"), repositories=repositories, tags=tags)
        time.sleep(_SECONDS_TO_SETTLE)  # a scan reads recently changed files again
        yield from _scans(storage, repositories * tags, rounds)
        yield _serving(storage, repositories * tags, rounds)
        few = crowd_of_indexes(Path(folder, "few"), repositories=1, tags=tags)
        many = crowd_of_indexes(
            Path(folder, "many"), repositories=repositories // 2, tags=tags
        )
        yield _memory(few, many, (repositories // 2 - 1) * tags)


def _scans(storage: HandMade, size: int, rounds: int) -> Iterator[Row]:
    known = Storage(str(storage.path))
    known.scan()
    names = count()

    def push_and_scan() -> float:
        storage.push_image("team-0/app-0", b"new %d" % next(names), tag="new")
        return cost(known.scan)

    measured = medians(
        rounds,
        {
            "first": lambda: cost(Storage(str(storage.path)).scan),
            "later": push_and_scan,
            "du": partial(run_cost, "du", "-s", str(storage.path)),
        },
    )
    what = f"scan of {size} tags"
    yield at_most(
        2,
        f"{what}: CPU of the first, compared with `du -s`",
        measured["first"],
        measured["du"],
    )
    yield at_most(
        0.35,
        f"{what}: CPU of a later one, one tag changed, compared with the first",
        measured["later"],
        measured["first"],
    )


def _serving(storage: HandMade, size: int, rounds: int) -> Row:
    exposition, scan = _scanner(storage.path)
    scan()
    return compared(
        1 / 50,
        f"scrape of {size} tags, gzipped: CPU, compared with prometheus-client, which does not gzip",
        lambda: cost(partial(exposition.render, gzipped=True), times=20),
        lambda: cost(partial(generate_latest, Families(exposition.families()))),
        rounds=rounds,
    )


def _memory(few: HandMade, many: HandMade, more: int) -> Row:
    """Return the row of a tag's memory: the difference of two storages by `more` tags."""
    held = []
    for storage in (few, many):
        command = [sys.executable, "-m", "bench.registries", str(storage.path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        held.append(float(done.stdout))
    each = (held[1] - held[0]) * 1024 / more
    return Row(
        "memory of a tag, an index of two images and two attestations, in the third scan",
        f"{each:.3g} KiB",
        goal="≤ 7 KiB",
        met=each <= 7,
    )


def _scanner(path: Path) -> tuple[Exposition, Callable[[], object]]:
    """Return an exposition and the function that scans a storage and publishes to the exposition."""
    exposition = Exposition()
    return exposition, Scanner(str(path), 300, exposition.publish, threading.Event()).scan


def _print_memory(path: str) -> None:
    """Scan and render twice, scan again, and print the resident memory in MiB."""
    logs.configure("warning", "logfmt")
    exposition, scan = _scanner(Path(path))
    for form in (TEXT, OPENMETRICS):
        scan()
        exposition.render(form, gzipped=True)
    scan()
    sys.stdout.write(f"{resident(os.getpid())}\n")


if __name__ == "__main__":
    _print_memory(*sys.argv[1:])
