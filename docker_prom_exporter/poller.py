"""Owns the loop: asks the engine, knows which containers to inspect, and publishes a `Snapshot`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_fixed,
)

from docker_prom_exporter.booleans import parse_boolean
from docker_prom_exporter.containers import LABEL, is_watched
from docker_prom_exporter.engine import NONE_WATCHED, EngineError, advise
from docker_prom_exporter.snapshot import Counts, Failure, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker_prom_exporter.containers import Container, Details, Row
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo

_INSPECTS_AT_A_TIME: Final = 4
_SECONDS_TO_RETRY: Final = 0.1
_MAY_PASS: Final = ("unreachable", "bad_response", "error")


class _Listing(NamedTuple):
    """The rows, and the monotonic times between which the engine wrote them."""

    rows: list[Row | None]
    asked: float
    answered: float


@dataclass(slots=True)
class _Known:
    """What a container was last inspected for, and what that said.

    It holds as of `holds_at`, a monotonic time, and still does if the container has since got too old to have
    been started or stopped in between: that tells a restart which leaves no other trace in the row. `settled`
    is whether the inspect fits the row: it may tell a later state than the list did, and then has to be asked
    again, unless it tells the same twice, as moby does of a container it failed to remove.
    """

    row: Row
    details: Details
    container: Container
    settled: bool
    holds_at: float

    def still_holds(self, row: Row, listing: _Listing) -> bool:
        if self.row.fingerprint != row.fingerprint or listing.answered - row.min_age > self.holds_at:
            return False
        self.holds_at = listing.asked
        return True

    def described_by(self, row: Row) -> Container:
        """Return the container as the row has it, with what was known; the same object for the same row."""
        if row is not self.row:
            self.row, self.container = row, row.container.with_details(self.details)
        return self.container


class Poller:
    """Polls an engine. One thread calls `run` or `poll`; any may read `snapshot`, which is swapped whole.

    A poll has its deadline one interval after the timeout of a single request, well before a snapshot stops
    being trusted. Once `stop` is set nothing is published any more. `on_poll` is called after each snapshot
    is published and must return at once.
    """

    def __init__(
        self, engine: Engine, settings: Settings, stop: Event, on_poll: Callable[[], object] = lambda: None
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._stop = stop
        self._on_poll = on_poll
        self._info: EngineInfo | None = None
        self._known: dict[str, _Known] = {}
        self._inspects_failing: frozenset[str] = frozenset()
        self._spoilt_labels: frozenset[str] = frozenset()
        self._last_told: dict[str, Any] = {}
        self._counts = Counts()
        self._log = structlog.get_logger()
        self._retrying = Retrying(
            stop=stop_any(stop_after_attempt(2), stop_when_event_set(stop)),
            wait=wait_fixed(_SECONDS_TO_RETRY),
            sleep=sleep_using_event(stop),
            retry=retry_if_exception(lambda e: isinstance(e, EngineError) and e.reason in _MAY_PASS),
            reraise=True,
        )
        self.first_poll_ended = Event()
        self.snapshot = Snapshot(
            ended=time.monotonic(),
            trusted_for=3 * settings.poll_interval + settings.docker_timeout,
            polled=False,
        )

    def run(self) -> None:
        """Poll once an interval until `stop` is set."""
        due = time.monotonic()
        while not self._stop.is_set():
            self.poll()
            due = max(due + self._settings.poll_interval, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def poll(self) -> Snapshot:
        """Poll once, and publish and return what was found; nothing the engine does makes it raise."""
        began = time.monotonic()
        try:
            found = self._find(began + self._settings.poll_interval + self._settings.docker_timeout)
            self._counts.polls["success"] += 1
        except Exception as error:  # noqa: BLE001  a monitor that dies of what it meets is none
            found = self._lose(error)
            self._counts.polls["failure"] += 1
        if not self._stop.is_set():
            ended = time.monotonic()
            self.snapshot = replace(
                found,
                ended=ended,
                polled=True,
                since=self._since(up=found.up),
                duration=ended - began,
                counts=self._counts.copy(),
            )
            self.first_poll_ended.set()
            self._on_poll()
        return self.snapshot

    def _since(self, *, up: bool) -> float:
        """Return the Unix time of the last change of `up`, be it now."""
        before = self.snapshot
        return before.since if before.polled and before.up == up else time.time()

    def _find(self, deadline: float) -> Snapshot:
        listing: _Listing = self._retrying(self._list, deadline)
        rows = self._distinct(listing.rows)
        watched = self._watched(rows)
        containers = self._complete(watched, listing, deadline)
        self._tell_found(containers=len(rows), watched=len(watched))
        return replace(
            self.snapshot,
            up=True,
            listed=True,
            failure=None,
            engine=self._info,
            containers=containers,
            seen=len(rows),
            last_success=time.time(),
        )

    def _lose(self, error: Exception) -> Snapshot:
        """Keep the containers last seen, their health unknown; where only the list failed, Docker is up."""
        if not isinstance(error, EngineError):
            self._engine.disconnect()
            self._log.error("poll.failed", exc_info=error)
            return replace(self.snapshot.distrusted(), failure=None)
        up = error.endpoint == "list"
        failure = self._failure(error)
        event = "containers.unknown" if up else "docker.lost"
        if not self._stop.is_set() and self._is_news("docker", (event, error.reason == "denied")):
            self._log.warning(event, **_explain(failure))
        return replace(self.snapshot.distrusted(), up=up, failure=failure, engine=self._info)

    def _failure(self, error: EngineError) -> Failure:
        return Failure(error.endpoint, error.reason, error.detail, advise(error, self._engine.url))

    def _list(self, deadline: float) -> _Listing:
        try:
            if not self._engine.connected:
                self._connect(deadline)
            if not self._ask("ping", self._engine.ping, deadline):
                self._connect(deadline)
                self._ask("ping", self._engine.ping, deadline)
            asked = time.monotonic()
            rows = self._ask("list", self._engine.containers, deadline)
            return _Listing(rows, asked, time.monotonic())
        except EngineError:
            self._engine.disconnect()
            raise

    def _connect(self, deadline: float) -> None:
        self._info = self._ask("version", self._engine.connect, deadline)

    def _ask(self, endpoint: str, question: Callable[[float], Any], deadline: float) -> Any:
        self._counts.requests[endpoint] += 1
        try:
            return question(deadline)
        except EngineError as error:
            self._counts.errors[error.endpoint, error.reason] += 1
            raise

    def _distinct(self, listed: list[Row | None]) -> list[Row]:
        """Leave out the rows that name no container, or one named already: they'd spoil the scrape."""
        rows = {row.container.id: row for row in listed if row is not None}
        ignored = len(listed) - len(rows)
        if self._is_news("rows ignored", ignored) and ignored:
            self._log.warning("containers.rows_ignored", rows=ignored, cause="no id, or another row's")
        return list(rows.values())

    def _watched(self, rows: list[Row]) -> list[Row]:
        spoilt = {row.container.id: row for row in rows if row.label and parse_boolean(row.label) is None}
        for container_id in spoilt.keys() - self._spoilt_labels:
            name = spoilt[container_id].container.name
            self._log.warning("container.label_ignored", name=name, label=LABEL, takes="true or false")
        self._spoilt_labels = frozenset(spoilt)
        only_labelled = self._settings.container_health_filter_label
        return [row for row in rows if is_watched(row.label, only_labelled=only_labelled)]

    def _complete(self, rows: list[Row], listing: _Listing, deadline: float) -> tuple[Container, ...]:
        """Add to the rows what only an inspect can say, asking for it only where it can have changed."""
        wanted = self._settings.container_details
        self._known = {
            row.container.id: known
            for row in rows
            if not row.health_hidden
            and (known := self._known.get(row.container.id))
            and known.still_holds(row, listing)
        }
        settled = {container_id for container_id, known in self._known.items() if known.settled}
        due = [row for row in rows if row.health_hidden or (wanted and row.container.id not in settled)]
        answers = self._inspect(due, deadline)
        return tuple(
            container for row in rows if (container := self._completed(row, listing, answers)) is not None
        )

    def _completed(self, row: Row, listing: _Listing, answers: dict[str, Details | None]) -> Container | None:
        """Return the container of a row, with its details where they are known; None where it is gone."""
        known = self._known.get(row.container.id)
        if row.container.id not in answers:
            return known.described_by(row) if known and known.settled else row.container
        details = answers[row.container.id]
        if details is None:
            return None
        container = row.with_health_of(details) if row.health_hidden else row.container
        if self._settings.container_details:
            container = container.with_details(details)
        settled = details.state == container.state or (known is not None and known.details == details)
        self._known[row.container.id] = _Known(row, details, container, settled, listing.answered)
        return container

    def _inspect(self, rows: list[Row], deadline: float) -> dict[str, Details | None]:
        """Inspect a few at a time, those that failed last time at the end; None for one that is gone.

        Where an inspect failed there is no entry. Once one is denied, the rest are not asked for.
        """
        todo = iter(sorted((row.container.id for row in rows), key=self._inspects_failing.__contains__))
        answers: dict[str, Details | None] = {}
        errors: dict[str, EngineError] = {}
        denied = Event()

        def work(_: int) -> None:
            while not denied.is_set() and (container_id := next(todo, None)):
                try:
                    answers[container_id] = self._engine.inspect(container_id, deadline)
                except EngineError as error:
                    errors[container_id] = error
                    if error.reason == "denied":
                        denied.set()

        with ThreadPoolExecutor(_INSPECTS_AT_A_TIME) as pool:
            list(pool.map(work, range(min(_INSPECTS_AT_A_TIME, len(rows)))))
        self._counts.requests["inspect"] += len(answers) + len(errors)
        self._note_inspects_failed(errors)
        return answers

    def _note_inspects_failed(self, errors: dict[str, EngineError]) -> None:
        """Count each failure, and say it once for each reason, not for each container and poll."""
        self._inspects_failing = frozenset(errors)
        by_reason = {error.reason: error for error in errors.values()}
        for error in errors.values():
            self._counts.errors[error.endpoint, error.reason] += 1
        if self._is_news("inspect", frozenset(by_reason)):
            for error in by_reason.values():
                self._log.warning(
                    "containers.details_missing", containers=len(errors), **_explain(self._failure(error))
                )

    def _tell_found(self, *, containers: int, watched: int) -> None:
        info = self._info
        if info is not None and self._is_news("docker", info):
            self._log.info(
                "docker.found",
                engine=info.name,
                version=info.version,
                api_version=info.api_version,
                containers=containers,
                watched=watched,
            )
        if self._is_news("none watched", not watched) and not watched:
            self._log.warning("containers.none_watched", containers=containers, advice=NONE_WATCHED)

    def _is_news(self, topic: str, value: Any) -> bool:
        """Tell whether a topic's value differs from its last: a state is logged when it changes."""
        if topic in self._last_told and self._last_told[topic] == value:
            return False
        self._last_told[topic] = value
        return True


def _explain(failure: Failure) -> dict[str, str]:
    """Return what a log line says of a failure; what nobody can tell is left out."""
    return {key: text for key, text in failure._asdict().items() if text}
