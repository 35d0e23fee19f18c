"""Push the exposition to a Pushgateway."""

from __future__ import annotations

import gzip
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import tenacity
from prometheus_client.exposition import delete_from_gateway, push_to_gateway

from docker_prom_exporter.exposition import Families
from docker_prom_exporter.outlets.errors import OutletError
from docker_prom_exporter.outlets.gateway import Gateway, GatewayRequest, beginning
from docker_prom_exporter.outlets.metrics import push_families
from docker_prom_exporter.texts import parse_duration

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from prometheus_client.core import Metric

    from docker_prom_exporter.exposition import Exposition
    from docker_prom_exporter.settings import Settings

_REQUEST_TIMEOUT: Final = 5
_DELETE_TIMEOUT: Final = 0.65


class Pusher:
    """Replaces a Pushgateway's group once an interval, also while Docker is down.

    Deletes it at the end. prometheus-client's push functions make the requests. A
    transient failure is retried with the current content of the exposition until the next
    push is due. Methods that send requests raise `OutletError`.
    """

    topic = "push"

    _due: float  # when the next push is due, on the monotonic clock
    _last: float  # when the last push that succeeded ended, in Unix seconds
    _gzips: bool  # whether the gateway reads gzip
    _expiry_logged: bool

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._gateway = Gateway(settings)
        self.log = structlog.get_logger().bind(url=self._gateway.url)
        self._job = settings.push_job
        self._grouping_key = {"instance": settings.push_instance}
        self._gzips = True
        self._interval = settings.push_interval
        self._due = time.monotonic()
        self._last = 0.0
        self._expiry_logged = False
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_before_delay(self._interval)
            | tenacity.stop_when_event_set(stop),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=self._interval / 3),
            sleep=tenacity.sleep_using_event(stop),
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )

    def families(self, results: Mapping[str, int]) -> list[Metric]:
        """Return the pushes by result and the time of the last success."""
        return push_families(results, self._last)

    def is_due(self, _: Exposition) -> bool:
        """Return whether an interval has passed; the content does not matter."""
        return time.monotonic() >= self._due

    def pause(self) -> float:
        """Return the seconds until the next push."""
        return max(self._due - time.monotonic(), 0)

    def deliver(self, exposition: Exposition) -> None:
        """Push, and retry transient failures."""
        try:
            self._retrying(self._push, exposition, time.monotonic() + self._interval)
        finally:
            # Pushes that were missed are not made up for.
            self._due = max(self._due + self._interval, time.monotonic())
        self._last = time.time()

    def withdraw(self) -> None:
        """Delete the group."""
        url, job, key = self._gateway.url, self._job, self._grouping_key
        delete_from_gateway(url, job, key, _DELETE_TIMEOUT, self._handle)

    def delivered(self) -> None:
        """Log once if groups expire never or too early, or if that is unknown."""
        if self._expiry_logged:
            return
        self._expiry_logged = True
        try:
            seconds = self._time_to_live()
        except OutletError as error:
            self.log.warning("push.expiry_unknown", reason=error.reason, detail=error.detail)
            return
        if not seconds:
            self.log.info(
                "push.never_expires",
                advice="stale groups stay until deleted: use DockerPushStale",
            )
        elif seconds < 3 * self._interval:
            self.log.warning(
                "push.expires_early",
                time_to_live=seconds,
                push_interval=self._interval,
                advice="set --push-interval to a third of the time to live or less",
            )

    def _push(self, exposition: Exposition, deadline: float) -> None:
        seconds = min(_REQUEST_TIMEOUT, max(deadline - time.monotonic(), 0.1))
        families, key = Families(exposition.families()), self._grouping_key
        try:
            push_to_gateway(self._gateway.url, self._job, families, key, seconds, self._handle)
        except OutletError as error:
            if error.status != 400 or not self._gzips:
                raise
            # A Pushgateway before 1.5 reads gzip as invalid metrics.
            self._gzips = False
            self._push(exposition, deadline)

    def _time_to_live(self) -> float:
        """Return for how many seconds the gateway keeps a group.

        0 means for ever, as upstream's does. Builds that expire groups, like k0s's, have
        a flag for it, which `/api/v1/status` shows (from 1.2).
        """
        request = GatewayRequest("GET", f"{self._gateway.url}/api/v1/status")
        text = self._gateway.send(request, min(_REQUEST_TIMEOUT, self._interval), beginning)
        try:
            flags = json.loads(text)["data"]["flags"]
            return parse_duration(flags.get("metric.timetolive") or "0")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise OutletError(
                "bad_response", "/api/v1/status tells no time to live", 200
            ) from None

    def _handle(
        self,
        url: str,
        method: str,
        timeout: float | None,
        headers: list[tuple[str, str]],
        data: bytes,
    ) -> Callable[[], bytes]:
        """Return a function that sends the request: a handler for prometheus-client."""
        if data and self._gzips:
            headers = [*headers, ("Content-Encoding", "gzip")]
            data = gzip.compress(data)
        request = GatewayRequest(method, url, headers, data)
        return partial(self._gateway.send, request, timeout or 0, beginning)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, OutletError) and error.is_transient
