"""List mode: one list a poll, and an inspect only where it can say something new."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from docker_prom_exporter.collect.questions import Inspected, Questions
    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.settings import Settings

_MAX_AGE: Final = 600


class Listing(NamedTuple):
    """A list of all containers, the monotonic times it was asked and answered, and the engine's clock."""

    rows: Sequence[Row]
    asked: float
    answered: float
    date: float | None


class _Known:
    """A container as it was last inspected, and the row it was inspected for.

    It holds as of `holds_at`, a monotonic time, and still does if the container has since become too old to
    have been started or stopped in between: that shows a restart which leaves no other trace in the row.
    `settled`: the inspect may show a later state than the row; then the container is inspected again, unless
    it shows the same twice, as moby does of a container it failed to remove.
    """

    def __init__(self, row: Row, container: Container, holds_at: float, *, settled: bool) -> None:
        self.key = _key(row)
        self.container = container
        self.holds_at = holds_at
        self.settled = settled

    def still_holds(self, row: Row, listing: Listing) -> bool:
        if not self.settled or self.key != _key(row):
            return False
        if listing.answered - row.min_age > self.holds_at and not self._began_after(listing.date):
            return False
        self.holds_at = listing.asked
        return True

    def _began_after(self, date: float | None) -> bool:
        """Tell whether the engine's clock was set back beyond the last start or end: no age is true then."""
        details = self.container.details
        if date is None or details is None:
            return False
        began = details.started if self.container.running else details.finished
        return began is not None and began > date + 1

    def described_by(self, row: Row) -> Container:
        """Return the container with the failing streak of the row, which is newer, from API 1.52 on."""
        details = self.container.details
        if details is not None and row.failing_streak not in (None, details.failing_streak):
            self.container = self.container._replace(
                details=details._replace(failing_streak=row.failing_streak)
            )
        return self.container


def _key(row: Row) -> tuple[Container, str]:
    """Return all of a row that an inspect's answer depends on, which the age in `Status` is not."""
    return row.container, row.summary


class ListMode:
    """Completes the rows of each poll by inspects, which also rotate: no detail is older than ten minutes."""

    def __init__(self, questions: Questions, settings: Settings) -> None:
        self._questions = questions
        self._settings = settings
        self._known: dict[str, _Known] = {}
        self._owed = 0.0
        self._last_rotation = time.monotonic()

    def collect(self, listing: Listing, deadline: float) -> tuple[tuple[Container, ...], Inspected | None]:
        """Return the watched containers of a list, and what became of the inspects of this poll."""
        only_labelled = self._settings.container_health_filter_label
        rows = {
            row.container.id: row
            for row in listing.rows
            if row.container.is_watched(only_labelled=only_labelled)
        }
        if not self._settings.container_details and self._questions.health_listed:
            return tuple(row.container for row in rows.values()), None
        self._known = {
            container_id: known for container_id, known in self._known.items() if container_id in rows
        }
        inspected = self._inspect(rows, listing, deadline)
        if inspected.denied:
            self._known.clear()
        containers = (self._container(row, inspected) for row in rows.values())
        return tuple(container for container in containers if container is not None), inspected

    def _inspect(self, rows: dict[str, Row], listing: Listing, deadline: float) -> Inspected:
        holding = {i for i, known in self._known.items() if known.still_holds(rows[i], listing)}
        due = [i for i in rows if i not in holding]
        due += islice((i for i in self._known if i in holding), self._rotation(len(rows)))
        last_seen = {i: known.container for i, known in self._known.items()}
        inspected = self._questions.inspect(due, deadline, last_seen=last_seen, listed=rows)
        for container_id, container in inspected.containers.items():
            row, known = rows[container_id], self._known.pop(container_id, None)
            settled = _agree(row.container, container) or (known is not None and known.container == container)
            # An entry that was inspected goes to the end of the dict, so that the oldest come first.
            self._known[container_id] = _Known(row, container, listing.answered, settled=settled)
        return inspected

    def _rotation(self, watched: int) -> int:
        """Return how many inspects are due for no detail to become too old, spread evenly over the polls."""
        now = time.monotonic()
        self._owed = min(self._owed + watched * (now - self._last_rotation) / _MAX_AGE, watched)
        self._last_rotation = now
        whole = int(self._owed)
        self._owed -= whole
        return whole

    def _container(self, row: Row, inspected: Inspected) -> Container | None:
        container_id = row.container.id
        if container_id in inspected.gone:
            return None
        if container_id in inspected.instead:
            return inspected.instead[container_id]
        known = self._known.get(container_id)
        return row.container if known is None else known.described_by(row)


def _agree(row: Container, inspected: Container) -> bool:
    return (row.state, row.health_status or inspected.health_status) == (
        inspected.state,
        inspected.health_status,
    )
