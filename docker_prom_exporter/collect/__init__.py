"""The containers of one poll, found by the requests that cost the engine least."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from docker_prom_exporter.collect.inspect_mode import InspectMode
from docker_prom_exporter.collect.list_mode import ListMode
from docker_prom_exporter.collect.questions import Questions
from docker_prom_exporter.snapshot import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from docker_prom_exporter.containers import Container
    from docker_prom_exporter.engine import Engine, EngineError
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo, Mode

__all__ = ["Collector", "Found", "list_everything"]


def list_everything(
    engine: Engine, settings: Settings, deadline: float
) -> tuple[list[Container], bool]:
    """Return all containers sorted by name, watched or not, and whether a list is expensive."""
    questions = Questions(
        engine, settings._replace(container_health_filter_label=False), Counts()
    )
    rows = questions.whole_list(deadline)
    containers = sorted((row.container for row in rows.values()), key=attrgetter("name"))
    return containers, bool(questions.expensive)


class Found(NamedTuple):
    """Result of a poll: the watched containers, and facts to log.

    `unwatched` counts the other containers, `None` if the engine was not asked for them. By container id,
    `errors` has failed inspects and `misread` the names of containers whose label is not a boolean.
    `unreadable` counts list rows without a valid id or with a repeated one. `costly` tells whether the poll
    listed all containers although that is expensive.
    """

    mode: Mode
    containers: tuple[Container, ...]
    unwatched: int | None
    errors: Mapping[str, EngineError]
    misread: Mapping[str, str]
    unreadable: int
    costly: bool


class Collector:
    """Finds the containers in list mode or in inspect mode, whichever is cheaper on the engine.

    Inspect mode is for Docker with the containerd image store, which looks up an image for each container it
    lists, and for Podman, whose list inspects each container internally and, before version 6, has no health.
    """

    def __init__(self, engine: Engine, settings: Settings, counts: Counts) -> None:
        self._settings = settings
        self._questions = Questions(engine, settings, counts)
        self._list_mode = ListMode(self._questions, settings)
        self._inspect_mode = InspectMode(self._questions, settings)
        self._info: EngineInfo | None = None
        self._denied = False

    def collect(self, info: EngineInfo, date: float | None, deadline: float) -> Found:
        """Find the containers; `date` is the engine's clock in Unix seconds. Raises `EngineError`."""
        if info != self._info:
            self._info = info
            self._questions.reset(info)
            self._inspect_mode.started = False
        if self._inspects(info) and self._inspect_mode.started:
            inspected = self._inspect_mode.refresh(deadline)
            self._denied = inspected.denied
            if not self._denied:
                new = self._inspect_mode.find_new(date, deadline)
                return self._found_by_inspects(inspected.errors | new.errors)
        asked = time.monotonic()
        rows = self._questions.whole_list(deadline)
        # A list in pages can take longer than the deadline; the inspects after it need time, too.
        seconds = self._settings.poll_interval + self._settings.docker_timeout
        deadline = max(deadline, time.monotonic() + seconds)
        if self._inspects(info):
            started = self._inspect_mode.start(rows, deadline)
            if not started.denied:
                return self._found_by_inspects(started.errors)
        containers, inspected = self._list_mode.collect(rows, asked, date, deadline)
        self._denied = inspected.denied
        self._inspect_mode.started = False
        known = [row.container for row in rows.values()]
        unwatched = (
            None
            if self._settings.container_health_filter_label
            else len(known) - len(containers)
        )
        return self._found("list", containers, inspected.errors, known, unwatched)

    def _inspects(self, info: EngineInfo) -> bool:
        expensive = bool(self._questions.expensive) and self._settings.container_details
        return (info.is_podman or expensive) and not self._denied

    def _found_by_inspects(self, errors: Mapping[str, EngineError]) -> Found:
        known = self._inspect_mode.known.values()
        return self._found("inspect", self._inspect_mode.watched.values(), errors, known)

    def _found(
        self,
        mode: Mode,
        watched: Iterable[Container],
        errors: Mapping[str, EngineError],
        known: Iterable[Container],
        unwatched: int | None = None,
    ) -> Found:
        if not self._settings.container_details:
            watched = (container._replace(details=None) for container in watched)
        return Found(
            mode=mode,
            containers=tuple(watched),
            unwatched=unwatched,
            errors=errors,
            misread={container.id: container.name for container in known if container.misread},
            unreadable=self._questions.unreadable,
            costly=mode == "list" and bool(self._questions.expensive),
        )
