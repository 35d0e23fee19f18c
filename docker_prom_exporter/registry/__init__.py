"""Scan a registry's file storage at intervals and publish the results as metrics."""

from __future__ import annotations

import time
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


class _StoppedError(Exception):
    """`stop` was set during a scan."""


class Scanner:
    """Scans the storage at `path` every `interval` seconds, and publishes the results.

    Only the thread that calls `run` accesses the storage, so that a hanging file system blocks nothing else.
    `publish` must return at once. It is not called after `stop` is set.
    """

    def __init__(
        self, path: str, interval: float, publish: Callable[[Publication], object], stop: Event
    ) -> None:
        self._path = path
        self._interval = interval
        self._publish = publish
        self._stop = stop
        self._storage = Storage(path, self._checkpoint)
        self._log = structlog.get_logger()
        self._families: list[Metric] = []
        self._unusable: frozenset[Unusable] = frozenset()
        self._lost: str | None = None  # why the last scan failed; empty after a success
        self._duration = self._last_scan = 0.0
        self._began = self._progress_due = self._renewal_due = 0.0
        self.first_scan_ended = Event()

    def run(self) -> None:
        """Scan once per interval until `stop` is set.

        Until the first scan has ended, there are no metrics of the storage, unless it hangs.
        """
        self._publish(self.publication())
        for _ in each_interval(self._interval, self._stop):
            self.scan()

    def scan(self) -> bool:
        """Scan once, publish the results, and return whether the storage could be read."""
        self._began = time.monotonic()
        self._progress_due = self._began + _SECONDS_BETWEEN_PROGRESS
        try:
            self._find(self._storage.scan())
        except StorageError as error:
            self._lose(str(error), advice=error.advice)
        except _StoppedError:
            return False
        except Exception as error:  # noqa: BLE001  a failed scan must not end the thread
            self._lose(repr(error), exc_info=error)
        self._duration = time.monotonic() - self._began
        if not self._stop.is_set():
            self._publish(self.publication())
            self.first_scan_ended.set()
        return not self._lost

    def publication(self) -> Publication:
        """Return the results of the last scan, to be trusted for the next few intervals."""
        return Publication(
            self._families,
            fallback=[up_family(up=False)],
            own=scan_families(self._duration, self._last_scan),
            trusted_until=time.monotonic() + _INTERVALS_TO_TRUST * self._interval,
        )

    def _find(self, contents: Contents) -> None:
        known = {family.name: family for family in self._families}
        self._families = [
            # A family without changes stays the same object, so that it is not encoded again.
            old if (old := known.get(new.name)) and old.samples == new.samples else new
            for new in (up_family(up=True), *contents_families(contents))
        ]
        self._last_scan = time.time()
        self._log_unusable(contents.unusable)
        if self._lost != "":
            tags = sum(len(each.tags) for each in contents.repositories)
            repositories = len(contents.repositories)
            self._log.info(
                "registry.found", path=self._path, repositories=repositories, tags=tags
            )
        self._lost = ""

    def _lose(self, cause: str, **more: object) -> None:
        self._families = [up_family(up=False)]
        if self._lost != cause:
            self._log.warning("registry.lost", path=self._path, cause=cause, **more)
        self._lost = cause

    def _checkpoint(self) -> None:
        """End the scan if `stop` is set; log the progress of a long one; republish during the first."""
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
        """Log each unusable tag, manifest or folder once, until it is usable again."""
        for each in unusable:
            if each not in self._unusable:
                what = (
                    {"manifest" if ":" in each.name else "tag": each.name} if each.name else {}
                )
                self._log.warning(
                    "registry.unusable",
                    repository=each.repository,
                    **what,
                    **each.defect._asdict(),
                )
        self._unusable = frozenset(unusable)
