"""A random test: in `tests/`, run `python -m bench.bursts [--minutes 60] [--seed 1]`.

Containers are created, started, paused, unpaused, broken, mended, renamed, killed and removed at random on a
real Docker, in list mode and in inspect mode. After each burst every series of every container is compared
with `docker inspect`. It ends with 1, and says what differs and which seed it was, if one is wrong.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from docker_prom_exporter import logs
from docker_prom_exporter.demo import WATCH
from support.expositions import Scrape, scraper
from support.oracle import LISTED_LATE, Samples, samples
from support.processes import CommandError
from support.real import DOCKER_20, DOCKER_28, DOCKER_28_CONTAINERD, HEALTHY, Engine

MOST = 12
"""Containers at a time."""

_UNWATCHED = dict.fromkeys(WATCH, "false")
_POLICIES = ("no", "always", "unless-stopped", "on-failure")
_PROBE = f"--health-cmd=test -f {HEALTHY}"
_HEALTHCHECKS = (
    (),
    (_PROBE, "--health-interval=5s", "--health-retries=1"),
    (_PROBE, "--health-interval=1s", "--health-timeout=5s"),
    (_PROBE, "--health-interval=1s", "--health-start-period=1h"),
)
_SCRIPTS = (f"touch {HEALTHY}; sleep 86400", "sleep 86400", "sleep 2; exit 3")
_LIMITS = ("--memory=64m", "--cpus=0.5", "--cpu-quota=20000", "--pids-limit=64")


class Bursts:
    """Random actions on an engine, and the comparison of what the exporter serves afterwards."""

    def __init__(self, engine: Engine, seed: int, *, late: tuple[str, ...] = ()) -> None:
        """Start with no container; `late` are the metrics whose values may be older."""
        self.compared = 0
        self._engine = engine
        self._random = random.Random(seed)
        self._late = late
        self._made = 0
        self._scrape = scraper(engine.url)
        self._actions: dict[str, tuple[Callable[[str], object], ...]] = {
            "created": (self._do("start"), self._remove, self._rename),
            "running": (
                self._do("pause"),
                self._do("pause"),
                self._do("kill"),
                self._do("restart", "--time=0"),
                self._exec("rm", "-f", HEALTHY),
                self._exec("touch", HEALTHY),
                self._rename,
                self._remove,
            ),
            "paused": (self._do("unpause"), self._do("unpause"), self._rename, self._remove),
            "exited": (self._do("start"), self._do("start"), self._rename, self._remove),
            "restarting": (self._do("kill"), self._remove),
        }

    def burst(self, actions: int = 6) -> None:
        """Do some actions; those that another one has made impossible do nothing."""
        for _ in range(actions):
            containers = self._inspect()
            few = len(containers) < MOST
            if not containers or (few and self._random.random() < 0.4):
                self._create()
                continue
            chosen = self._random.choice([*containers.values()])
            possible = self._actions.get(chosen["State"]["Status"], (self._remove,))
            with suppress(CommandError):
                self._random.choice(possible)(chosen["Id"])

    def compare(self, *, seconds: float = 60) -> list[str]:
        """Return how the samples of the containers differ from what `docker inspect` demands.

        A container that changes while the exporter polls is compared after another poll.
        """
        waiting = {*self._inspect()}
        ends = time.monotonic() + seconds
        while waiting:
            before = self._demanded()
            scrape = self._scrape()
            after = self._demanded()
            served = self._served(scrape)
            steady = {each for each in after if after[each] == before.get(each)}
            if unknown := served.keys() - before.keys() - after.keys():
                return [f"served, but not there: {unknown}"]
            for each in steady:
                if differing := _differences(served.get(each, {}), after[each]):
                    return differing
            self.compared += sum(len(after[each]) for each in steady & waiting)
            waiting = (waiting & after.keys()) - steady
            if waiting and time.monotonic() > ends:
                return [f"these have changed in each poll: {waiting}"]
        return []

    def _demanded(self) -> dict[str, Samples]:
        """Return the samples that each container must have, by its id."""
        now = time.time()
        demanded = {}
        for container, inspected in self._inspect().items():
            watched = inspected["Config"]["Labels"].items() >= WATCH.items()
            demanded[container] = self._known(samples(inspected, now)) if watched else {}
        return demanded

    def _served(self, scrape: Scrape) -> dict[str, Samples]:
        """Return the samples that each container has, by its id."""
        served: dict[str, Samples] = {}
        for (name, labels), value in scrape.samples.items():
            if container := dict(labels).get("id"):
                sample = f"{name}{sorted(labels)}"
                served.setdefault(container, {})[sample] = round(value, 3)
        return {container: self._known(values) for container, values in served.items()}

    def _known(self, values: Samples) -> Samples:
        """Return the samples but for those that may be older, or still absent."""
        return {
            sample: value
            for sample, value in values.items()
            if not sample.startswith(self._late)
        }

    def _inspect(self) -> dict[str, Any]:
        """Return the answers of `docker inspect` by id; one that is gone is left out."""
        ids = self._engine.cli("ps", "--all", "--quiet", "--no-trunc").split()
        while ids:
            try:
                answers = json.loads(self._engine.cli("inspect", *ids))
            except CommandError:
                ids = self._engine.cli("ps", "--all", "--quiet", "--no-trunc").split()
            else:
                return {answer["Id"]: answer for answer in answers}
        return {}

    def _create(self) -> None:
        choose = self._random.choice
        self._made += 1
        options = [f"--restart={choose(_POLICIES)}", *choose(_HEALTHCHECKS)]
        if self._random.random() < 0.3:
            options.append(choose(_LIMITS))
        script = choose(_SCRIPTS)
        self._engine.run(
            f"c{self._made}",
            labels=choose([WATCH, WATCH, WATCH, _UNWATCHED, {}]),
            command=("sh", "-c", script),
            options=options,
        )

    def _do(self, *command: str) -> Callable[[str], object]:
        return lambda container: self._engine.cli(*command, container)

    def _exec(self, *command: str) -> Callable[[str], object]:
        return lambda container: self._engine.exec(container, *command)

    def _rename(self, container: str) -> None:
        self._made += 1
        self._engine.cli("rename", container, f"r{self._made}")

    def _remove(self, container: str) -> None:
        self._engine.cli("rm", "--force", container)


def _differences(served: Samples, demanded: Samples) -> list[str]:
    names = sorted(served.keys() | demanded.keys())
    return [
        f"{name}: {served.get(name)} instead of {demanded.get(name)}"
        for name in names
        if served.get(name) != demanded.get(name)
    ]


def main() -> int:
    """Run the bursts on each engine in turn; return 1 at the first difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    given = parser.parse_args()
    logs.configure("warning", "logfmt")
    kinds = {DOCKER_20: LISTED_LATE, DOCKER_28: LISTED_LATE, DOCKER_28_CONTAINERD: ()}
    for kind, late in kinds.items():
        engine = Engine(kind)
        engine.start()
        try:
            differing = _run(
                Bursts(engine, given.seed, late=late), 60 * given.minutes / len(kinds)
            )
        finally:
            engine.stop()
        for line in differing:
            sys.stdout.write(f"{engine.name}, seed {given.seed}: {line}\n")
        if differing:
            return 1
    return 0


def _run(bursts: Bursts, seconds: float) -> list[str]:
    ends, number = time.monotonic() + seconds, 0
    differing: list[str] = []
    while time.monotonic() < ends and not differing:
        bursts.burst()
        differing = bursts.compare()
        number += 1
    sys.stdout.write(f"{number} bursts, {bursts.compared} samples compared\n")
    return differing


if __name__ == "__main__":
    sys.exit(main())
