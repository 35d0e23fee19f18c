"""A registry's file storage, scanned again and again, as metrics."""

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
    """The exporter is to end."""


class Scanner:
    """Scans the storage at `path` once in `interval` seconds, and publishes what it finds.

    Only the thread that calls `run` touches the storage, so a file system that hangs holds up nothing else.
    `publish` must return at once. Once `stop` is set it is not called any more.
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
        self._lost: str | None = None  # why the storage was lost; empty where it was found
        self._duration = self._last_scan = 0.0
        self._began = self._progress_due = self._renewal_due = 0.0
        self.first_scan_ended = Event()

    def run(self) -> None:
        """Scan once an interval until `stop` is set.

        Until the first scan has ended, nothing is said of the storage, unless it hangs.
        """
        self._publish(self.publication())
        for _ in each_interval(self._interval, self._stop):
            self.scan()

    def scan(self) -> bool:
        """Scan once, publish what was found, and tell whether the storage could be read."""
        self._began = time.monotonic()
        self._progress_due = self._began + _SECONDS_BETWEEN_PROGRESS
        try:
            self._find(self._storage.scan())
        except StorageError as error:
            self._lose(str(error), advice=error.advice)
        except _StoppedError:
            return False
        except Exception as error:  # noqa: BLE001  a monitor that dies of what it meets is none
            self._lose(repr(error), exc_info=error)
        self._duration = time.monotonic() - self._began
        if not self._stop.is_set():
            self._publish(self.publication())
            self.first_scan_ended.set()
        return not self._lost

    def publication(self) -> Publication:
        """Return what is known of the storage, which can be trusted for some intervals from now on."""
        return Publication(
            self._families,
            fallback=[up_family(up=False)],
            own=scan_families(self._duration, self._last_scan),
            trusted_until=time.monotonic() + _INTERVALS_TO_TRUST * self._interval,
        )

    def _find(self, contents: Contents) -> None:
        known = {family.name: family for family in self._families}
        self._families = [
            # One that says the same as before need not be encoded again.
            old if (old := known.get(new.name)) and old.samples == new.samples else new
            for new in (up_family(up=True), *contents_families(contents))
        ]
        self._last_scan = time.time()
        self._log_unusable(contents.unusable)
        if self._lost != "":
            tags = sum(len(each.tags) for each in contents.repositories)
            repositories = len(contents.repositories)
            self._log.info("registry.found", path=self._path, repositories=repositories, tags=tags)
        self._lost = ""

    def _lose(self, cause: str, **more: object) -> None:
        self._families = [up_family(up=False)]
        if self._lost != cause:
            self._log.warning("registry.lost", path=self._path, cause=cause, **more)
        self._lost = cause

    def _checkpoint(self) -> None:
        """End a scan that is to end; say how far it is where it takes long, and that the first goes on."""
        if self._stop.is_set():
            raise _StoppedError
        now = time.monotonic()
        if now >= self._progress_due:
            self._progress_due = now + _SECONDS_BETWEEN_PROGRESS
            self._log.info("registry.scanning", seconds=round(now - self._began), **self._storage.progress())
        if now >= self._renewal_due and not self.first_scan_ended.is_set():
            self._renewal_due = now + _SECONDS_BETWEEN_RENEWALS
            self._publish(self.publication())

    def _log_unusable(self, unusable: Sequence[Unusable]) -> None:
        """Log each thing that can't be used once, until it can be used again."""
        for each in unusable:
            if each not in self._unusable:
                what = {"manifest" if ":" in each.name else "tag": each.name} if each.name else {}
                self._log.warning(
                    "registry.unusable", repository=each.repository, **what, **each.defect._asdict()
                )
        self._unusable = frozenset(unusable)
