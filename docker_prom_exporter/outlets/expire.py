"""A time to live for the groups of a job on a Pushgateway."""

from __future__ import annotations

import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import structlog

from docker_prom_exporter.intervals import each_interval
from docker_prom_exporter.outlets.errors import OutletError, one_line
from docker_prom_exporter.outlets.gateway import Gateway, GatewayRequest
from docker_prom_exporter.outlets.groups import (
    last_pushes,
    lines_about_pushes,
    paths,
    selector,
)
from docker_prom_exporter.outlets.metrics import expiry_publication

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable, Mapping

    from docker_prom_exporter.exposition import Publication
    from docker_prom_exporter.outlets.groups import Group
    from docker_prom_exporter.settings import Settings

# In seconds.
_FETCH_TIMEOUT: Final = 30
_DELETE_TIMEOUT: Final = 5
_SECONDS_TO_DELETE: Final = 1  # in one run
_REFUSED_FOR: Final = 600

_INTERVALS_TO_TRUST: Final = 3
_MAX_REFUSALS_LOGGED: Final = 20

# By default newer gateways replace characters in UTF-8 label names, so that two groups
# can have the same labels. With this scheme, which older gateways ignore, label names are
# as in the path of the group.
_ACCEPT: Final = "text/plain;version=0.0.4;escaping=values"


class Expirer:
    """Deletes the groups of `--push-job` that were not pushed for `--expire-after`.

    It publishes after each run. A group is deleted by the second run in a row that found
    it expired, so that a host that pushes again after an outage of the gateway keeps its
    group. `DELETE` has no condition: a push between both requests is lost until the next
    push. After `stop` is set nothing is published. Raises `OutletError` if the password
    or the certificates can't be read.
    """

    first_result: threading.Event
    """Is set when the first run has ended."""

    # The groups that the last run found expired. The next run may delete them.
    _candidates: set[Group]
    # When to try again to delete a group, on the monotonic clock.
    _refused: dict[Group, float]
    # The number of deleted groups.
    _expired: int
    # Why the last run failed, empty before the first one, `None` if it succeeded.
    _failing: str | None

    def __init__(
        self,
        settings: Settings,
        publish: Callable[[Publication], object],
        stop: threading.Event,
    ) -> None:
        self._gateway = Gateway(settings)
        self._job = settings.push_job
        self._expire_after = settings.expire_after
        self._interval = settings.poll_interval
        self._publish = publish
        self._stop = stop
        self._log = structlog.get_logger().bind(url=self._gateway.url)
        self._candidates = set()
        self._refused = {}
        self._expired = 0
        self._failing = ""
        self.first_result = threading.Event()

    def run(self) -> None:
        """Run once per `poll_interval` until `stop` is set."""
        self._publish(self.publication())
        for _ in each_interval(self._interval, self._stop):
            while self.run_once():
                pass

    def run_once(self) -> bool:
        """Fetch, delete and publish.

        Return whether to run at once again for more deletions.
        """
        more = False
        try:
            expired = self._fetch()
            self._succeeded()
            more = self._delete(expired)
        except OutletError as error:
            self._failed(error.reason, error.detail)
        except Exception as error:  # noqa: BLE001  a bad answer must not end the thread
            self._failed(type(error).__name__, one_line(error))
        if self._stop.is_set():
            return False
        self._publish(self.publication())
        self.first_result.set()
        return more

    def publication(self) -> Publication:
        """Return the results so far; before the first answer the gateway counts as down."""
        longest_run = _FETCH_TIMEOUT + _SECONDS_TO_DELETE + 2 * _DELETE_TIMEOUT
        trusted_for = _INTERVALS_TO_TRUST * self._interval + longest_run
        return expiry_publication(
            up=self._failing is None,
            expired=self._expired,
            trusted_until=time.monotonic() + trusted_for,
        )

    def _fetch(self) -> dict[Group, float]:
        """Return the age of each expired group, in seconds."""
        request = GatewayRequest("GET", f"{self._gateway.url}/metrics", (("Accept", _ACCEPT),))
        return self._gateway.send(request, _FETCH_TIMEOUT, self._parse)

    def _parse(self, response: http.client.HTTPResponse) -> dict[Group, float]:
        """Compare with the gateway's clock, which sets both `Date` and the times of pushes."""
        try:
            now = parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (TypeError, ValueError):
            raise OutletError(
                "bad_response", "the answer has no Date to tell ages by", 200
            ) from None
        until = now - self._expire_after
        pushes = last_pushes(lines_about_pushes(response), self._job, until)
        return {group: now - last for group, last in pushes.items()}

    def _delete(self, expired: Mapping[Group, float]) -> bool:
        """Delete, for a second, groups found expired by two runs in a row.

        Return whether some remain. A deletion that fails says nothing about the gateway,
        which has just answered: a proxy may allow GET only. The other groups are still
        deleted.
        """
        due = [group for group in expired if group in self._candidates]
        self._candidates = {*expired}
        # A group that was pushed again, or is gone, is not refused any more.
        for group in self._refused.keys() - self._candidates:
            del self._refused[group]
        ends = time.monotonic() + _SECONDS_TO_DELETE
        for group in due:
            now = time.monotonic()
            if now >= ends or self._stop.is_set():
                return not self._stop.is_set()
            if now < self._refused.get(group, 0):
                continue
            try:
                self._delete_one(group, expired[group])
            except OutletError as error:
                self._refuse(group, error)
                # Without an answer, each of the others would wait, too.
                if error.status is None:
                    return False
        return False

    def _delete_one(self, group: Group, age: float) -> None:
        for path in paths(group):
            request = GatewayRequest("DELETE", f"{self._gateway.url}{path}")
            self._gateway.send(request, _DELETE_TIMEOUT, lambda _: None)
        self._candidates.remove(group)
        self._refused.pop(group, None)
        self._expired += 1
        self._log.info("group.expired", group=selector(group), age_seconds=round(age))

    def _refuse(self, group: Group, error: OutletError) -> None:
        """Put a group aside for ten minutes, and log it if it was not refused before."""
        is_new = group not in self._refused
        self._refused[group] = time.monotonic() + _REFUSED_FOR
        if is_new and len(self._refused) <= _MAX_REFUSALS_LOGGED:
            self._log.warning(
                "group.not_deleted",
                group=selector(group),
                reason=error.reason,
                detail=error.detail,
                retry_seconds=_REFUSED_FOR,
            )

    def _succeeded(self) -> None:
        if self._failing is not None:
            self._failing = None
            self._log.info("gateway.found", job=self._job, expire_after=self._expire_after)

    def _failed(self, reason: str, detail: str) -> None:
        # The next runs may not be in a row with those before the failure.
        self._candidates.clear()
        if reason != self._failing and not self._stop.is_set():
            self._failing = reason
            self._log.warning("gateway.lost", reason=reason, detail=detail)
