"""The containers of one poll, found by the requests that cost the engine least."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from docker_prom_exporter.booleans import parse_boolean
from docker_prom_exporter.collect.inspect_mode import InspectMode
from docker_prom_exporter.collect.list_mode import Listing, ListMode
from docker_prom_exporter.collect.questions import Questions
from docker_prom_exporter.snapshot import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.engine import Engine, EngineError
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo, Mode

__all__ = ["Collector", "Everything", "Found", "list_everything"]


class Everything(NamedTuple):
    """The rows of all containers, watched or not, and whether listing them is expensive for the engine."""

    rows: Sequence[Row]
    expensive: bool


def list_everything(engine: Engine, settings: Settings, deadline: float) -> Everything:
    """List all containers, as `check` does; raises `EngineError`."""
    questions = Questions(engine, settings._replace(container_health_filter_label=False), Counts())
    rows = questions.whole_list(deadline)
    return Everything(rows, expensive=bool(questions.expensive))


class Found(NamedTuple):
    """What a poll found: the watched containers, and what there is to log.

    `unwatched` counts the others, `None` where the engine was not asked for them. `errors` has the containers
    whose inspect failed, by id; `misread` those whose label is no boolean; `unreadable` counts list rows that
    named no container of their own. `costly` says that listing is expensive, and done all the same.
    """

    mode: Mode
    containers: tuple[Container, ...]
    unwatched: int | None
    errors: Mapping[str, EngineError]
    misread: Mapping[str, Container]
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
        """Find the containers of an engine whose clock says `date`; raises `EngineError`."""
        if info != self._info:
            self._info = info
            self._questions.meet(info)
            self._inspect_mode.started = False
        if self._inspects(info) and self._inspect_mode.started:
            inspected = self._inspect_mode.refresh(deadline)
            self._denied = inspected.denied
            if not self._denied:
                new = self._inspect_mode.find_new(date, deadline)
                return self._found_by_inspects(inspected.errors | new.errors)
        asked = time.monotonic()
        rows = self._questions.whole_list(deadline)
        # A list in pages may have taken long, and inspects have to follow.
        seconds = self._settings.poll_interval + self._settings.docker_timeout
        deadline = max(deadline, time.monotonic() + seconds)
        if self._inspects(info):
            started = self._inspect_mode.start(rows, deadline)
            if not started.denied:
                return self._found_by_inspects(started.errors)
        return self._found_by_list(Listing(rows, asked, time.monotonic(), date), deadline)

    def _inspects(self, info: EngineInfo) -> bool:
        expensive = bool(self._questions.expensive) and self._settings.container_details
        return (info.is_podman or expensive) and not self._denied

    def _found_by_inspects(self, errors: Mapping[str, EngineError]) -> Found:
        return self._found("inspect", self._inspect_mode.watched, None, errors, self._inspect_mode.known)

    def _found_by_list(self, listing: Listing, deadline: float) -> Found:
        containers, inspected = self._list_mode.collect(listing, deadline)
        self._denied = inspected is not None and inspected.denied
        self._inspect_mode.started = False
        only_labelled = self._settings.container_health_filter_label
        unwatched = None if only_labelled else len(listing.rows) - len(containers)
        errors = {} if inspected is None else inspected.errors
        return self._found("list", containers, unwatched, errors, (row.container for row in listing.rows))

    def _found(
        self,
        mode: Mode,
        containers: tuple[Container, ...],
        unwatched: int | None,
        errors: Mapping[str, EngineError],
        known: Iterable[Container],
    ) -> Found:
        if not self._settings.container_details:
            containers = tuple(container._replace(details=None) for container in containers)
        return Found(
            mode=mode,
            containers=containers,
            unwatched=unwatched,
            errors=errors,
            misread={c.id: c for c in known if c.watch_label and parse_boolean(c.watch_label) is None},
            unreadable=self._questions.unreadable,
            costly=mode == "list" and bool(self._questions.expensive),
        )
