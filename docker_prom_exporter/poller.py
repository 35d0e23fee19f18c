"""The loop: when to poll, and what to publish as a `Snapshot`."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Final

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
from docker_prom_exporter.deadline import Deadline
from docker_prom_exporter.engine import EngineError, advise
from docker_prom_exporter.intervals import each_interval
from docker_prom_exporter.poll_log import PollLog
from docker_prom_exporter.snapshot import Counts, Failure, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker_prom_exporter.collect import PollResult
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo

_RETRIED_REASONS: Final = ("unreachable", "bad_response", "error")


class Poller:
    """Polls an engine. One thread calls `run` or `poll`; any may read `snapshot`.

    Once `stop` is set, nothing is published. `on_poll` is called with each snapshot after
    it is published; the next poll waits until it returns.
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
        self._log = PollLog(
            self._failure, stop, only_labelled=settings.container_health_filter_label
        )

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
            self._log.log_unexpected("snapshot.not_published", error)

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
        self._log.log_result(result, self._info)
        failure, last_success = None, time.time()
        if result.list_error is not None:
            failure = self._failure(result.list_error)
            last_success = self.snapshot.last_success
        self._counts.polls["success" if failure is None else "failure"] += 1
        return replace(
            self.snapshot,
            up=True,
            listed=True,
            failure=failure,
            engine=self._info,
            mode=result.mode,
            containers=result.containers,
            unwatched=result.unwatched,
            postponed=result.postponed,
            last_success=last_success,
        )

    def _failed(self, error: EngineError) -> Snapshot:
        """Keep the last containers, with unknown health; up if the ping was answered."""
        self._counts.polls["failure"] += 1
        failure = self._failure(error)
        self._log.log_failure(error, failure)
        up = error.endpoint in ("list", "inspect")
        return replace(self.snapshot.distrusted(), up=up, failure=failure, engine=self._info)

    def _broke(self, error: Exception) -> Snapshot:
        """Keep the last containers, with unknown health: an error of the exporter itself."""
        self._counts.polls["failure"] += 1
        self._engine.disconnect()
        failure = self._log.log_unexpected("poll.failed", error, topic="docker")
        return replace(self.snapshot.distrusted(), failure=failure)

    def _failure(self, error: EngineError) -> Failure:
        advice = advise(error, self._engine.url)
        return Failure(error.endpoint, error.reason, error.detail, advice)
