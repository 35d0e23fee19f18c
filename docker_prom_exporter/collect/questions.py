"""The lists and inspects of a poll: counted, read, and asked in another way where one fails."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from docker_prom_exporter.containers import read_container, read_row, stores_images_in_containerd
from docker_prom_exporter.engine import EngineError

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
    """What became of some inspects.

    `containers` has those that answered, `errors` why others did not, and `gone` those that no longer exist.
    `instead` has what is known without an inspect: what the list says, or, where that failed too, the
    container as it was last seen, without its state.
    """

    containers: dict[str, Container]
    gone: set[str]
    errors: dict[str, EngineError]
    instead: dict[str, Container]

    @property
    def denied(self) -> bool:
        """Whether the engine or a proxy does not allow inspects."""
        return any(error.reason == "denied" for error in self.errors.values())


class Questions:
    """Asks an engine for its containers.

    `expensive` tells whether the engine looks up an image for each container that it lists; `None` as long as
    no container has told. `unreadable` counts the rows of the last list that named no container of their own.
    """

    def __init__(self, engine: Engine, settings: Settings, counts: Counts) -> None:
        self._engine = engine
        self._settings = settings
        self._counts = counts
        self._stalled: dict[str, tuple[float, float]] = {}
        self._read: tuple[Sequence[Any], list[Row]] = ((), [])
        self.health_listed = True
        self.expensive: bool | None = None
        self.unreadable = 0

    def meet(self, info: EngineInfo) -> None:
        """Begin anew with another engine."""
        self.health_listed = not info.is_podman
        self.expensive = None
        self._stalled.clear()
        self._read = (), []

    def whole_list(self, deadline: float) -> list[Row]:
        """List all containers; where that is expensive in pages, each of which may take the timeout."""
        paged = self.expensive is not False
        rows = self._list(deadline, limit=_PAGE if paged else -1)
        if any(row.described_image for row in rows):
            self.expensive = True
        elif rows and self.expensive is None:
            self.expensive = False
        if not paged or len(rows) < _PAGE:
            return rows
        return self._further_pages(rows) if self.expensive else self._list(deadline)

    def listed_since(self, anchor: str, deadline: float) -> list[Row] | None:
        """List the containers created after this one; `None` where it is gone."""
        return self._relative(deadline, since=anchor)

    def inspect(
        self,
        ids: Collection[str],
        deadline: float,
        *,
        last_seen: Mapping[str, Container],
        listed: Mapping[str, Row],
    ) -> Inspected:
        """Inspect these containers, but for those whose inspect hung lately.

        `last_seen` has them as they were in an earlier poll, `listed` the rows of this one, if any. Raises
        `EngineError` where neither an inspect nor the list answers.
        """
        now = time.monotonic()
        due = [i for i in ids if i not in self._stalled or self._stalled[i][0] <= now]
        # What is not inspected in time is to be listed in time.
        deadline -= self._settings.docker_timeout
        answers = self._engine.inspect(due, deadline, _INSPECT_SECONDS, self._read_inspect)
        self._counts.requests["inspect"] += len(answers)
        found = self._sorted(answers)
        unanswered = [i for i in ids if i not in found.containers and i not in found.gone]
        if unanswered and not (found.denied and not listed):
            self._ask_the_list(unanswered, found, last_seen, listed)
        for error in found.errors.values():
            self._counts.failed(error.endpoint, error.reason)
        return found

    def _further_pages(self, rows: list[Row]) -> list[Row]:
        pages, anchors = {row.container.id: row for row in rows}, rows
        while anchors:
            deadline = time.monotonic() + self._settings.docker_timeout
            page = self._relative(deadline, before=anchors[-1].container.id, limit=_PAGE)
            if page is None:
                anchors = anchors[:-1]
            else:
                pages.update((row.container.id, row) for row in page)
                anchors = page if len(page) == _PAGE else []
        return [*pages.values()]

    def _relative(self, deadline: float, **options: Any) -> list[Row] | None:
        """List relative to a container. One that is gone is a 404, or a 500 on Docker 20.10 and Podman."""
        try:
            return self._rows(deadline, **options)
        except EngineError as error:
            anchor = options.get("since") or options["before"]
            if error.status in (404, 500) and not self._listed([anchor], deadline):
                return None
            self._counts.failed(error.endpoint, error.reason)
            raise

    def _listed(self, ids: Sequence[str], deadline: float) -> list[Row]:
        pages = (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE))
        return [row for page in pages for row in self._list(deadline, ids=page)]

    def _list(self, deadline: float, **options: Any) -> list[Row]:
        try:
            return self._rows(deadline, **options)
        except EngineError as error:
            self._counts.failed(error.endpoint, error.reason)
            raise

    def _rows(self, deadline: float, **options: Any) -> list[Row]:
        """Ask for a list and read it; one that is the same object as the last is not read again."""
        self._counts.requests["list"] += 1
        answer = self._engine.list(deadline, labelled=self._settings.container_health_filter_label, **options)
        if answer is not self._read[0]:
            self._read = answer, self._readable(answer)
        return self._read[1]

    def _readable(self, answer: Sequence[Any]) -> list[Row]:
        keys = self._settings.container_labels
        read = (read_row(row, keys, health_listed=self.health_listed) for row in answer)
        rows = {row.container.id: row for row in read if row is not None}
        self.unreadable = len(answer) - len(rows)
        return [*rows.values()]

    def _read_inspect(self, answer: dict[str, Any]) -> tuple[Container | None, bool]:
        container = read_container(answer, self._settings.container_labels)
        return container, stores_images_in_containerd(answer)

    def _sorted(self, answers: Mapping[str, Any]) -> Inspected:
        found = Inspected({}, set(), {}, {})
        for container_id, answer in answers.items():
            if isinstance(answer, EngineError):
                if answer.reason == "not_found":
                    found.gone.add(container_id)
                else:
                    found.errors[container_id] = answer
                continue
            container, expensive = answer
            if container is None or container.id != container_id or not container.state:
                detail = "it names another container, or no state"
                found.errors[container_id] = EngineError("inspect", "bad_response", detail)
                continue
            self.expensive = expensive or self.expensive
            found.containers[container_id] = container
            self._stalled.pop(container_id, None)
        return found

    def _ask_the_list(
        self,
        unanswered: list[str],
        found: Inspected,
        last_seen: Mapping[str, Container],
        listed: Mapping[str, Row],
    ) -> None:
        """Take from the list what it says of these containers. One that it does not name is gone."""
        rows = {i: listed[i] for i in unanswered if i in listed}
        doubtful = [i for i in unanswered if i not in rows or _is_500(found.errors.get(i))]
        if doubtful and (answer := self._listed_if_possible(doubtful, found)) is not None:
            rows |= answer
            for container_id in set(doubtful) - answer.keys():
                found.gone.add(container_id)
                found.errors.pop(container_id, None)
        for container_id in unanswered:
            if container_id in rows:
                found.instead[container_id] = rows[container_id].container
                self._note_stalled(container_id, found.errors.get(container_id))
            elif container_id in last_seen and container_id not in found.gone:
                found.instead[container_id] = last_seen[container_id].without_verdict()

    def _listed_if_possible(self, ids: Sequence[str], found: Inspected) -> dict[str, Row] | None:
        try:
            rows = self._listed(ids, time.monotonic() + self._settings.docker_timeout)
        except EngineError:
            if not found.containers:
                raise
            return None
        return {row.container.id: row for row in rows}

    def _note_stalled(self, container_id: str, error: EngineError | None) -> None:
        """Put off the next inspect of a container whose lock is held: moby keeps each that is given up."""
        if error is not None and error.reason == "timeout":
            _, pause = self._stalled.get(container_id, (0, _FIRST_RETRY / 2))
            pause = min(2 * pause, _LAST_RETRY)
            self._stalled[container_id] = time.monotonic() + pause, pause


def _is_500(error: EngineError | None) -> bool:
    return error is not None and error.status == 500
