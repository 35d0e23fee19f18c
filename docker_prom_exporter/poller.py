"""The loop: when to poll, what to publish as a `Snapshot`, and what to log."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final

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

from docker_prom_exporter.collect import Collector
from docker_prom_exporter.containers import LABEL
from docker_prom_exporter.deadline import Deadline
from docker_prom_exporter.engine import LISTING_IS_EXPENSIVE, EngineError, advise
from docker_prom_exporter.intervals import each_interval
from docker_prom_exporter.snapshot import Counts, Failure, Snapshot
from docker_prom_exporter.watching import why_none_watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker_prom_exporter.collect import PollResult
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo

_REPORT_IT: Final = "this is a fault of the exporter: report it, with the stack in its log"
_SLOW: Final = (
    "polls take longer than POLL_INTERVAL, and what is left is inspected first in the next one: "
    "raise POLL_INTERVAL, or watch fewer containers"
)
_RETRIED_REASONS: Final = ("unreachable", "bad_response", "error")


class Poller:
    """Polls an engine. One thread calls `run` or `poll`; any may read `snapshot`.

    Once `stop` is set, nothing is published. `on_poll` is called with each snapshot after it is
    published; the next poll waits until it returns.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        stop: Event,
        on_poll: Callable[[Snapshot], object] = lambda _: None,
    ) -> None:
        interval, timeout = settings.poll_interval, settings.docker_timeout
        self.settings = settings
        self.first_poll_ended = Event()

        # The result of the last poll, replaced as a whole. A poll ends before two intervals
        # and two timeouts have passed since the last one.
        self.snapshot = Snapshot(
            ended=time.monotonic(), trusted_for=3 * interval + 2 * timeout, polled=False
        )

        self._engine = engine
        self._stop = stop
        self._on_poll = on_poll
        self._info: EngineInfo | None = None
        self._counts = Counts(requests=engine.requests)
        self._collector = Collector(engine, settings, self._counts)

        # The last value of each topic of the log, since a state is logged when it changes.
        self._last_logged: dict[str, Any] = {}
        self._log = structlog.get_logger()

        # The second attempt of a poll is for an engine that was restarted since the last one.
        self._retrying = Retrying(
            stop=stop_any(stop_after_attempt(2), stop_when_event_set(stop)),
            wait=wait_fixed(0.1),
            sleep=sleep_using_event(stop),
            retry=retry_if_exception(
                lambda e: isinstance(e, EngineError) and e.reason in _RETRIED_REASONS
            ),
            reraise=True,
        )

    def run(self) -> None:
        """Poll once an interval until `stop` is set."""
        for _ in each_interval(self.settings.poll_interval, self._stop):
            self.poll()

    def poll(self) -> Snapshot:
        """Poll once, publish the snapshot and return it; no error is raised."""
        began = time.monotonic()
        # The reserve is for lists in place of inspects that were not answered.
        timeout = self.settings.docker_timeout
        deadline = Deadline.after(self.settings.poll_interval + timeout, reserve=timeout)
        try:
            snapshot = self._succeeded(self._retrying(self._collect, deadline))
        except EngineError as error:
            snapshot = self._failed(error)
        except Exception as error:  # noqa: BLE001  no error may end the polling
            snapshot = self._broke(error)
        if not self._stop.is_set():
            self._publish(snapshot, began)
        return self.snapshot

    def _publish(self, snapshot: Snapshot, began: float) -> None:
        ended, before = time.monotonic(), self.snapshot
        since = before.since
        if not before.polled or before.up != snapshot.up:
            since = time.time()
        self.snapshot = replace(
            snapshot,
            ended=ended,
            polled=True,
            since=since,
            duration=ended - began,
            counts=self._counts.copy(),
        )
        self.first_poll_ended.set()
        try:
            self._on_poll(self.snapshot)
        except Exception as error:  # noqa: BLE001  no error may end the polling
            self._log_unexpected("snapshot.not_published", error)

    def _collect(self, deadline: Deadline) -> PollResult:
        """Connect if necessary, ping and find the containers."""
        try:
            if self._info is None or not self._engine.connected:
                self._info = self._engine.connect(deadline)
            pong = self._engine.ping(deadline)
            if not pong.same_engine:
                self._info = self._engine.connect(deadline)
                pong = self._engine.ping(deadline)
            return self._collector.collect(self._info, pong.date, deadline)
        except EngineError as error:
            self._counts.failed(error.endpoint, error.reason)
            self._engine.disconnect()
            raise

    def _succeeded(self, result: PollResult) -> Snapshot:
        """Return the snapshot of a poll; without the list of new containers it has failed."""
        self._log_result(result)
        complete = result.list_error is None
        self._counts.polls["success" if complete else "failure"] += 1
        return replace(
            self.snapshot,
            up=True,
            listed=True,
            failure=None if result.list_error is None else self._failure(result.list_error),
            engine=self._info,
            mode=result.mode,
            containers=result.containers,
            unwatched=result.unwatched,
            postponed=result.postponed,
            last_success=time.time() if complete else self.snapshot.last_success,
        )

    def _failed(self, error: EngineError) -> Snapshot:
        """Keep the last containers, with unknown health; Docker is up if it answered the ping."""
        self._counts.polls["failure"] += 1
        up = error.endpoint in ("list", "inspect")
        failure = self._failure(error)
        event = "containers.unknown" if up else "docker.lost"
        if self._has_changed("docker", (event, error.reason == "denied")):
            self._warn(event, **_explain(failure))
        return replace(self.snapshot.distrusted(), up=up, failure=failure, engine=self._info)

    def _broke(self, error: Exception) -> Snapshot:
        """Keep the last containers, with unknown health: an error of the exporter itself."""
        self._counts.polls["failure"] += 1
        self._engine.disconnect()
        self._log_unexpected("poll.failed", error)
        failure = Failure("exporter", "error", _place(error), _REPORT_IT)
        return replace(self.snapshot.distrusted(), failure=failure)

    def _failure(self, error: EngineError) -> Failure:
        advice = advise(error, self._engine.url)
        return Failure(error.endpoint, error.reason, error.detail, advice)

    def _log_result(self, result: PollResult) -> None:
        info, mode = self._info, result.mode
        if info is not None and self._has_changed("docker", (info, mode)):
            self._log.info(
                "docker.found",
                engine=info.name,
                version=info.version,
                api_version=info.api_version,
                mode=mode.name,
                reason=mode.reason,
                watched=len(result.containers),
            )
            expensive = mode.reason != "engine" and not info.is_podman
            self._warn_of(
                "containers.listing_is_expensive", expensive, advice=LISTING_IS_EXPENSIVE
            )
        self._log_none_watched(result)
        self._warn_of(
            "containers.rows_ignored",
            result.unreadable,
            rows=result.unreadable,
            cause="no id, or another row's",
        )
        self._warn_of(
            "polls.slow",
            result.postponed > 0,
            inspects_postponed=result.postponed,
            advice=_SLOW,
        )
        self._log_invalid_labels(result)
        self._log_similar_labels(result)
        self._log_missing_details(result)
        self._log_list_error(result.list_error)

    def _log_invalid_labels(self, result: PollResult) -> None:
        known = self._last_logged.get("labels", ())
        for container_id, name in result.invalid_labels.items():
            if container_id not in known:
                takes = "true or false"
                self._warn("container.label_ignored", name=name, label=LABEL, takes=takes)
        self._last_logged["labels"] = {*result.invalid_labels}

    def _log_none_watched(self, result: PollResult) -> None:
        advice = ""
        if not result.containers:
            why = why_none_watched(
                only_labelled=self.settings.container_health_filter_label,
                unwatched=result.unwatched,
            )
            advice = f"{why}; docker-prom-exporter check shows all containers"
        self._warn_of("containers.none_watched", advice, advice=advice)

    def _log_similar_labels(self, result: PollResult) -> None:
        """Warn of misspelled labels, which a poll sees only without the filter by label."""
        known = self._last_logged.get("similar labels", ())
        misspelled = {c.id: c for c in result.containers if c.similar_label}
        for container_id, container in misspelled.items():
            if container_id not in known:
                self._warn(
                    "container.label_unknown",
                    name=container.name,
                    label=container.similar_label,
                    similar=LABEL,
                )
        self._last_logged["similar labels"] = {*misspelled}

    def _log_missing_details(self, result: PollResult) -> None:
        """Warn once for each reason, not for each container and poll."""
        by_reason = {error.reason: error for error in result.errors.values()}
        if self._has_changed("inspect", {*by_reason}):
            for error in by_reason.values():
                explained = _explain(self._failure(error))
                missing = len(result.errors)
                self._warn("containers.details_missing", containers=missing, **explained)

    def _log_list_error(self, error: EngineError | None) -> None:
        reason = None if error is None else error.reason
        if self._has_changed("new containers", reason) and error is not None:
            self._warn("containers.new_unknown", **_explain(self._failure(error)))

    def _log_unexpected(self, event: str, error: Exception) -> None:
        """Log where an error comes from once, until another one comes."""
        if self._has_changed(event, _place(error)):
            # Without the message, which may quote an answer of the engine.
            stack = "".join(traceback.format_tb(error.__traceback__))
            self._log.error(event, error=_place(error), stack=stack)

    def _warn(self, event: str, **more: Any) -> None:
        # A stop cuts requests; that is no failure.
        if not self._stop.is_set():
            self._log.warning(event, **more)

    def _warn_of(self, event: str, value: object, **more: Any) -> None:
        """Warn when a value changes, unless it is false."""
        if self._has_changed(event, value) and value:
            self._warn(event, **more)

    def _has_changed(self, topic: str, value: Any) -> bool:
        before, self._last_logged[topic] = self._last_logged.get(topic), value
        return bool(before != value)


def _explain(failure: Failure) -> dict[str, str]:
    """Return the keys and values that a log line has for a failure, without empty ones."""
    return {key: text for key, text in failure._asdict().items() if text}


def _place(error: Exception) -> str:
    """Return an error's type and place; its message may quote an answer of the engine."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    module = Path(place.filename).stem
    return f"unexpected {type(error).__name__} in {module}.{place.name}, line {place.lineno}"
