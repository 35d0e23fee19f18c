"""The loop: when to poll, what to publish as a `Snapshot`, and what to log."""

from __future__ import annotations

import time
from dataclasses import replace
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
from docker_prom_exporter.engine import LISTING_IS_EXPENSIVE, EngineError, advise
from docker_prom_exporter.intervals import each_interval
from docker_prom_exporter.snapshot import Counts, Failure, Snapshot
from docker_prom_exporter.watching import why_none_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from docker_prom_exporter.collect import Found
    from docker_prom_exporter.containers import Container
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo

_RETRIED_REASONS: Final = ("unreachable", "bad_response", "error")


class Poller:
    """Polls an engine. One thread calls `run` or `poll`; any may read `snapshot`, replaced as a whole.

    A poll may take `poll_interval` plus `docker_timeout`, which is less than a snapshot is trusted for. Once
    `stop` is set, nothing is published. `on_poll` is called with each snapshot after it is published; the
    next poll waits until it returns.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        stop: Event,
        on_poll: Callable[[Snapshot], object] = lambda _: None,
    ) -> None:
        self._engine = engine
        self.settings = settings
        self._stop = stop
        self._on_poll = on_poll
        self._info: EngineInfo | None = None
        self._misread: set[str] = set()
        self._misspelled: set[str] = set()
        self._last_logged: dict[str, Any] = {}
        self._counts = Counts(requests=engine.requests)
        self._collector = Collector(engine, settings, self._counts)
        self._log = structlog.get_logger()
        self._retrying = Retrying(
            stop=stop_any(stop_after_attempt(2), stop_when_event_set(stop)),
            wait=wait_fixed(0.1),
            sleep=sleep_using_event(stop),
            retry=retry_if_exception(
                lambda e: isinstance(e, EngineError) and e.reason in _RETRIED_REASONS
            ),
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
        for _ in each_interval(self.settings.poll_interval, self._stop):
            self.poll()

    def poll(self) -> Snapshot:
        """Poll once, publish the snapshot and return it; no error of the engine is raised."""
        began = time.monotonic()
        deadline = began + self.settings.poll_interval + self.settings.docker_timeout
        try:
            found = self._found(self._retrying(self._find, deadline))
            self._counts.polls["success"] += 1
        except Exception as error:  # noqa: BLE001  no error may end the polling
            found = self._lost(error)
            self._counts.polls["failure"] += 1
        if not self._stop.is_set():
            ended, before = time.monotonic(), self.snapshot
            self.snapshot = replace(
                found,
                ended=ended,
                polled=True,
                since=before.since if before.polled and before.up == found.up else time.time(),
                duration=ended - began,
                counts=self._counts.copy(),
            )
            self.first_poll_ended.set()
            self._on_poll(self.snapshot)
        return self.snapshot

    def _find(self, deadline: float) -> Found:
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

    def _found(self, found: Found) -> Snapshot:
        self._log_found(found)
        return replace(
            self.snapshot,
            up=True,
            listed=True,
            failure=None,
            engine=self._info,
            mode=found.mode,
            containers=found.containers,
            unwatched=found.unwatched,
            last_success=time.time(),
        )

    def _lost(self, error: Exception) -> Snapshot:
        """Keep the last containers, with unknown health; Docker is up if it answered the ping."""
        if not isinstance(error, EngineError):
            self._engine.disconnect()
            self._log.error("poll.failed", exc_info=error)
            return replace(self.snapshot.distrusted(), failure=None)
        up = error.endpoint in ("list", "inspect")
        failure = self._failure(error)
        event = "containers.unknown" if up else "docker.lost"
        if not self._stop.is_set() and self._has_changed(
            "docker", (event, error.reason == "denied")
        ):
            self._log.warning(event, **_explain(failure))
        return replace(self.snapshot.distrusted(), up=up, failure=failure, engine=self._info)

    def _failure(self, error: EngineError) -> Failure:
        return Failure(
            error.endpoint, error.reason, error.detail, advise(error, self._engine.url)
        )

    def _log_found(self, found: Found) -> None:
        info = self._info
        if info is not None and self._has_changed("docker", (info, found.mode)):
            self._log.info(
                "docker.found",
                engine=info.name,
                version=info.version,
                api_version=info.api_version,
                mode=found.mode,
                watched=len(found.containers),
            )
        self._warn_none_watched(found)
        self._warn(
            "containers.listing_is_expensive", found.costly, advice=LISTING_IS_EXPENSIVE
        )
        rows = found.unreadable
        self._warn("containers.rows_ignored", rows, rows=rows, cause="no id, or another row's")
        for container_id in found.misread.keys() - self._misread:
            name = found.misread[container_id]
            self._log.warning(
                "container.label_ignored", name=name, label=LABEL, takes="true or false"
            )
        self._misread = {*found.misread}
        self._warn_similar_labels(found.containers)
        # One warning for each reason, not for each container and poll.
        by_reason = {error.reason: error for error in found.errors.values()}
        if self._has_changed("inspect", {*by_reason}):
            for error in by_reason.values():
                explained = _explain(self._failure(error))
                self._log.warning(
                    "containers.details_missing", containers=len(found.errors), **explained
                )

    def _warn_none_watched(self, found: Found) -> None:
        advice = ""
        if not found.containers:
            why = why_none_watched(
                only_labelled=self.settings.container_health_filter_label,
                unwatched=found.unwatched,
            )
            advice = f"{why}; docker-prom-exporter check shows all containers"
        self._warn("containers.none_watched", advice, advice=advice)

    def _warn_similar_labels(self, containers: Iterable[Container]) -> None:
        """Warn of misspelled labels, of which the poll knows only without the filter by label."""
        misspelled = {}
        for container in containers:
            if container.similar_label:
                misspelled[container.id] = container
        for container_id in misspelled.keys() - self._misspelled:
            container = misspelled[container_id]
            self._log.warning(
                "container.label_unknown",
                name=container.name,
                label=container.similar_label,
                similar=LABEL,
            )
        self._misspelled = {*misspelled}

    def _warn(self, event: str, value: object, **more: Any) -> None:
        """Warn when a value changes, unless it is false."""
        if self._has_changed(event, value) and value:
            self._log.warning(event, **more)

    def _has_changed(self, topic: str, value: Any) -> bool:
        """Store a topic's value and return whether it has changed: a state is logged when it changes."""
        before, self._last_logged[topic] = self._last_logged.get(topic), value
        return bool(before != value)


def _explain(failure: Failure) -> dict[str, str]:
    """Return the keys and values that a log line has for a failure, without empty ones."""
    return {key: text for key, text in failure._asdict().items() if text}
