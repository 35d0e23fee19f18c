"""List mode: one list per poll, and inspects only of containers that may have changed."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from docker_prom_exporter.collect.requests import Inspected, Listed, Poll, Requests
    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.settings import Settings

# Of a detail, in seconds; one poll if that is longer.
_MAX_AGE: Final = 600


class _Known:
    """A container's last inspect, and the row for which it was made."""

    def __init__(self, row: Row, container: Container, valid_at: float) -> None:
        self.container = container

        # The parts of the row on which an inspect depends.
        self.key = row.container, row.summary

        # When the inspect was certainly valid, on the monotonic clock.
        self.valid_at = valid_at

        # Whether it is still valid, by the row of this poll.
        self.current = True

        # Whether row and inspect agree. If not, the inspect shows a later state than the row,
        # and is repeated until both agree or two inspects are equal, as for a container that
        # moby failed to remove.
        self.consistent = row.container.state == container.state and (
            row.container.health_status in (None, container.health_status)
        )

    def is_current(self, row: Row, answered: float, date: float | None) -> bool:
        """Return whether the inspect is still valid, by a row and the time of its list."""
        if not self.consistent or self.container.awaits_probe:
            return False
        if self.key != (row.container, row.summary):
            return False
        if self._begins_after(date):
            # The clock was set back. moby then writes "Less than a second" until the start has
            # passed; any other age is that of another start.
            return row.min_age == 0
        # Some restarts change nothing but the age.
        return answered - row.min_age <= self.valid_at

    def _begins_after(self, date: float | None) -> bool:
        """Return whether the last start or end is in the engine's future."""
        details = self.container.details
        if not date or not details:
            return False
        began = details.started if self.container.running else details.finished
        return bool(began and began > date + 1)

    def with_streak_of(self, row: Row) -> Container:
        """Return the container with the row's newer failing streak (API 1.52 on)."""
        details = self.container.details
        if details is not None and row.failing_streak not in (None, details.failing_streak):
            details = details._replace(failing_streak=row.failing_streak)
            self.container = self.container._replace(details=details)
        return self.container


class ListMode:
    """Completes list rows with inspects; no detail is older than ten minutes."""

    def __init__(self, requests: Requests, settings: Settings) -> None:
        self._requests = requests
        self._settings = settings

        # The inspected containers by id, the oldest inspects first.
        self._known: dict[str, _Known] = {}

        # Inspects that the rotation has not made yet, as a fraction of one.
        self._rotation_debt = 0.0
        self._last_rotation = time.monotonic()

    def collect(self, listed: Listed, poll: Poll) -> tuple[dict[str, Container], Inspected]:
        """Return the watched containers among the listed ones, and this poll's inspects."""
        only_labelled = self._settings.container_health_filter_label
        rows = {}
        for container_id, row in listed.rows.items():
            if row.container.is_watched(only_labelled=only_labelled):
                rows[container_id] = row
        watched = listed._replace(rows=rows)
        inspected = self._requests.inspect(self._due(watched, poll.date), poll, rows)
        return self._merge(watched, inspected), inspected

    def _due(self, watched: Listed, date: float | None) -> Collection[str]:
        """Return which rows need an inspect: those that changed, and some of the others."""
        if not self._settings.container_details and self._requests.health_listed:
            self._known.clear()
            return []
        rows = watched.rows
        self._known = {i: known for i, known in self._known.items() if i in rows}
        unchanged = {}
        for container_id, known in self._known.items():
            known.current = known.is_current(rows[container_id], watched.answered, date)
            if known.current:
                known.valid_at = watched.requested
                unchanged[container_id] = known
        changed = [i for i in rows if i not in unchanged]
        return [*changed, *islice(unchanged, self._rotation(len(rows)))]

    def _merge(self, watched: Listed, inspected: Inspected) -> dict[str, Container]:
        """Return the inspected containers, the others as they are known or listed."""
        for container_id, container in inspected.containers.items():
            row = watched.rows[container_id]
            known = _Known(row, container, valid_at=watched.answered)
            before = self._known.pop(container_id, None)
            if before is not None and before.container == container:
                known.consistent = True
            # At the end of the dict, so that the oldest inspects come first.
            self._known[container_id] = known
        if inspected.denied:
            self._known.clear()
        for container_id in inspected.errors:
            # It is due in each poll until it is answered, and takes no turn of the rotation.
            self._known.pop(container_id, None)
        containers = {}
        for container_id, row in watched.rows.items():
            if container_id in inspected.gone:
                continue
            last = self._known.get(container_id)
            if last is not None and last.current:
                containers[container_id] = last.with_streak_of(row)
            else:
                containers[container_id] = inspected.from_list.get(container_id, row.container)
        return containers

    def _rotation(self, watched: int) -> int:
        """Return how many inspects to repeat now, spread evenly over `_MAX_AGE`."""
        now = time.monotonic()
        debt = self._rotation_debt + watched * (now - self._last_rotation) / _MAX_AGE
        self._rotation_debt = min(debt, watched)
        self._last_rotation = now
        whole = int(self._rotation_debt)
        self._rotation_debt -= whole
        return whole
