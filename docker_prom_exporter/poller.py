"""The loop: when to poll, what to publish as a `Snapshot`, and what to log."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Any, Final, TypeVar

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
from docker_prom_exporter.engine import LISTING_IS_EXPENSIVE, NONE_WATCHED, EngineError, advise
from docker_prom_exporter.snapshot import Counts, Failure, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from docker_prom_exporter.collect import Found
    from docker_prom_exporter.containers import Container
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo

T = TypeVar("T")

_ASK_CHECK: Final = "docker-prom-exporter check shows which are not watched, and why"
_RETRY_PAUSE: Final = 0.1
_MAY_PASS: Final = ("unreachable", "bad_response", "error")


class Poller:
    """Polls an engine. One thread calls `run` or `poll`; any may read `snapshot`, which is swapped whole.

    A poll's deadline is one interval after the timeout of a single request, well before a snapshot stops
    being trusted. Once `stop` is set nothing is published any more. `on_poll` gets each snapshot once it is
    published, and delays the next poll by what it takes.
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
        self._misread: frozenset[str] = frozenset()
        self._last_logged: dict[str, Any] = {}
        self._counts = Counts()
        self._collector = Collector(engine, settings, self._counts)
        self._log = structlog.get_logger()
        self._retrying = Retrying(
            stop=stop_any(stop_after_attempt(2), stop_when_event_set(stop)),
            wait=wait_fixed(_RETRY_PAUSE),
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
            due = max(due + self.settings.poll_interval, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def poll(self) -> Snapshot:
        """Poll once, and publish and return what was found; nothing the engine does makes it raise."""
        began = time.monotonic()
        deadline = began + self.settings.poll_interval + self.settings.docker_timeout
        try:
            found = self._found(self._retrying(self._find, deadline))
            self._counts.polls["success"] += 1
        except Exception as error:  # noqa: BLE001  a monitor must not die of what it meets
            found = self._lost(error)
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
            self._on_poll(self.snapshot)
        return self.snapshot

    def _since(self, *, up: bool) -> float:
        """Return the Unix time of the last change of `up`, be it now."""
        before = self.snapshot
        return before.since if before.polled and before.up == up else time.time()

    def _find(self, deadline: float) -> Found:
        try:
            info = self._info if self._engine.connected and self._info else self._connect(deadline)
            pong = self._count("ping", self._engine.ping, deadline)
            if not pong.same_engine:
                info = self._connect(deadline)
                pong = self._count("ping", self._engine.ping, deadline)
            return self._collector.collect(info, pong.date, deadline)
        except EngineError:
            self._engine.disconnect()
            raise

    def _connect(self, deadline: float) -> EngineInfo:
        self._info = self._count("version", self._engine.connect, deadline)
        return self._info

    def _count(self, endpoint: str, question: Callable[[float], T], deadline: float) -> T:
        self._counts.requests[endpoint] += 1
        try:
            return question(deadline)
        except EngineError as error:
            self._counts.failed(error.endpoint, error.reason)
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
        """Keep the containers last seen, their health unknown; where Docker answered the ping, it is up."""
        if not isinstance(error, EngineError):
            self._engine.disconnect()
            self._log.error("poll.failed", exc_info=error)
            return replace(self.snapshot.distrusted(), failure=None)
        up = error.endpoint in ("list", "inspect")
        failure = self._failure(error)
        event = "containers.unknown" if up else "docker.lost"
        if not self._stop.is_set() and self._is_news("docker", (event, error.reason == "denied")):
            self._log.warning(event, **_explain(failure))
        return replace(self.snapshot.distrusted(), up=up, failure=failure, engine=self._info)

    def _failure(self, error: EngineError) -> Failure:
        return Failure(error.endpoint, error.reason, error.detail, advise(error, self._engine.url))

    def _log_found(self, found: Found) -> None:
        info = self._info
        if info is not None and self._is_news("docker", (info, found.mode)):
            self._log.info(
                "docker.found",
                engine=info.name,
                version=info.version,
                api_version=info.api_version,
                mode=found.mode,
                watched=len(found.containers),
            )
        if self._is_news("none watched", not found.containers) and not found.containers:
            self._log.warning("containers.none_watched", advice=f"{NONE_WATCHED}; {_ASK_CHECK}")
        if self._is_news("costly", found.costly) and found.costly:
            self._log.warning("containers.listing_is_expensive", advice=LISTING_IS_EXPENSIVE)
        if self._is_news("unreadable", found.unreadable) and found.unreadable:
            self._log.warning(
                "containers.rows_ignored", rows=found.unreadable, cause="no id, or another row's"
            )
        self._log_misread(found.misread)
        self._log_missing(found.errors)

    def _log_misread(self, misread: Mapping[str, Container]) -> None:
        for container_id in misread.keys() - self._misread:
            name = misread[container_id].name
            self._log.warning("container.label_ignored", name=name, label=LABEL, takes="true or false")
        self._misread = frozenset(misread)

    def _log_missing(self, errors: Mapping[str, EngineError]) -> None:
        """Log that details are missing once for each reason, not for each container and poll."""
        by_reason = {error.reason: error for error in errors.values()}
        if self._is_news("inspect", frozenset(by_reason)):
            for error in by_reason.values():
                self._log.warning(
                    "containers.details_missing", containers=len(errors), **_explain(self._failure(error))
                )

    def _is_news(self, topic: str, value: Any) -> bool:
        """Tell whether a topic's value differs from its last: a state is logged when it changes."""
        if topic in self._last_logged and self._last_logged[topic] == value:
            return False
        self._last_logged[topic] = value
        return True


def _explain(failure: Failure) -> dict[str, str]:
    """Return what a log line says of a failure; what nobody can tell is left out."""
    return {key: text for key, text in failure._asdict().items() if text}
