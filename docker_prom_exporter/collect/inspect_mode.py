"""Inspect mode: inspect each watched container, and list those created since the last poll."""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from docker_prom_exporter.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker_prom_exporter.collect.questions import Inspected, Questions
    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.settings import Settings

_NANOSECONDS: Final = 10**9
_WHOLE_LIST_INTERVAL: Final = 3600
_WHOLE_LIST_RETRY: Final = 600

# moby sets the creation time when a creation begins, and lists the container once it has ended
# (daemon/create.go). A container that took long to create can be older than one listed before it.
_SLOWEST_CREATION: Final = 300


class InspectMode:
    """Inspects the watched containers in each poll, and lists and inspects new ones.

    `started` tells whether `known` holds the engine's containers; `start` fills it. Unwatched containers are
    inspected once, for their exact creation time, so that they can be anchors, too.
    """

    def __init__(self, questions: Questions, settings: Settings) -> None:
        self._questions = questions
        self._only_labelled = settings.container_health_filter_label
        self._whole_list_due = 0.0
        self.known: dict[str, Container] = {}
        self.started = False

    @property
    def watched(self) -> dict[str, Container]:
        """The watched containers by id, as the last poll found them."""
        return {
            i: c
            for i, c in self.known.items()
            if c.is_watched(only_labelled=self._only_labelled)
        }

    def start(self, rows: Mapping[str, Row], deadline: float) -> Inspected:
        """Inspect the containers of a whole list; they replace all known ones."""
        self.known.clear()
        inspected = self._add_new(rows, deadline)
        self.started = not inspected.denied
        self._whole_list_due = time.monotonic() + _WHOLE_LIST_INTERVAL
        return inspected

    def refresh(self, deadline: float) -> Inspected:
        """Inspect the watched containers; those without an answer stay, with unknown state and health."""
        watched = self.watched
        inspected = self._questions.inspect(watched, deadline, listed={})
        self.started = not inspected.denied
        answered = inspected.instead | inspected.containers
        for container_id, container in watched.items():
            if container_id in inspected.gone:
                del self.known[container_id]
            else:
                self.known[container_id] = (
                    answered.get(container_id) or container.without_verdict()
                )
        return inspected

    def find_new(self, date: float | None, deadline: float) -> Inspected:
        """List the containers that may have been created since the last poll, and inspect new ones.

        `date` is the engine's clock in Unix seconds. Once an hour all containers are listed; if that fails,
        the error is counted and only new ones are listed.
        """
        rows = self._hourly_list(deadline)
        if rows is None:
            rows = self._listed_since_the_anchor(date, deadline)
        return self._add_new(rows, deadline)

    def _add_new(self, rows: Mapping[str, Row], deadline: float) -> Inspected:
        new = {
            container_id: row
            for container_id, row in rows.items()
            if container_id not in self.known
        }
        inspected = self._questions.inspect(new, deadline, listed=new)
        found = inspected.containers | inspected.instead
        self.known |= {
            container_id: found[container_id] for container_id in new if container_id in found
        }
        return inspected

    def _hourly_list(self, deadline: float) -> dict[str, Row] | None:
        now = time.monotonic()
        if now < self._whole_list_due:
            return None
        try:
            rows = self._questions.whole_list(deadline)
        except EngineError as error:
            self._questions.count(error)
            self._whole_list_due = now + _WHOLE_LIST_RETRY
            return None
        self._whole_list_due = now + _WHOLE_LIST_INTERVAL
        watched = self.watched
        self.known = {
            i: container for i, container in self.known.items() if i in rows or i in watched
        }
        return rows

    def _listed_since_the_anchor(self, date: float | None, deadline: float) -> dict[str, Row]:
        while anchor := self._anchor(date):
            rows = self._questions.listed_since(anchor.id, deadline)
            if rows is not None:
                return rows
            del self.known[anchor.id]
        return self._questions.whole_list(deadline)

    def _anchor(self, date: float | None) -> Container | None:
        """Return the newest known container that is older than every container not listed yet."""
        if date is None:
            return None
        latest = (int(date) - _SLOWEST_CREATION) * _NANOSECONDS
        old = (
            c
            for c in self.known.values()
            if c.details and c.created_ns and c.created_ns <= latest
        )
        return max(old, key=attrgetter("created_ns"), default=None)
