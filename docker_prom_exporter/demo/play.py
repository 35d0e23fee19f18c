"""The script that `demo` plays on the simulated engine."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from docker_prom_exporter.demo.engine import SimulatedContainer

if TYPE_CHECKING:
    from collections.abc import Callable

WATCH: Final = {"docker-prometheus-exporter.metric.container_health.enabled": "true"}
PERIOD: Final = 120
"""Length of the play in seconds; it then begins again."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One container of the play as it begins, and its changes, each with a second of the play.

    A change to the state `""` removes the container; the next change of its state creates it again.
    """

    container: SimulatedContainer
    changes: tuple[tuple[int, dict[str, Any]], ...] = ()


def _part(
    name: str, *changes: tuple[int, dict[str, Any]], watched: bool = True, **first: Any
) -> _Part:
    project, _, service = name.partition("-")
    labels = {
        "com.docker.compose.project": project,
        "com.docker.compose.service": service.removesuffix("-1"),
    }
    container = SimulatedContainer(name, labels=labels | (WATCH if watched else {}), **first)
    return _Part(container, changes)


def _crash_loop(every: int) -> tuple[tuple[int, dict[str, Any]], ...]:
    crash = {"state": "restarting", "exit_code": 1}
    return tuple(
        (second + offset, change)
        for second in range(0, PERIOD, every)
        for offset, change in (
            (every // 2, crash),
            (every - 1, {"state": "running", "exit_code": 0}),
        )
    )


_PLAY: Final = (
    _part("shop-database-1", health="healthy"),
    _part(
        "shop-web-1",
        (12, {"health": "healthy"}),
        (45, {"health": "unhealthy", "failing_streak": 3}),
        (80, {"health": "healthy", "failing_streak": 0}),
        health="starting",
    ),
    _part("shop-worker-1"),
    _part("shop-migrate-1", (15, {"state": "exited", "exit_code": 0})),
    _part(
        "shop-payments-1",
        (60, {"state": "paused"}),
        (85, {"state": "running"}),
        health="healthy",
    ),
    _part(
        "shop-search-1",
        (70, {"state": "removing"}),
        (73, {"state": ""}),
        (90, {"state": "running", "health": "starting"}),
        (100, {"health": "healthy"}),
        health="healthy",
    ),
    _part("batch-import-1", (40, {"state": "exited", "exit_code": 1})),
    _part(
        "batch-report-1",
        (30, {"state": "exited", "exit_code": 137, "oom_killed": True}),
        (95, {"state": "running", "exit_code": 0, "oom_killed": False}),
    ),
    _part("batch-mailer-1", *_crash_loop(10)),
    _part("lab-model-1", (100, {"health": "healthy"}), health="starting"),
    _part("lab-draft-1", state="created"),
    _part("lab-ghost-1", state="dead"),
    _part("lab-scratch-1", watched=False),
)


class Play:
    """About a dozen containers that go through every state in two minutes, over and over.

    `seed` sets when each part begins: the same seed gives the same play. `clock` returns Unix seconds.
    """

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._began = clock()
        chance = random.Random(seed)  # noqa: S311  not a secret
        self._delays = [chance.randrange(0, 10) for _ in _PLAY]

    def containers(self) -> list[SimulatedContainer]:
        """Return the current containers."""
        elapsed = self._clock() - self._began
        scenes = (
            self._scene(part, elapsed - delay)
            for part, delay in zip(_PLAY, self._delays, strict=True)
        )
        return [container for container in scenes if container.state]

    def _scene(self, part: _Part, elapsed: float) -> SimulatedContainer:
        lap, second = divmod(max(elapsed, 0), PERIOD)
        lap_began = self._began + max(elapsed, 0) - second
        begun = part.container.state != "created"
        container = replace(
            part.container,
            created=self._began - 86400,
            started=(lap_began if part.changes else self._began - 3600) if begun else 0,
            finished=self._began if part.container.state == "dead" else 0,
            restarts=int(lap)
            * sum(change.get("state") == "restarting" for _, change in part.changes),
            generation=int(lap) * sum(change.get("state") == "" for _, change in part.changes),
        )
        for at, change in part.changes:
            if at <= second:
                container = _changed(container, change, lap_began + at)
        return container


def _changed(
    container: SimulatedContainer, change: dict[str, Any], at: float
) -> SimulatedContainer:
    """Apply a change, and update times and counts as an engine does."""
    after = replace(container, **change)
    if after.state == container.state:
        return after
    if after.state == "paused":
        return replace(after, paused=at)
    if container.state == "paused":
        return replace(after, unpaused=at)
    if after.state == "running":
        is_new = not container.state
        created, generation = (
            (at, container.generation + 1) if is_new else (after.created, after.generation)
        )
        restarts = container.restarts + (container.state == "restarting")
        return replace(
            after, started=at, created=created, generation=generation, restarts=restarts
        )
    return replace(after, finished=at)
