"""The command line of the benchmarks: it runs all parts or the named ones."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from bench import footprint, growth, polls, registries, scrapes
from bench.measuring import Row, say, table
from docker_prom_exporter import logs
from support.real import EngineUnavailableError

# Each part with its sizes, and with those of `--small`.
PARTS: dict[str, tuple[Callable[..., Iterator[Row]], dict[str, Any], dict[str, Any]]] = {
    "polls": (
        polls.rows,
        {"size": 200, "inspected": (10, 50, 200), "settle": True, "rounds": 9},
        {"size": 7, "inspected": (1, 2, 3), "settle": False, "rounds": 1},
    ),
    "scrapes": (
        scrapes.rows,
        {"size": 1000, "few": 200, "rounds": 9, "scrapes": 300},
        {"size": 3, "few": 2, "rounds": 1, "scrapes": 5},
    ),
    "footprint": (
        footprint.rows,
        {"size": 200, "rounds": 9, "polls": 10_000},
        {"size": 3, "rounds": 1, "polls": 20},
    ),
    "growth": (
        growth.rows,
        {"sizes": (100, 1000, 10_000), "rounds": 9},
        {"sizes": (1, 3), "rounds": 1},
    ),
    "registry": (
        registries.rows,
        {"repositories": 500, "tags": 20, "rounds": 9},
        {"repositories": 10, "tags": 20, "rounds": 1},
    ),
}


def main() -> int:
    """Print the table; return 1 if a goal was missed or a part could not run."""
    parser = argparse.ArgumentParser(prog="tests/bench/run")
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"one of {' '.join(PARTS)}; default: all"
    )
    parser.add_argument(
        "--small", action="store_true", help="test with few containers and rounds"
    )
    given = parser.parse_args()
    if unknown := {*given.parts} - {*PARTS}:
        parser.error(f"no such part: {' '.join(unknown)}")
    logs.configure("warning", "logfmt")
    with tempfile.TemporaryDirectory() as bytecode:
        _as_installed(bytecode)
        rows: list[Row] = []
        for name in given.parts or PARTS:
            rows += _measured(name, small=given.small)
    sys.stdout.write(table(rows) + "\n")
    return int(any(row.met is False for row in rows))


def _measured(name: str, *, small: bool) -> Iterator[Row]:
    """Yield a part's rows; if the part can't run, yield one row with the reason."""
    # Standard error is the log's.
    say(f"measuring {name}")
    part, full_size, small_size = PARTS[name]
    try:
        for row in part(**(small_size if small else full_size)):
            # The goals are for the full size.
            yield row._replace(goal="", met=None) if small else row
    except EngineUnavailableError as error:
        yield Row(f"{name}: could not run", str(error).splitlines()[0], met=False)


def _as_installed(bytecode: str) -> None:
    """Let started processes use compiled modules, as with an installed package."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = bytecode


if __name__ == "__main__":
    sys.exit(main())
