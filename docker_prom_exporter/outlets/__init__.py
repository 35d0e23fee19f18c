"""Where else the exposition goes, in threads of their own: a Pushgateway, and a file for node_exporter.

`Expirer` is beside them: it deletes from a Pushgateway what others no longer push.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

import structlog

from docker_prom_exporter.outlets.errors import DeliveryError, OutletError, one_line
from docker_prom_exporter.outlets.expire import Expirer
from docker_prom_exporter.outlets.pushgateway import Pusher
from docker_prom_exporter.outlets.textfile import TextFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.core import Metric

    from docker_prom_exporter.exposition import Exposition
    from docker_prom_exporter.settings import Settings

__all__ = ["Expirer", "OutletError", "Outlets"]


class _Target(Protocol):
    """One place the exposition goes to. `topic` begins the names of its log events, `place` says where."""

    topic: str
    place: dict[str, str]

    def families(self, results: Mapping[str, int]) -> list[Metric]:
        """Return the metrics of the deliveries so far, of which so many had each result."""

    def is_due(self, exposition: Exposition) -> bool:
        """Tell whether to deliver now."""

    def pause(self) -> float:
        """Return the seconds until `is_due` is to be asked again, if no publication comes before."""

    def deliver(self, exposition: Exposition) -> None:
        """Deliver what the exposition holds, or raise `DeliveryError`."""

    def delivered(self) -> None:
        """Do what there is to do after a delivery that others will follow."""

    def withdraw(self) -> None:
        """Take back what was delivered, or raise `DeliveryError`."""


class Outlets:
    """The outlets that the settings ask for, if any. Raises `OutletError` where one lacks what it needs."""

    def __init__(self, settings: Settings) -> None:
        self._stop = threading.Event()
        targets: list[_Target] = []
        if settings.push_url is not None:
            targets.append(Pusher(settings, self._stop))
        if settings.textfile is not None:
            targets.append(TextFile(settings))
        self._outlets = [_Outlet(target, self._stop) for target in targets]

    def families(self) -> list[Metric]:
        """Return the metrics of the deliveries so far."""
        return [family for outlet in self._outlets for family in outlet.families()]

    def deliver(self, exposition: Exposition) -> bool:
        """Deliver once to each, leave it there, and tell whether all went well."""
        delivered = [outlet.deliver(exposition) for outlet in self._outlets]
        return all(delivered)

    def start(self, exposition: Exposition) -> None:
        """Begin to deliver what the exposition holds at the time."""
        for outlet in self._outlets:
            outlet.start(exposition)

    def wake(self) -> None:
        """Say that there is a new publication. Returns at once."""
        for outlet in self._outlets:
            outlet.wake()

    def stop(self) -> None:
        """Begin to delete the group and remove the file. Returns at once."""
        self._stop.set()
        self.wake()

    def join(self, deadline: float) -> None:
        """Wait for that to be done, until a time on the monotonic clock."""
        for outlet in self._outlets:
            outlet.join(max(deadline - time.monotonic(), 0))


class _Outlet:
    """Delivers to a target in a daemon thread, so that no poll and no scrape waits; counts and logs."""

    def __init__(self, target: _Target, stop: threading.Event) -> None:
        self._target = target
        self._stop = stop
        self._wake = threading.Event()
        self._log = structlog.get_logger().bind(**target.place)
        self._results = {"success": 0, "failure": 0}
        self._failing: str | None = None
        self._thread: threading.Thread | None = None

    def families(self) -> list[Metric]:
        return self._target.families(self._results)

    def start(self, exposition: Exposition) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(exposition,), name=self._target.topic, daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def join(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                self._left_behind("timeout")

    def _run(self, exposition: Exposition) -> None:
        while not self._stop.is_set():
            if self._target.is_due(exposition) and self.deliver(exposition):
                self._target.delivered()
            self._wake.wait(self._target.pause())
            self._wake.clear()
        try:
            self._target.withdraw()
        except DeliveryError as error:
            self._left_behind(str(error))

    def deliver(self, exposition: Exposition) -> bool:
        """Deliver, count and log the result, and tell whether it went well."""
        try:
            self._target.deliver(exposition)
        except DeliveryError as error:
            self._failed(error.reason, error.detail)
            return False
        except Exception as error:  # noqa: BLE001  one bad delivery must not end those to come
            self._failed(type(error).__name__, one_line(error))
            return False
        self._succeeded()
        return True

    def _left_behind(self, reason: str) -> None:
        self._log.warning(f"{self._target.topic}.left_behind", reason=reason)

    def _succeeded(self) -> None:
        self._results["success"] += 1
        if self._failing is not None:
            self._failing = None
            self._log.info(f"{self._target.topic}.recovered")

    def _failed(self, reason: str, detail: str) -> None:
        """Log a failure where the last delivery went well, or failed for another reason."""
        self._results["failure"] += 1
        if reason != self._failing:
            self._failing = reason
            self._log.warning(f"{self._target.topic}.failed", reason=reason, detail=detail)
