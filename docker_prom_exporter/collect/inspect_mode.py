"""Inspect mode: an inspect for each known container, and a list of what was created since."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from docker_prom_exporter.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from docker_prom_exporter.collect.questions import Inspected, Questions
    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.settings import Settings

_NANOSECONDS: Final = 10**9
_WHOLE_LIST_INTERVAL: Final = 3600
_WHOLE_LIST_RETRY: Final = 600

# moby notes the time of creation when a creation begins and lists the container when it has ended
# (daemon/create.go), so that a slow creation is older than a fast one that was listed before it.
_SLOWEST_CREATION: Final = 300


class InspectMode:
    """Knows the containers, and asks for each of them and for new ones.

    `started` tells whether it knows the containers; `start` makes it so. Containers that are not watched are
    inspected once, for the time of their creation: it is then that they serve as an anchor, too.
    """

    def __init__(self, questions: Questions, settings: Settings) -> None:
        self._questions = questions
        self._only_labelled = settings.container_health_filter_label
        self._watched: dict[str, Container] = {}
        self._others: dict[str, Container] = {}
        self._whole_list_due = 0.0
        self.started = False

    @property
    def known(self) -> Iterator[Container]:
        """Every container that it knows, watched or not."""
        yield from self._watched.values()
        yield from self._others.values()

    @property
    def watched(self) -> tuple[Container, ...]:
        """The watched containers, as the last poll found them."""
        return tuple(self._watched.values())

    def start(self, rows: Sequence[Row], deadline: float) -> Inspected:
        """Take the containers from the rows of a whole list."""
        self._watched.clear()
        self._others.clear()
        inspected = self._meet(rows, deadline)
        self.started = not inspected.denied
        self._whole_list_due = time.monotonic() + _WHOLE_LIST_INTERVAL
        return inspected

    def refresh(self, deadline: float) -> Inspected:
        """Inspect the watched containers."""
        inspected = self._questions.inspect(self._watched, deadline, last_seen=self._watched, listed={})
        self.started = not inspected.denied
        for container_id in inspected.gone:
            del self._watched[container_id]
        for container_id, container in inspected.instead.items():
            created_ns = self._watched[container_id].created_ns
            self._watched[container_id] = container._replace(created_ns=created_ns)
        self._watched.update(inspected.containers)
        return inspected

    def find_new(self, date: float | None, deadline: float) -> Inspected:
        """List what may have been created since the last poll, and inspect what is new.

        `date` is the engine's clock. Once an hour all containers are listed; where that fails, the error is
        counted, and the others stand.
        """
        rows = self._hourly_list(deadline)
        if rows is None:
            rows = self._listed_since_the_anchor(date, deadline)
        return self._meet(rows, deadline)

    def _meet(self, rows: Iterable[Row], deadline: float) -> Inspected:
        new = {
            row.container.id: row
            for row in rows
            if row.container.id not in self._watched and row.container.id not in self._others
        }
        inspected = self._questions.inspect(new, deadline, last_seen={}, listed=new)
        met = inspected.containers | inspected.instead
        for container_id in filter(met.__contains__, new):
            watched = met[container_id].is_watched(only_labelled=self._only_labelled)
            (self._watched if watched else self._others)[container_id] = met[container_id]
        return inspected

    def _hourly_list(self, deadline: float) -> list[Row] | None:
        now = time.monotonic()
        if now < self._whole_list_due:
            return None
        try:
            rows = self._questions.whole_list(deadline)
        except EngineError:
            self._whole_list_due = now + _WHOLE_LIST_RETRY
            return None
        self._whole_list_due = now + _WHOLE_LIST_INTERVAL
        listed = {row.container.id for row in rows}
        self._others = {i: container for i, container in self._others.items() if i in listed}
        return rows

    def _listed_since_the_anchor(self, date: float | None, deadline: float) -> list[Row]:
        for anchor in self._anchors(date):
            rows = self._questions.listed_since(anchor.id, deadline)
            if rows is not None:
                return rows
            self._others.pop(anchor.id, None)
        return self._questions.whole_list(deadline)

    def _anchors(self, date: float | None) -> list[Container]:
        """Return the containers that no unlisted one can be older than, the newest first."""
        if date is None:
            return []
        latest = (int(date) - _SLOWEST_CREATION) * _NANOSECONDS
        anchors = [
            (c.created_ns, c) for c in self.known if c.details and c.created_ns and c.created_ns <= latest
        ]
        return [container for _, container in sorted(anchors, key=lambda pair: pair[0], reverse=True)]
