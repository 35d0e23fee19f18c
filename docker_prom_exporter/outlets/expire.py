"""A time to live for the groups of a job on a Pushgateway."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, cast

import structlog
from prometheus_client.parser import text_string_to_metric_families

from docker_prom_exporter.intervals import each_interval
from docker_prom_exporter.outlets.errors import MAX_DETAIL, OutletError, one_line
from docker_prom_exporter.outlets.metrics import expiry_publication
from docker_prom_exporter.outlets.pushgateway import Gateway, GatewayRequest

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from docker_prom_exporter.exposition import Publication
    from docker_prom_exporter.settings import Settings

Group = frozenset[tuple[str, str]]
"""A group's labels, `job` among them, with their values."""

_FETCH_TIMEOUT: Final = 30
_DELETE_TIMEOUT: Final = 5
_SECONDS_TO_DELETE: Final = 1
_INTERVALS_TO_TRUST: Final = 3
_REFUSED_FOR: Final = 600
_MAX_REFUSALS_LOGGED: Final = 20

# By default newer gateways replace characters in UTF-8 label names, so that two groups can
# look the same.
# With this scheme, which older gateways ignore, label names are as in the path of the group.
_ACCEPT: Final = "text/plain;version=0.0.4;escaping=values"

_BLOCK_BYTES: Final = 64 * 1024
_MAX_LINE_BYTES: Final = (
    2 * 1024 * 1024
)  # a path, and so a group's label, has at most half of this
_MAX_GROUPS: Final = 100_000
_PUSHED: Final = b"push_time_seconds{"
_FAILED: Final = b"push_failure_time_seconds{"
_OWN: Final = b"pushgateway_"
_PREFIXES: Final = (_PUSHED, _FAILED, _OWN)

_PLAIN: Final = re.compile(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*")


class Expirer:
    """Deletes the groups of `--push-job` that were not pushed for `--expire-after`.

    It publishes after each run. A group is deleted by the second run in a row that found it
    expired, so that a host that pushes again after an outage of the gateway keeps its group.
    `DELETE` has no condition: a push between both requests is lost until the next push. After
    `stop` is set nothing is published. Raises `OutletError` if the password or the
    certificates can't be read.
    """

    first_result: threading.Event
    """Is set when the first run has ended."""

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
        self._candidates: set[Group] = set()  # found expired by the last run
        self._refused: dict[Group, float] = {}  # when to try again, on the monotonic clock
        self._expired = 0
        self._failing: str | None = ""  # why the last run failed; None if it succeeded
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
        pushes = last_pushes(_lines(response), self._job, now - self._expire_after)
        return {group: now - last for group, last in pushes.items()}

    def _delete(self, expired: Mapping[Group, float]) -> bool:
        """Delete, for a second, groups found expired by two runs in a row.

        Return whether some remain. A deletion that fails says nothing about the gateway, which
        has just answered: a proxy may allow GET only. The other groups are still deleted.
        """
        due = [group for group in expired if group in self._candidates]
        self._candidates = {*expired}
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
                if (
                    error.status is None
                ):  # without an answer, each of the others would wait, too
                    return False
        return False

    def _delete_one(self, group: Group, age: float) -> None:
        for path in paths(group):
            request = GatewayRequest("DELETE", f"{self._gateway.url}{path}")
            self._gateway.send(request, _DELETE_TIMEOUT, lambda _: None)
        self._candidates.remove(group)
        self._refused.pop(group, None)
        self._expired += 1
        self._log.info("group.expired", group=_selector(group), age_seconds=round(age))

    def _refuse(self, group: Group, error: OutletError) -> None:
        """Put a group aside for ten minutes, and log it if it was not refused before."""
        is_new = group not in self._refused
        self._refused[group] = time.monotonic() + _REFUSED_FOR
        if is_new and len(self._refused) <= _MAX_REFUSALS_LOGGED:
            self._log.warning(
                "group.not_deleted",
                group=_selector(group),
                reason=error.reason,
                detail=error.detail,
                retry_seconds=_REFUSED_FOR,
            )

    def _succeeded(self) -> None:
        if self._failing is not None:
            self._failing = None
            self._log.info("gateway.found", job=self._job, expire_after=self._expire_after)

    def _failed(self, reason: str, detail: str) -> None:
        self._candidates.clear()
        if reason != self._failing and not self._stop.is_set():
            self._failing = reason
            self._log.warning("gateway.lost", reason=reason, detail=detail)


def _selector(group: Group) -> str:
    """Return a group as PromQL selects it, cut to the length that a log line may have."""
    labels = []
    for name, value in sorted(group):
        labels.append(f"{name}={json.dumps(value, ensure_ascii=False)}")
    return f"{{{','.join(labels)}}}"[:MAX_DETAIL]


def last_pushes(lines: Iterable[bytes], job: str, until: float) -> dict[Group, float]:
    """Return the last push of each group of the job that was not pushed after `until`.

    Times are Unix seconds. The lines are the gateway's exposition: `push_time_seconds` has the
    labels of its group and is 0 if no push has succeeded. The last failure then counts
    (`push_failure_time_seconds`). Raises `OutletError` if the lines are not from a
    Pushgateway.
    """
    pushed: dict[Group, float] = {}
    failed: dict[Group, float] = {}
    is_gateway = False
    for line in lines:
        is_gateway = is_gateway or line.startswith(_OWN)
        if line.startswith(_PUSHED) and (last := _value(line)) <= until:
            _add(pushed, line, job, last)
        elif line.startswith(_FAILED) and (last := _value(line)) > 0:
            _add(failed, line, job, last)
    if not is_gateway:
        raise OutletError(
            "bad_response", "/metrics is not a Pushgateway's: check --push-url", 200
        )
    lasts = {group: last or failed.get(group, math.inf) for group, last in pushed.items()}
    return {group: last for group, last in lasts.items() if 0 < last <= until}


def paths(group: Group) -> Iterator[str]:
    """Yield the possible paths of the group on a gateway, usually one.

    Each begins with the job. A gateway shows an empty `instance` for a group without one, and
    never holds both groups.
    """
    for labels in dict.fromkeys((group, group - {("instance", "")})):
        ordered = sorted(labels, key=lambda label: (label[0] != "job", label))
        yield "/metrics" + "".join(_segment(name, value) for name, value in ordered)


def _segment(name: str, value: str) -> str:
    """Return a label as part of a path.

    A gateway reads `%2F` as a slash, and removes `.` from the path.
    """
    if _PLAIN.fullmatch(value):
        return f"/{name}/{value}"
    return f"/{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode() or '='}"


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines about pushes and the gateway itself; a line that is too long is cut."""
    stream = io.BufferedReader(cast("io.RawIOBase", response), _BLOCK_BYTES)
    begins = True
    while line := stream.readline(_MAX_LINE_BYTES):
        if begins and line.startswith(_PREFIXES):
            yield line
        begins = line.endswith(b"\n")


def _value(line: bytes) -> float:
    """Return the value of a complete line: half of a recent time would be an old time."""
    try:
        return float(line[line.rindex(b"} ") + 2 : line.rindex(b"\n")])
    except ValueError:
        raise _unreadable(line) from None


def _add(times: dict[Group, float], line: bytes, job: str, value: float) -> None:
    try:
        (family,) = text_string_to_metric_families(line.decode())
        labels = family.samples[0].labels
    except (ValueError, IndexError):
        raise _unreadable(line) from None
    if labels.get("job") == job:
        times[frozenset(labels.items())] = value
    if len(times) > _MAX_GROUPS:
        raise OutletError("bad_response", f"more than {_MAX_GROUPS:,} groups of the job", 200)


def _unreadable(line: bytes) -> OutletError:
    name = line.partition(b"{")[0].decode()
    return OutletError(
        "bad_response", f"/metrics has a line of {name} that can't be read", 200
    )
