"""The script that `demo` plays on the simulated engine."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from docker_prom_exporter.demo.engine import SimulatedContainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Change = tuple[int, dict[str, Any]]

WATCH: Final = {"docker-prometheus-exporter.metric.container_health.enabled": "true"}
LIVELY: Final = 120
"""Length of the play of a lively container in seconds; it then begins again."""
SLOW: Final = 2700
"""The same of the other containers: each alert of the shipped rules has the time to fire."""

_MIB: Final = 2**20
_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class _Part:
    """One container of the play as it begins, and its changes, each with a second of the play.

    A change to the state `""` removes the container; the next change of its state creates
    it again. A part with changes begins with a new container, as after a deploy, unless
    it is `kept`.
    """

    container: SimulatedContainer
    changes: tuple[_Change, ...]
    period: int
    kept: bool


def _part(
    name: str,
    *changes: _Change,
    period: int = SLOW,
    kept: bool = False,
    watched: bool = True,
    **first: Any,
) -> _Part:
    project, _, service = name.partition("-")
    labels = {
        "com.docker.compose.project": project,
        "com.docker.compose.service": service.removesuffix("-1"),
    }
    container = SimulatedContainer(
        name,
        labels=labels | (WATCH if watched else {}),
        **{"image": f"{project}:1.4", "restart_policy": "unless-stopped"} | first,
    )
    return _Part(container, changes, period, kept)


def _unhealthy(exit_code: int = 1) -> dict[str, Any]:
    return {"health": "unhealthy", "failing_streak": 3, "probe_exit_code": exit_code}


_HEALTHY: Final = {"health": "healthy", "failing_streak": 0}


def _crashes(until: int, every: int) -> Iterator[_Change]:
    for second in range(0, until, every):
        yield second + every // 2, {"state": "restarting", "exit_code": 1}
        yield second + every - 1, {"state": "running", "exit_code": 0}


def _flaps(until: int, every: int) -> Iterator[_Change]:
    for second in range(every, until, 2 * every):
        yield second, _unhealthy()
        yield second + every, _HEALTHY


_PLAY: Final = (
    _part("shop-database-1", health="healthy", memory=2048 * _MIB, cpus=2, pids=500),
    _part(
        "shop-web-1",
        (12, _HEALTHY),
        (45, _unhealthy()),
        (80, _HEALTHY),
        period=LIVELY,
        health="starting",
        memory=512 * _MIB,
    ),
    _part(
        "shop-migrate-1",
        (15, {"state": "exited", "exit_code": 0}),
        period=LIVELY,
        restart_policy="no",
    ),
    _part(
        "shop-payments-1",
        (60, {"state": "paused"}),
        (85, {"state": "running"}),
        period=LIVELY,
        kept=True,
        health="healthy",
        memory=256 * _MIB,
    ),
    _part(
        "shop-search-1",
        (10, _HEALTHY),
        (70, {"state": "removing"}),
        (73, {"state": ""}),
        (90, {"state": "running", "health": "starting"}),
        (100, _HEALTHY),
        period=LIVELY,
        health="starting",
        memory=1024 * _MIB,
    ),
    # The rest is slow enough for alerts.
    _part("shop-api-1", (90, _unhealthy()), (600, _HEALTHY), health="healthy"),
    _part(
        "shop-cache-1",
        (60, _unhealthy(exit_code=127)),  # its image has no curl
        (1500, _HEALTHY),
        health="healthy",
        memory=128 * _MIB,
    ),
    _part(
        "shop-catalog-1",
        (60, {"probe_duration": 4.6}),
        (2400, {"probe_duration": 0.05}),
        health="healthy",
        memory=256 * _MIB,
    ),
    _part(
        "shop-worker-1",
        (20, {"state": "exited", "exit_code": 0}),
        (2600, {"state": "running"}),
    ),
    _part("batch-import-1", (40, {"state": "exited", "exit_code": 1}), restart_policy="no"),
    _part(
        "batch-report-1",
        (30, {"state": "exited", "exit_code": 137, "oom_killed": True}),
        restart_policy="no",
        memory=64 * _MIB,
    ),
    _part("batch-mailer-1", *_crashes(until=1200, every=20), restart_policy="always"),
    _part("lab-model-1", (1800, _HEALTHY), health="starting", interval=10, memory=4096 * _MIB),
    _part("lab-sensor-1", *_flaps(until=1200, every=60), health="healthy", pids=100),
    _part(
        "lab-camera-1",
        (60, {"probes_end": 0}),
        (2400, {"state": "exited", "exit_code": 0}),
        (2403, {"state": "running"}),
        health="healthy",
        cpus=0.5,
    ),
    _part("lab-draft-1", state="created", error="port is already allocated"),
    _part("lab-ghost-1", state="dead", restart_policy="no"),
    _part("lab-scratch-1", watched=False, restart_policy="no"),
)


class Play:
    """The containers of `demo`: five change all the time, the others raise the rules' alerts.

    They go through every state within the first two minutes. `seed` sets when each part
    begins: the same seed gives the same play. `clock` returns Unix seconds.
    """

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._began = clock()
        chance = random.Random(seed)  # noqa: S311  not a secret
        self._delays = [chance.randrange(0, 10) for _ in _PLAY]

    def containers(self) -> list[SimulatedContainer]:
        """Return the current containers."""
        elapsed = self._clock() - self._began
        current = []
        for part, delay in zip(_PLAY, self._delays, strict=True):
            container = self._scene(part, max(elapsed - delay, 0))
            if container.state:
                current.append(container)
        return current

    def _scene(self, part: _Part, elapsed: float) -> SimulatedContainer:
        lap, second = divmod(elapsed, part.period)
        lap_began = self._began + elapsed - second
        container = self._first(part, int(lap), lap_began)
        for at, change in part.changes:
            if at <= second:
                container = _changed(container, change, lap_began + at)
        return container

    def _first(self, part: _Part, lap: int, lap_began: float) -> SimulatedContainer:
        """Return the container with which a lap of a part begins."""
        container = replace(part.container, created=self._began - 24 * _HOUR)
        if container.state == "created":
            return container
        if part.kept or not part.changes:
            finished = self._began if container.state == "dead" else 0
            return replace(container, started=self._began - _HOUR, finished=finished)
        removals = sum(change.get("state") == "" for _, change in part.changes)
        return replace(
            container,
            created=lap_began if lap else container.created,
            started=lap_began,
            generation=lap * (removals + 1),
        )


def _changed(
    container: SimulatedContainer, change: dict[str, Any], at: float
) -> SimulatedContainer:
    """Apply a change, and update times and counts as an engine does."""
    after = replace(container, **change)
    if "probes_end" in change:
        after = replace(after, probes_end=at)
    if after.state == container.state:
        return after
    if after.state == "paused":
        return replace(after, paused=at)
    if container.state == "paused":
        return replace(after, unpaused=at)
    if after.state != "running":
        return replace(after, finished=at)
    if not container.state:
        after = replace(after, created=at, generation=container.generation + 1)
    restarts = container.restarts + (container.state == "restarting")
    return replace(after, started=at, restarts=restarts, probes_end=math.inf)
