"""The lists and inspects of a poll, with fallbacks for failed requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from docker_prom_exporter.containers import (
    LABEL,
    read_inspect,
    read_row,
    stores_images_in_containerd,
)
from docker_prom_exporter.engine import BadAnswerError, EngineError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from docker_prom_exporter.containers import Container, Row
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import Counts, EngineInfo

_INSPECT_SECONDS: Final = 2
_PAGE: Final = 50
_FIRST_RETRY: Final = 60
_LAST_RETRY: Final = 600


class Inspected(NamedTuple):
    """Results of inspects by container id.

    `containers` has the inspected containers, `errors` the failed inspects, and `gone` the ids that no longer
    exist. `instead` has containers from the list whose inspect gave no answer; none if the list failed, too.
    """

    containers: dict[str, Container]
    gone: set[str]
    errors: dict[str, EngineError]
    instead: dict[str, Container]

    @property
    def denied(self) -> bool:
        """Whether the engine or a proxy denied an inspect."""
        return any(error.reason == "denied" for error in self.errors.values())


class Questions:
    """Requests an engine's containers; lists are rows by id and must not be changed.

    `expensive` tells whether the engine looks up an image for each container that it lists; it is `None`
    until a container has shown it. `unreadable` counts the rows of the last list without a valid id or with
    a repeated one. The caller counts each `EngineError` that is raised.
    """

    def __init__(self, engine: Engine, settings: Settings, counts: Counts) -> None:
        self._engine = engine
        self._settings = settings
        self._counts = counts
        self._stalled: dict[str, tuple[float, float]] = {}
        self.health_listed = True
        self.expensive: bool | None = None
        self.unreadable = 0

    def reset(self, info: EngineInfo) -> None:
        """Reset the state for another engine."""
        self.health_listed = not info.is_podman
        self.expensive = None
        self._stalled.clear()

    def count(self, error: EngineError) -> None:
        """Count an error."""
        self._counts.failed(error.endpoint, error.reason)

    def whole_list(self, deadline: float) -> dict[str, Row]:
        """List all containers, in pages if that is expensive; each page may take the whole timeout."""
        paged = self.expensive is not False
        rows = self._list(deadline, limit=_PAGE if paged else -1)
        if any(row.described_image for row in rows.values()):
            self.expensive = True
        elif rows and self.expensive is None:
            self.expensive = False
        if not paged or len(rows) < _PAGE:
            return rows
        return self._further_pages(rows) if self.expensive else self._list(deadline)

    def listed_since(self, anchor: str, deadline: float) -> dict[str, Row] | None:
        """List the containers created after the one with this id; `None` if that one is gone."""
        return self._list_relative(anchor, deadline, since=[anchor])

    def inspect(
        self, ids: Collection[str], deadline: float, listed: Mapping[str, Row]
    ) -> Inspected:
        """Inspect containers, except those whose inspect timed out lately.

        `listed` has the rows of this poll, if any. Raises `EngineError` if neither an inspect nor the list is
        answered.
        """
        now = time.monotonic()
        due = [i for i in ids if i not in self._stalled or self._stalled[i][0] <= now]
        # Leave time to list the containers that are not inspected in time.
        deadline -= self._settings.docker_timeout
        found = Inspected({}, set(), {}, {})
        answers = self._engine.inspect(due, deadline, _INSPECT_SECONDS, self._read_inspect)
        for container_id, answer in answers.items():
            if not isinstance(answer, EngineError):
                found.containers[container_id] = answer
                self._stalled.pop(container_id, None)
            elif answer.reason == "not_found":
                found.gone.add(container_id)
            else:
                found.errors[container_id] = answer
        unanswered = [i for i in ids if i not in found.containers and i not in found.gone]
        if unanswered and not (found.denied and not listed):
            self._list_instead(unanswered, found, listed)
        for error in found.errors.values():
            self.count(error)
        return found

    def _further_pages(self, rows: dict[str, Row]) -> dict[str, Row]:
        anchors = [*rows]
        while anchors:
            deadline = time.monotonic() + self._settings.docker_timeout
            page = self._list_relative(
                anchors[-1], deadline, before=[anchors[-1]], limit=_PAGE
            )
            if page is None:
                anchors.pop()
            else:
                rows = rows | page
                anchors = [*page] if len(page) == _PAGE else []
        return rows

    def _list_relative(
        self, anchor: str, deadline: float, **options: Any
    ) -> dict[str, Row] | None:
        """List relative to a container; `None` if it is gone: a 404, or a 500 on Docker 20.10 and Podman."""
        try:
            return self._list(deadline, **options)
        except EngineError as error:
            if error.status in (404, 500) and not self._list(deadline, id=[anchor]):
                return None
            raise

    def _list(self, deadline: float, **options: Any) -> dict[str, Row]:
        if self._settings.container_health_filter_label:
            options["label"] = [LABEL]
        rows: dict[str, Row] = self._engine.list(deadline, self._read_rows, **options)
        return rows

    def _read_rows(self, answer: Sequence[Any]) -> dict[str, Row]:
        keys = self._settings.container_labels
        read = (read_row(row, keys, health_listed=self.health_listed) for row in answer)
        rows = {row.container.id: row for row in read if row is not None}
        self.unreadable = len(answer) - len(rows)
        return rows

    def _read_inspect(self, container_id: str, answer: dict[str, Any]) -> Container:
        container = read_inspect(answer, self._settings.container_labels)
        if container is None or container.id != container_id or not container.state:
            raise BadAnswerError("it names another container, or no state")
        self.expensive = self.expensive or stores_images_in_containerd(answer)
        return container

    def _list_instead(
        self, unanswered: Sequence[str], found: Inspected, listed: Mapping[str, Row]
    ) -> None:
        """Add the containers from the list to `found`; a container that is not listed is gone."""
        rows = {i: listed[i] for i in unanswered if i in listed}
        failed = {i for i, error in found.errors.items() if error.status == 500}
        doubtful = [i for i in unanswered if i not in rows or i in failed]
        try:
            answer = self._list_by_id(doubtful)
        except EngineError as error:
            if not found.containers:
                raise
            self.count(error)
        else:
            rows |= answer
            found.gone.update(set(doubtful) - answer.keys())
        for container_id in unanswered:
            if container_id in found.gone:
                found.errors.pop(container_id, None)
            elif container_id in rows:
                found.instead[container_id] = rows[container_id].container
                self._note_stalled(container_id, found.errors.get(container_id))

    def _list_by_id(self, ids: Sequence[str]) -> dict[str, Row]:
        deadline = time.monotonic() + self._settings.docker_timeout
        rows: dict[str, Row] = {}
        for start in range(0, len(ids), _PAGE):
            rows |= self._list(deadline, id=ids[start : start + _PAGE])
        return rows

    def _note_stalled(self, container_id: str, error: EngineError | None) -> None:
        """Delay the next inspect after a timeout: moby keeps each abandoned inspect of a locked container."""
        if error is not None and error.reason == "timeout":
            _, pause = self._stalled.get(container_id, (0, _FIRST_RETRY / 2))
            pause = min(2 * pause, _LAST_RETRY)
            self._stalled[container_id] = time.monotonic() + pause, pause
