"""List mode: one list per poll, and inspects only of containers that may have changed."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker_prom_exporter.collect.questions import Inspected, Questions
    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.settings import Settings

_MAX_AGE: Final = 600


class _Known:
    """A container's last inspect, and the parts of its row at that time that an inspect depends on.

    The inspect was valid at the monotonic time `holds_at`. It still is if the age in the row excludes a start
    or stop since then: some restarts change nothing but that age. `settled` is false if the inspect shows a
    later state than the row. The container is then inspected again, until both agree or two inspects are
    equal, as for a container that moby failed to remove.
    """

    def __init__(
        self, row: Row, container: Container, holds_at: float, *, settled: bool
    ) -> None:
        self.key = row.container, row.summary
        self.container = container
        self.holds_at = holds_at
        self.settled = settled

    def still_holds(self, row: Row, answered: float, date: float | None) -> bool:
        """Return whether the inspect still holds, by a row, the time of its list and the engine's clock."""
        if not self.settled or self.key != (row.container, row.summary):
            return False
        return answered - row.min_age <= self.holds_at or self._began_after(date)

    def _began_after(self, date: float | None) -> bool:
        """Return whether the engine's clock was set back behind the last start or end, which spoils ages."""
        details = self.container.details
        began = details and (details.started if self.container.running else details.finished)
        return bool(date and began and began > date + 1)

    def described_by(self, row: Row) -> Container:
        """Return the container with the row's newer failing streak; rows have one from API 1.52 on."""
        details = self.container.details
        if details is not None and row.failing_streak not in (None, details.failing_streak):
            details = details._replace(failing_streak=row.failing_streak)
            self.container = self.container._replace(details=details)
        return self.container


class ListMode:
    """Completes list rows with inspects, repeated so that no detail is older than ten minutes."""

    def __init__(self, questions: Questions, settings: Settings) -> None:
        self._questions = questions
        self._settings = settings
        self._known: dict[str, _Known] = {}
        self._owed = 0.0
        self._last_rotation = time.monotonic()

    def collect(
        self, listed: Mapping[str, Row], asked: float, date: float | None, deadline: float
    ) -> tuple[tuple[Container, ...], Inspected]:
        """Return the watched containers among the listed ones, and the results of this poll's inspects.

        `asked` is the monotonic time of the list request, `date` the engine's clock in Unix seconds.
        """
        answered, only_labelled = (
            time.monotonic(),
            self._settings.container_health_filter_label,
        )
        rows = {
            i: row
            for i, row in listed.items()
            if row.container.is_watched(only_labelled=only_labelled)
        }
        inspects = self._settings.container_details or not self._questions.health_listed
        self._known = {i: known for i, known in self._known.items() if i in rows and inspects}
        holding = {
            i for i, known in self._known.items() if known.still_holds(rows[i], answered, date)
        }
        for container_id in holding:
            self._known[container_id].holds_at = asked
        due = [i for i in rows if i not in holding]
        due += islice((i for i in self._known if i in holding), self._rotation(len(rows)))
        inspected = self._questions.inspect(due if inspects else [], deadline, rows)
        for container_id, container in inspected.containers.items():
            self._note(rows[container_id], container, answered)
        if inspected.denied:
            self._known.clear()
        containers = {i: row.container for i, row in rows.items() if i not in inspected.gone}
        containers |= {
            i: known.described_by(rows[i])
            for i, known in self._known.items()
            if i in containers
        }
        return tuple((containers | inspected.instead).values()), inspected

    def _note(self, row: Row, container: Container, answered: float) -> None:
        before = self._known.pop(container.id, None)
        # A state or health that differs from the row's is later than the row.
        agree = row.container.state == container.state
        agree = agree and row.container.health_status in (None, container.health_status)
        settled = agree or (before is not None and before.container == container)
        # Move to the end of the dict, so that the oldest inspects come first.
        self._known[container.id] = _Known(row, container, answered, settled=settled)

    def _rotation(self, watched: int) -> int:
        """Return how many inspects to repeat now, spread evenly, so that none exceeds `_MAX_AGE`."""
        now = time.monotonic()
        self._owed = min(
            self._owed + watched * (now - self._last_rotation) / _MAX_AGE, watched
        )
        self._last_rotation = now
        whole = int(self._owed)
        self._owed -= whole
        return whole
