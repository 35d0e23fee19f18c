"""The containers of one poll, found by the requests that cost the engine least."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from docker_prom_exporter.collect.inspect_mode import InspectMode
from docker_prom_exporter.collect.list_mode import ListMode
from docker_prom_exporter.collect.requests import Poll, Requests, although_listed
from docker_prom_exporter.deadline import NEVER
from docker_prom_exporter.snapshot import LIST_MODE, Counts, Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from docker_prom_exporter.collect.requests import Inspected, Listed
    from docker_prom_exporter.containers import Container
    from docker_prom_exporter.deadline import Deadline
    from docker_prom_exporter.engine import Engine, EngineError
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo

__all__ = ["Collector", "PollResult", "although_listed", "choose_mode", "list_everything"]


def choose_mode(*, podman: bool, expensive: bool, details: bool, denied: bool) -> Mode:
    """Return the mode that costs the engine least, and the reason for it.

    Podman inspects each container that it lists, and before version 6 lists no health.
    `expensive`: Docker looks up an image for each container that it lists. `details` is
    the option CONTAINER_DETAILS; `denied`: an inspect of the last poll was.
    """
    if not (podman or expensive):
        return LIST_MODE
    if denied:
        return Mode("list", "inspect denied")
    if not (podman or details):
        return Mode("list", "details off")
    return Mode("inspect", "engine")


def list_everything(engine: Engine, settings: Settings) -> tuple[list[Container], bool]:
    """Return all containers by name, watched or not, and whether a list is expensive."""
    unfiltered = settings._replace(container_health_filter_label=False)
    requests = Requests(engine, unfiltered, Counts())
    rows = requests.whole_list(Poll(None, NEVER)).rows
    containers = [row.container for row in rows.values()]
    return sorted(containers, key=attrgetter("name")), requests.listing_is_expensive


class PollResult(NamedTuple):
    """The watched containers, and facts to log."""

    mode: Mode
    containers: tuple[Container, ...]
    # Failed inspects by container id.
    errors: Mapping[str, EngineError]
    # The names of containers whose label is not a boolean, by container id.
    invalid_labels: Mapping[str, str]
    # Inspects for which the poll had no time.
    postponed: int
    # Containers that were not inspected since their inspect timed out.
    put_aside: int
    # Rows of the last whole list without a valid id or with a repeated one.
    unreadable: int
    # The other containers, `None` if the engine was not asked for them.
    unwatched: int | None = None
    # Why the list of new containers failed, which may be missing then.
    list_error: EngineError | None = None


class Collector:
    """Finds the containers in list mode or in inspect mode."""

    def __init__(self, engine: Engine, settings: Settings, counts: Counts) -> None:
        self._settings = settings
        self._requests = Requests(engine, settings, counts)
        self._list_mode = ListMode(self._requests, settings)
        self._inspect_mode = InspectMode(self._requests, settings)
        self._info: EngineInfo | None = None

        # Whether the engine or a proxy denied an inspect in the last poll.
        self._denied = False

    def collect(self, info: EngineInfo, date: float | None, deadline: Deadline) -> PollResult:
        """Find the containers; `date` is the engine's clock. Raises `EngineError`."""
        poll = Poll(date, deadline)
        if info != self._info:
            self._meet(info)
        mode = self._mode(info)
        if mode.name == "inspect" and self._inspect_mode.started:
            return self._refresh(mode, poll)
        listed = self._requests.whole_list(poll)
        # The first list of an engine shows what listing costs.
        mode = self._mode(info)
        if mode.name == "inspect":
            return self._start(mode, listed, poll)
        return self._list(mode, listed, poll)

    def _meet(self, info: EngineInfo) -> None:
        """Forget the last engine."""
        self._info = info
        self._requests.reset(info)
        self._inspect_mode.started = False

    def _mode(self, info: EngineInfo) -> Mode:
        return choose_mode(
            podman=info.is_podman,
            expensive=self._requests.listing_is_expensive,
            details=self._settings.container_details,
            denied=self._denied,
        )

    def _refresh(self, mode: Mode, poll: Poll) -> PollResult:
        """Inspect the known containers, then find new ones."""
        known = self._inspect_mode.refresh(poll)
        new = self._inspect_mode.find_new(poll)
        return self._inspected(mode, known, new)

    def _start(self, mode: Mode, listed: Listed, poll: Poll) -> PollResult:
        """Inspect all containers of a list."""
        return self._inspected(mode, self._inspect_mode.start(listed.rows, poll))

    def _inspected(self, mode: Mode, *parts: Inspected) -> PollResult:
        known = self._inspect_mode.known
        self._requests.forget_all_but(known)
        result = self._result(mode, self._inspect_mode.watched, known.values(), parts)
        # An unwatched container that is gone stays known for up to an hour.
        nothing_known = not (known or self._settings.container_health_filter_label)
        return result._replace(
            list_error=self._inspect_mode.list_error,
            unwatched=0 if nothing_known else None,
        )

    def _list(self, mode: Mode, listed: Listed, poll: Poll) -> PollResult:
        """Complete the rows of a list with inspects."""
        self._inspect_mode.started = False
        rows = listed.rows
        watched, inspected = self._list_mode.collect(listed, poll)
        self._requests.forget_all_but(rows)
        known = [row.container for row in rows.values()]
        result = self._result(mode, watched, known, [inspected])
        if self._settings.container_health_filter_label:
            return result
        return result._replace(unwatched=len(rows) - len(watched) - len(inspected.gone))

    def _result(
        self,
        mode: Mode,
        watched: Mapping[str, Container],
        known: Iterable[Container],
        parts: Iterable[Inspected],
    ) -> PollResult:
        errors: dict[str, EngineError] = {}
        postponed = 0
        self._denied = False
        for inspected in parts:
            errors |= inspected.errors
            postponed += len(inspected.postponed)
            self._denied = self._denied or inspected.denied
        invalid_labels = {}
        for container in known:
            if container.has_invalid_label:
                invalid_labels[container.id] = container.name
        containers = tuple(watched.values())
        # Podman is inspected for its health even where nobody wants details.
        if not self._settings.container_details:
            containers = tuple(c._replace(details=None) for c in containers)
        return PollResult(
            mode=mode,
            containers=containers,
            errors=errors,
            invalid_labels=invalid_labels,
            postponed=postponed,
            put_aside=len(self._requests.put_aside & watched.keys()),
            unreadable=self._requests.unreadable,
        )
