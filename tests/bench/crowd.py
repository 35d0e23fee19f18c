"""A simulated engine with any number of containers and a low cost of its own, in a separate process."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.measuring import child
from docker_prom_exporter.demo import SimulatedContainer, SimulatedEngine
from support.waiting import wait_for

_UP = 2 * 86400 + 3600

# Docker 26.1's row and inspect of a Compose 2.26 service with a port, a volume, a network and a healthcheck.
# The simulated engine's own answers have only the fields that the exporter uses. Real answers are longer.
_ANSWERS = json.loads(Path(__file__).with_name("compose_container.json").read_text("utf-8"))
_LABELS = _ANSWERS["row"]["Labels"]


class Crowd(SimulatedEngine):
    """A simulated engine that keeps its rows; all containers are up for two days, so that `Status` stays.

    At each list after the first, the health of `changes` containers changes, and `churn` containers are
    replaced by new ones. A list takes `seconds`.
    """

    def __init__(
        self, path: Path, size: int, *, changes: int = 0, churn: int = 0, seconds: float = 0
    ) -> None:
        super().__init__(path, list)
        self._now = time.time()
        began = self._now - _UP
        self._crowd = [
            SimulatedContainer(
                f"crowd-{n}", health="healthy", labels=_LABELS, created=began, started=began
            )
            for n in range(size)
        ]
        self._by_id = {each.id: each for each in self._crowd}
        self._rows = [self._row(each) for each in self._crowd]
        self._changes = changes
        self._churn = churn
        self._seconds = seconds
        self._next = 0
        self._listed = False
        self.requests = 0

    def answer(
        self, endpoint: str, container_id: str, query: Mapping[str, str]
    ) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        if endpoint == "inspect" and container_id in self._by_id:
            return 200, _ANSWERS["inspect"] | self._by_id[container_id].inspect()
        self.requests += 1
        return super().answer(endpoint, container_id, query)

    def listed(self, query: Mapping[str, str]) -> tuple[int, Any]:
        """Return all rows, or the first `limit` rows."""
        time.sleep(self._seconds)
        if self._listed:
            self._move_on()
        self._listed = True
        limit = int(query.get("limit", -1))
        return 200, self._rows[:limit] if limit > 0 else self._rows

    def _row(self, container: SimulatedContainer) -> dict[str, Any]:
        return {**_ANSWERS["row"], **container.row(self._now)}

    def _move_on(self) -> None:
        for _ in range(self._changes):
            if self._crowd[self._next].health == "unhealthy":
                self._change(health="healthy", failing_streak=0)
            else:
                self._change(health="unhealthy", failing_streak=3)
        for _ in range(self._churn):
            self._change(generation=self._crowd[self._next].generation + 1)

    def _change(self, **what: Any) -> None:
        """Change one container; containers take turns."""
        turn, self._next = self._next, (self._next + 1) % len(self._crowd)
        before = self._crowd[turn]
        after = self._crowd[turn] = replace(before, **what)
        del self._by_id[before.id]
        self._by_id[after.id] = after
        self._rows[turn] = self._row(after)


@contextmanager
def crowd(size: int, *, changes: int = 0, churn: int = 0, seconds: float = 0) -> Iterator[str]:
    """Start a crowd in a separate process and yield its address."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "docker.sock")
        arguments = (str(path), str(size), str(changes), str(churn), str(seconds))
        with child("-m", "bench.crowd", *arguments):
            wait_for(path.exists, what="the simulated engine to listen")
            yield f"unix://{path}"


def _main(path: str, size: str, changes: str, churn: str, seconds: str) -> None:
    """Serve until standard input ends, which also happens when the parent process ends."""
    with Crowd(
        Path(path), int(size), changes=int(changes), churn=int(churn), seconds=float(seconds)
    ):
        sys.stdin.read()


if __name__ == "__main__":
    _main(*sys.argv[1:])
