"""Scan a registry's file storage at intervals and publish the results as metrics."""

from __future__ import annotations

import time
from collections import Counter
from threading import Event
from typing import TYPE_CHECKING, Final

import structlog

from docker_prom_exporter.exposition import Publication
from docker_prom_exporter.intervals import each_interval
from docker_prom_exporter.registry.metrics import contents_families, scan_families, up_family
from docker_prom_exporter.registry.storage import Storage, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client.core import Metric

    from docker_prom_exporter.registry.storage import Contents, Unusable

__all__ = ["Scanner"]

_INTERVALS_TO_TRUST: Final = 3
_SECONDS_BETWEEN_PROGRESS: Final = 10
_SECONDS_BETWEEN_RENEWALS: Final = 1
_MAX_LINES: Final = 100  # of unusable things, for a scan and a reason


class _StoppedError(Exception):
    """`stop` was set during a scan."""


class Scanner:
    """Scans the storage at `path` every `interval` seconds, and publishes the results.

    Only the thread that calls `run` accesses the storage, so that a hanging file system
    blocks nothing else. `publish` must return at once. It is not called after `stop` is
    set.
    """

    first_scan_ended: Event
    _families: list[Metric]  # of the last scan
    _unusable: frozenset[Unusable]  # of the last scan that read the storage
    _failure: str | None  # why the last scan failed; empty after a success
    _hints: set[str]  # that were logged
    _duration: float  # of the last scan, in seconds
    _last_scan: float  # when the last scan that read the storage ended, as a Unix time

    def __init__(
        self, path: str, interval: float, publish: Callable[[Publication], object], stop: Event
    ) -> None:
        self._path = path
        self._interval = interval
        self._publish = publish
        self._stop = stop
        self._storage = Storage(path, self._checkpoint)
        self._log = structlog.get_logger()
        self._families = []
        self._unusable = frozenset()
        self._failure = None
        self._hints = set()
        self._duration = self._last_scan = 0.0
        self._began = self._progress_due = self._renewal_due = 0.0
        self.first_scan_ended = Event()

    def run(self) -> None:
        """Scan once per interval until `stop` is set.

        Until the first scan has ended, there are no metrics of the storage, unless it
        hangs.
        """
        self._publish(self.publication())
        for _ in each_interval(self._interval, self._stop):
            self.scan()

    def scan(self) -> bool:
        """Scan once, publish the results, and return whether the storage could be read."""
        self._began = time.monotonic()
        self._progress_due = self._began + _SECONDS_BETWEEN_PROGRESS
        try:
            self._succeeded(self._storage.scan())
        except StorageError as error:
            self._failed(str(error), advice=error.advice)
        except _StoppedError:
            return False
        except Exception as error:  # noqa: BLE001  a failed scan must not end the thread
            self._failed(repr(error), exc_info=error)
        self._duration = time.monotonic() - self._began
        if not self._stop.is_set():
            self._publish(self.publication())
            self.first_scan_ended.set()
        return not self._failure

    def publication(self) -> Publication:
        """Return the results of the last scan, to be trusted for the next few intervals."""
        return Publication(
            self._families,
            fallback=[up_family(up=False)],
            own=scan_families(self._duration, self._last_scan),
            trusted_until=time.monotonic() + _INTERVALS_TO_TRUST * self._interval,
        )

    def _succeeded(self, contents: Contents) -> None:
        known = {family.name: family for family in self._families}
        self._families = []
        for family in (up_family(up=True), *contents_families(contents)):
            old = known.get(family.name)
            # A family without changes stays the same object, so that it is not encoded again.
            unchanged = old and old.samples == family.samples
            self._families.append(old if old and unchanged else family)
        self._last_scan = time.time()
        self._log_unusable(contents.unusable)
        self._log_hints(contents)
        if self._failure != "":
            counts = {"repositories": len(contents.repositories), "tags": contents.tags()}
            self._log.info("registry.found", path=self._path, **counts)
        self._failure = ""

    def _failed(self, cause: str, **more: object) -> None:
        self._families = [up_family(up=False)]
        if self._failure != cause:
            self._log.warning("registry.lost", path=self._path, cause=cause, **more)
        self._failure = cause

    def _checkpoint(self) -> None:
        """End the scan if `stop` is set; log progress; republish during the first scan."""
        if self._stop.is_set():
            raise _StoppedError
        now = time.monotonic()
        if now >= self._progress_due:
            self._progress_due = now + _SECONDS_BETWEEN_PROGRESS
            self._log.info(
                "registry.scanning",
                seconds=round(now - self._began),
                **self._storage.progress(),
            )
        if now >= self._renewal_due and not self.first_scan_ended.is_set():
            self._renewal_due = now + _SECONDS_BETWEEN_RENEWALS
            self._publish(self.publication())

    def _log_unusable(self, unusable: Sequence[Unusable]) -> None:
        """Log each unusable thing once, until it is usable again; of many the number."""
        logged: Counter[str] = Counter()
        for each in unusable:
            if each in self._unusable:
                continue
            reason = each.defect.reason
            logged[reason] += 1
            if logged[reason] <= _MAX_LINES:
                self._log.warning("registry.unusable", **_fields(each))
        for reason, count in logged.items():
            if count > _MAX_LINES:
                more = count - _MAX_LINES
                self._log.warning("registry.more_unusable", reason=reason, count=more)
        self._unusable = frozenset(unusable)

    def _log_hints(self, contents: Contents) -> None:
        """Log once what explains strange contents."""
        absent = 0
        for each in contents.unusable:
            absent += each.defect.reason in ("missing", "partial")
        most = 2 * absent >= contents.tags()
        if absent and most and self._storage.hides_cache_state():
            self._hint(
                "registry.may_be_cache",
                "most tags lack parts, as in a pull-through cache; if it is one, mount the "
                "folder that has docker/ and scheduler-state.json, so that they do not count",
            )
        if "nothing" not in contents.blob_bytes:
            self._hint(
                "registry.no_manifests",
                "there are blobs, but no manifests: a first push is under way, or a database "
                "has the manifests; then garbage-collect would delete every blob",
            )

    def _hint(self, event: str, hint: str) -> None:
        if event not in self._hints:
            self._hints.add(event)
            self._log.warning(event, path=self._path, hint=hint)


def _fields(unusable: Unusable) -> dict[str, str]:
    """Return what the log says of an unusable thing; of a path there is only the defect."""
    fields = {}
    if unusable.repository:
        fields["repository"] = unusable.repository
    if ":" in unusable.name:
        fields["manifest"] = unusable.name
    elif unusable.name:
        fields["tag"] = unusable.name
    return {**fields, **unusable.defect._asdict()}
