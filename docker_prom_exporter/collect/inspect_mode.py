"""Inspect mode: inspect each watched container, and list those created since the last poll."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from docker_prom_exporter.containers import NANOSECONDS
from docker_prom_exporter.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker_prom_exporter.collect.requests import Inspected, Poll, Requests
    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.settings import Settings

# All times are in seconds.
_WHOLE_LIST_INTERVAL: Final = 3600
_WHOLE_LIST_RETRY: Final = 600

# moby sets the creation time when a creation begins, and lists the container once it has ended
# (daemon/create.go). A container that took long to create can be older than one listed before.
_SLOWEST_CREATION: Final = 300
_OVERTAKEN_LIST_INTERVAL: Final = 60
# After a longer time without one, one more is due although no container is young any more.
_LONGEST_GAP: Final = 120


class InspectMode:
    """Inspects the watched containers in each poll, and lists and inspects new ones."""

    def __init__(self, requests: Requests, settings: Settings) -> None:
        # All containers of the engine by id, with details; also unwatched ones, inspected once
        # for their exact time of creation, since they can be anchors, too.
        self.known: dict[str, Container] = {}

        # Whether `known` has the engine's containers.
        self.started = False

        # The failure of the last list of new containers; the inspects of its poll stand.
        self.list_error: EngineError | None = None

        self._requests = requests
        self._only_labelled = settings.container_health_filter_label
        self._whole_list_due = 0.0
        self._overtaken_list_due = 0.0

        # All containers whose creation began before are known, by the last list of all or of
        # overtaken ones; in nanoseconds since 1970.
        self._complete_until = -math.inf

    @property
    def watched(self) -> dict[str, Container]:
        """The watched containers by id, as the last poll found them."""
        watched = {}
        for container_id, container in self.known.items():
            if container.is_watched(only_labelled=self._only_labelled):
                watched[container_id] = container
        return watched

    def start(self, rows: Mapping[str, Row], poll: Poll) -> Inspected:
        """Inspect the containers of a whole list; they replace all known ones."""
        now = time.monotonic()
        self.known.clear()
        self.list_error = None
        inspected = self._add_new(rows, poll)
        self.started = True
        self._all_listed(now, poll)
        return inspected

    def refresh(self, poll: Poll) -> Inspected:
        """Inspect the watched containers; those without an answer have an unknown state."""
        watched = self.watched
        inspected = self._requests.inspect(watched, poll, listed={})
        for container_id, container in watched.items():
            if container_id in inspected.containers:
                self.known[container_id] = inspected.containers[container_id]
            elif container_id in inspected.gone:
                del self.known[container_id]
            elif container_id in inspected.from_list:
                # A row has only the second of the creation.
                self.known[container_id] = inspected.from_list[container_id]._replace(
                    created_ns=container.created_ns
                )
            else:
                self.known[container_id] = container.without_verdict()
        return inspected

    def find_new(self, poll: Poll) -> Inspected:
        """List containers that may have been created since the last poll; inspect new ones.

        If the list fails, that is counted and kept in `list_error`, unless nothing is
        known.
        """
        self.list_error = None
        try:
            rows = self._list_new(poll)
        except EngineError as error:
            if not self.known:
                raise
            self._requests.count(error)
            self.list_error = error
            rows = {}
        return self._add_new(rows, poll)

    def _all_listed(self, now: float, poll: Poll) -> None:
        self._whole_list_due = now + _WHOLE_LIST_INTERVAL
        self._overtaken_list_due = now + _OVERTAKEN_LIST_INTERVAL
        self._complete_until = _slowest_creation_began(poll.date)

    def _add_new(self, rows: Mapping[str, Row], poll: Poll) -> Inspected:
        new = {i: row for i, row in rows.items() if i not in self.known}
        inspected = self._requests.inspect(new, poll, listed=new)
        self.known |= inspected.from_list | inspected.containers
        return inspected

    def _list_new(self, poll: Poll) -> Mapping[str, Row]:
        """List all containers once an hour, else those created since a known one."""
        now = time.monotonic()
        if now >= self._whole_list_due:
            self._whole_list_due = now + _WHOLE_LIST_RETRY
            rows = self._requests.whole_list(poll).rows
            self._all_listed(now, poll)
            watched = self.watched
            self.known = {i: c for i, c in self.known.items() if i in rows or i in watched}
            return rows
        began = _slowest_creation_began(poll.date)
        if not self._has_young(began):
            # The first young container starts the minute.
            self._overtaken_list_due = now + _OVERTAKEN_LIST_INTERVAL
        elif now >= self._overtaken_list_due:
            try:
                rows = self._listed_since(min(began, self._complete_until), poll)
            except EngineError:
                # The next poll lists all in pages, each of which may take the whole timeout.
                self._whole_list_due = now
                raise
            self._overtaken_list_due = now + _OVERTAKEN_LIST_INTERVAL
            self._complete_until = began
            return rows
        return self._listed_since(math.inf, poll)

    def _has_young(self, began: float) -> bool:
        """Return whether a container may still appear that is older than a known one.

        `began` is when the slowest creation began. Where lists or polls failed, or are rare,
        it may have appeared since the last list.
        """
        until = min(began, self._complete_until + _LONGEST_GAP * NANOSECONDS)
        return any(
            container.created_ns and container.created_ns > until
            for container in self.known.values()
        )

    def _listed_since(self, latest: float, poll: Poll) -> Mapping[str, Row]:
        """List the containers created after the newest known one that is not later.

        `latest` is in nanoseconds since 1970. All are listed if there is none.
        """
        anchors = []
        for container in self.known.values():
            if container.created_ns and container.created_ns <= latest:
                anchors.append((container.created_ns, container.id))
        for _, container_id in sorted(anchors, reverse=True):
            rows = self._requests.listed_since(container_id, poll)
            if rows is not None:
                return rows
            del self.known[container_id]
        return self._requests.whole_list(poll).rows


def _slowest_creation_began(date: float | None) -> float:
    """Return when the slowest creation that ends now began, in nanoseconds since 1970.

    Without the engine's clock no container is old enough.
    """
    if date is None:
        return -math.inf
    return (int(date) - _SLOWEST_CREATION) * NANOSECONDS
