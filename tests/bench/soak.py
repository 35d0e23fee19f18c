"""A soak test: in `tests/`, run `python -m bench.soak [--minutes 60]`.

Containers are created and removed on a real Docker that is killed and started again once a
minute. The exporter polls twice a second and is scraped ten times a second. After each minute
the test prints the exporter's memory, threads and descriptors. It exits with 1 if these have
grown, or if a scrape failed.
"""

import argparse
import sys
import time
from contextlib import closing

from docker import APIClient

from bench.measuring import say
from docker_prom_exporter.demo import WATCH
from support.exporters import Client, exporter
from support.footprint import footprint
from support.real import DOCKER_26, Engine
from support.watching import Watch, polls, watching

MAX_GROWTH = {"MB": 8, "threads": 4, "descriptors": 6}
"""The allowed growth from the first to the last minute; threads and descriptors vary with
inspects.
"""


def main() -> int:
    """Run the soak test; return 0 if nothing grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=int, default=2, help="duration, at least 2 (default: %(default)s)"
    )
    minutes = max(parser.parse_args().minutes, 2)
    engine = Engine(DOCKER_26)
    engine.start()
    try:
        with (
            exporter(f"--docker-host={engine.url}") as process,
            watching(Client(process)) as watch,
        ):
            taken = [_minute(engine, watch, process._daemon.pid) for _ in range(minutes)]
            done = polls(watch.scrape())
    finally:
        engine.stop()
    grown = {name: taken[-1][name] - taken[0][name] for name in MAX_GROWTH}
    say(f"{done:.0f} polls, {watch.scrapes} scrapes; grown by {grown}")
    return int(any(grown[name] > most for name, most in MAX_GROWTH.items()))


def _minute(engine: Engine, watch: Watch, pid: int) -> dict[str, int]:
    """Create and remove containers, restart the engine, and return the exporter's footprint."""
    ends = time.monotonic() + 55
    cycles = 0
    while time.monotonic() < ends:
        _churn(engine)
        cycles += 1
    watch.shows(docker_up=1)
    engine.kill()
    watch.shows(docker_up=0)
    engine.start()
    watch.recovers(docker_up=1)
    taken = footprint(pid)
    say(f"{cycles * 10} containers created and removed, one restart: {taken}")
    return taken


def _churn(engine: Engine) -> None:
    containers = engine.crowd(running=3, created=7, labels=WATCH)
    with closing(APIClient(base_url=engine.url, version="1.41")) as api:
        for container in containers:
            api.remove_container(container, force=True)


if __name__ == "__main__":
    sys.exit(main())
