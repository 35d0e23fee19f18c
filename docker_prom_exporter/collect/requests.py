"""The lists and inspects of a poll, and who is to blame for a missing answer."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from docker_prom_exporter.containers import (
    LABEL,
    parse_inspect,
    parse_row,
    stores_images_in_containerd,
)
from docker_prom_exporter.deadline import NEVER
from docker_prom_exporter.engine import BadAnswerError, EngineError

if TYPE_CHECKING:
    from collections.abc import Collection, KeysView, Mapping, Sequence

    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.deadline import Deadline
    from docker_prom_exporter.engine import Engine, Inspects
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import Counts, EngineInfo

# The rows of a page, and the ids in the filter of a list.
_PAGE: Final = 50

# In seconds. The retry in the next poll comes before the first pause.
_FIRST_PAUSE: Final = 60
_LONGEST_PAUSE: Final = 600


class Poll(NamedTuple):
    """What all requests of a poll share."""

    # The engine's clock in Unix seconds, from the ping; `None` if it did not say it.
    date: float | None
    deadline: Deadline


class Rows(NamedTuple):
    """A list: readable rows by id in the engine's order, and the number of all rows."""

    by_id: Mapping[str, Row]
    total: int

    @property
    def described_image(self) -> bool:
        """Whether the engine looked up an image for a row, so that lists are expensive."""
        return any(row.described_image for row in self.by_id.values())


class Listed(NamedTuple):
    """All containers that the engine lists, by id."""

    rows: Mapping[str, Row]
    # When they were requested and answered, on the monotonic clock.
    requested: float
    answered: float


class Inspected(NamedTuple):
    """The results of inspects by container id."""

    containers: dict[str, Container]
    # What the list says of containers that were not inspected.
    from_list: dict[str, Container]
    # They exist no longer.
    gone: set[str]
    errors: dict[str, EngineError]
    # They were not inspected because the poll ran out of time.
    postponed: set[str]

    @property
    def denied(self) -> bool:
        """Whether the engine or a proxy denied an inspect."""
        return any(error.reason == "denied" for error in self.errors.values())


class _Pause(NamedTuple):
    """For how long a container is put aside, because its inspect timed out."""

    # On the monotonic clock.
    end: float
    seconds: float


class Requests:
    """Requests the containers of an engine. The caller counts each `EngineError` raised."""

    def __init__(self, engine: Engine, settings: Settings, counts: Counts) -> None:
        # Rows of the last whole list without a valid id or with a repeated one.
        self.unreadable = 0

        self._is_podman = False
        self._engine = engine
        self._settings = settings
        self._counts = counts

        # Whether the last whole list, and the last inspect, showed that the engine looks up an
        # image for each container that it lists. No list has shown it yet: None.
        self._lookup_listed: bool | None = None
        self._lookup_inspected = False

        # Containers whose inspect took the whole timeout, and how many polls in a row had no
        # time for a container. The latter are inspected first, the former last.
        self._pauses: dict[str, _Pause] = {}
        self._postponed: dict[str, int] = {}

    @property
    def listing_is_expensive(self) -> bool:
        """Whether the engine looks up an image for each container that it lists.

        It has rows with `ImageManifestDescriptor` (API 1.48 on), or else says it in
        inspects.
        """
        return bool(self._lookup_listed) or self._lookup_inspected

    @property
    def health_listed(self) -> bool:
        """Whether a list has the health of running containers; Podman's has not before 6."""
        return not self._is_podman

    @property
    def put_aside(self) -> KeysView[str]:
        """The containers that were not inspected since their inspect timed out."""
        return self._pauses.keys()

    def reset(self, info: EngineInfo) -> None:
        """Forget everything about the last engine."""
        self._is_podman = info.is_podman
        self._lookup_listed = None
        self._lookup_inspected = False
        self._pauses.clear()
        self._postponed.clear()

    def forget_all_but(self, ids: Collection[str]) -> None:
        """Forget containers that are gone."""
        self._pauses = {i: pause for i, pause in self._pauses.items() if i in ids}
        self._postponed = {i: polls for i, polls in self._postponed.items() if i in ids}

    def count(self, error: EngineError) -> None:
        """Count an error."""
        self._counts.failed(error.endpoint, error.reason)

    def whole_list(self, poll: Poll) -> Listed:
        """List all containers, in pages where that is expensive."""
        requested = time.monotonic()
        if self._lookup_listed is False and not self.listing_is_expensive:
            rows = self._list(poll.deadline.with_reserve())
        else:
            rows = self._list_in_pages()
        if rows.by_id:
            self._lookup_listed = rows.described_image
        self.unreadable = rows.total - len(rows.by_id)
        return Listed(rows.by_id, requested, time.monotonic())

    def listed_since(self, anchor: str, poll: Poll) -> Mapping[str, Row] | None:
        """List the containers created after the one with this id; `None` if it is gone."""
        deadline = poll.deadline.with_reserve()
        rows = self._list_relative(anchor, deadline, since=[anchor])
        return None if rows is None else rows.by_id

    def inspect(
        self, ids: Collection[str], poll: Poll, listed: Mapping[str, Row]
    ) -> Inspected:
        """Inspect containers, except those whose inspect timed out lately.

        `listed` has rows of this poll. Raises `EngineError` if the engine gave no answer
        at all.
        """
        due = self._due(ids)
        outcome = self._engine.inspect(due, poll.deadline, partial(self._parse_inspect, poll))
        result = Inspected({}, {}, set(), {}, set())
        for container_id, answer in outcome.answers.items():
            if isinstance(answer, EngineError):
                result.errors[container_id] = answer
            else:
                result.containers[container_id] = answer
                self._pauses.pop(container_id, None)
        if not result.denied:
            result.postponed.update({*due} - outcome.answers.keys())
        for container_id in ids:
            waited = self._postponed.pop(container_id, 0)
            if container_id in result.postponed:
                self._postponed[container_id] = waited + 1
        missing = [i for i in ids if i not in result.containers]
        if missing:
            self._take_from_list(missing, poll, listed, outcome, result)
        for container_id, error in result.errors.items():
            result.errors[container_id] = although_listed(error)
            self.count(result.errors[container_id])
        return result

    def _due(self, ids: Collection[str]) -> list[str]:
        """Return the containers to inspect, in order."""
        now = time.monotonic()
        first, others, last = [], [], []
        for container_id in ids:
            pause = self._pauses.get(container_id)
            if pause is not None and pause.end > now:
                continue
            if container_id in self._postponed:
                first.append(container_id)
            elif pause is not None:
                last.append(container_id)
            else:
                others.append(container_id)
        # Those that have waited longest, or some would wait for ever where no poll has time
        # for all.
        first.sort(key=self._postponed.__getitem__, reverse=True)
        return [*first, *others, *last]

    def _take_from_list(
        self,
        missing: Sequence[str],
        poll: Poll,
        listed: Mapping[str, Row],
        outcome: Inspects,
        result: Inspected,
    ) -> None:
        """Add what the list says of containers without an inspect; not listed means gone.

        The list also decides whose fault it is that inspects took the whole timeout: if
        the engine answered anything meanwhile, the containers', else the engine's.
        """
        silent: Collection[str] = ()
        if not outcome.outlasted:
            silent = outcome.late
        rows = {i: listed[i] for i in missing if i in listed}
        doubtful = []
        for container_id in missing:
            error = result.errors.get(container_id)
            # 404 and, from Podman, 500 may mean that it is gone since it was listed.
            maybe_gone = error is not None and error.status in (404, 500)
            if container_id not in rows or container_id in silent or maybe_gone:
                doubtful.append(container_id)
        try:
            self._list_by_id(doubtful, poll, rows, result.gone)
        except EngineError as error:
            nothing_known = not (result.containers or rows)
            if nothing_known or silent:
                raise
            self.count(error)
        for container_id in missing:
            if container_id in result.gone:
                result.errors.pop(container_id, None)
                result.postponed.discard(container_id)
            elif container_id in rows:
                result.from_list[container_id] = rows[container_id].container
        for container_id in outcome.late:
            self._pause(container_id)

    def _pause(self, container_id: str) -> None:
        """Delay the next inspect but one after a timeout.

        moby keeps each abandoned inspect of a locked container open.
        """
        seconds = 0.0
        if before := self._pauses.get(container_id):
            seconds = min(max(2 * before.seconds, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._pauses[container_id] = _Pause(time.monotonic() + seconds, seconds)

    def _list_in_pages(self) -> Rows:
        """List all containers in pages, each of which may take the whole timeout."""
        page = self._list(NEVER, limit=_PAGE)
        if page.total < _PAGE:
            return page
        if not (page.described_image or self._lookup_inspected):
            # Listing is cheap, so one list of all is cheaper than further pages.
            return self._list(NEVER)
        rows, total = dict(page.by_id), page.total
        anchors = [*rows]
        while page.total >= _PAGE and anchors:
            following = self._list_relative(
                anchors[-1], NEVER, before=[anchors[-1]], limit=_PAGE
            )
            if following is None:
                # That container is gone; the one before it leads to the same page.
                anchors.pop()
                continue
            page = following
            anchors = [i for i in page.by_id if i not in rows]
            rows.update(page.by_id)
            total += page.total
        if page.total >= _PAGE:
            # No row of a full page leads to the next one.
            return self._list(NEVER)
        return Rows(rows, total)

    def _list_relative(self, anchor: str, deadline: Deadline, **options: Any) -> Rows | None:
        """List relative to a container; `None` if it is gone.

        That is a 404, or a 500 on Docker 20.10 and Podman.
        """
        try:
            return self._list(deadline, **options)
        except EngineError as error:
            if error.status in (404, 500) and not self._list(deadline, id=[anchor]).total:
                return None
            raise

    def _list_by_id(
        self, ids: Sequence[str], poll: Poll, rows: dict[str, Row], gone: set[str]
    ) -> None:
        """Add the rows of containers to `rows`, and those that are not listed to `gone`.

        What one request has answered stays if the next one fails.
        """
        deadline = poll.deadline.with_reserve()
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            answer = self._list(deadline, id=page).by_id
            rows.update(answer)
            gone.update({*page} - answer.keys())

    def _list(self, deadline: Deadline, **options: Any) -> Rows:
        if self._settings.container_health_filter_label:
            options["label"] = [LABEL]
        rows: Rows = self._engine.list(deadline, self._parse_rows, **options)
        return rows

    def _parse_rows(self, answer: Sequence[Any]) -> Rows:
        rows: dict[str, Row] = {}
        for fields in answer:
            row = parse_row(
                fields, self._settings.container_labels, health_listed=self.health_listed
            )
            if row is not None:
                rows[row.container.id] = row
        return Rows(rows, len(answer))

    def _parse_inspect(
        self, poll: Poll, container_id: str, answer: dict[str, Any]
    ) -> Container:
        container = parse_inspect(
            answer,
            self._settings.container_labels,
            now=poll.date,
            is_podman=self._is_podman,
        )
        if container is None or container.id != container_id or not container.state:
            raise BadAnswerError("the answer is for another container, or has no state")
        self._lookup_inspected = stores_images_in_containerd(answer)
        return container


def although_listed(error: EngineError) -> EngineError:
    """Return the error of an inspect, given that its container is listed.

    A 404 is a wrong answer then: a proxy in between sends it.
    """
    if error.status != 404:
        return error
    detail = f"{error.detail}, but the container is listed"
    return EngineError("inspect", "bad_response", detail, error.status)
