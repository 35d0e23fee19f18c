"""Deliver the exposition to a Pushgateway and to a file, each in its own thread.

`Expirer` deletes groups that are no longer pushed from a Pushgateway.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from docker_prom_exporter.outlets.errors import OutletError, one_line
from docker_prom_exporter.outlets.expire import Expirer
from docker_prom_exporter.outlets.pushgateway import Pusher
from docker_prom_exporter.outlets.textfile import TextFile

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from docker_prom_exporter.exposition import Exposition
    from docker_prom_exporter.settings import Settings

__all__ = ["Expirer", "Outlet", "OutletError", "open_outlets"]


def open_outlets(settings: Settings, stop: threading.Event) -> list[Outlet]:
    """Return the outlets that the settings ask for.

    Raises `OutletError` if one can't be opened.
    """
    targets: list[Pusher | TextFile] = []
    if settings.push_url is not None:
        targets.append(Pusher(settings, stop))
    if settings.textfile is not None:
        targets.append(TextFile(Path(settings.textfile), settings.poll_interval))
    return [Outlet(target, stop) for target in targets]


class Outlet:
    """Delivers to a target in a daemon thread, so that no poll or scrape waits.

    Counts and logs the results. When `wake` is called after `stop` is set, the outlet
    withdraws what it delivered, and its thread ends.
    """

    _results: dict[str, int]  # the number of deliveries by result
    _failing: str | None  # why the last delivery failed, `None` if it succeeded

    def __init__(self, target: Pusher | TextFile, stop: threading.Event) -> None:
        self._target = target
        self._topic = target.topic
        self._log = target.log
        self._stop = stop
        self._wake = threading.Event()
        self._results = {"success": 0, "failure": 0}
        self._failing = None

    def families(self) -> list[Metric]:
        """Return the metrics about deliveries."""
        return self._target.families(self._results)

    def deliver(self, exposition: Exposition) -> bool:
        """Deliver, count the result, log it if it differs from the last.

        Return whether it succeeded.
        """
        try:
            self._target.deliver(exposition)
        except OutletError as error:
            self._failed(error.reason, error.detail)
            return False
        except Exception as error:  # noqa: BLE001  a failed delivery must not end the thread
            self._failed(type(error).__name__, one_line(error))
            return False
        self._results["success"] += 1
        if self._failing is not None:
            self._log.info(f"{self._topic}.recovered")
        self._failing = None
        return True

    def start(self, exposition: Exposition) -> None:
        """Start the thread. Each delivery has the content of the exposition at that time."""
        self._thread = threading.Thread(
            target=self._run, args=(exposition,), name=self._topic, daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Signal a new publication, or that `stop` is set. Returns at once."""
        self._wake.set()

    def join(self, deadline: float) -> None:
        """Wait for the end of the thread, until `deadline` on the monotonic clock."""
        self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            self._not_withdrawn("timeout")

    def _run(self, exposition: Exposition) -> None:
        while not self._stop.is_set():
            if self._target.is_due(exposition) and self.deliver(exposition):
                self._target.delivered()
            self._wake.wait(self._target.pause())
            self._wake.clear()
        try:
            self._target.withdraw()
        except OutletError as error:
            self._not_withdrawn(str(error))

    def _failed(self, reason: str, detail: str) -> None:
        self._results["failure"] += 1
        if reason != self._failing:
            self._log.warning(f"{self._topic}.failed", reason=reason, detail=detail)
        self._failing = reason

    def _not_withdrawn(self, reason: str) -> None:
        self._log.warning(f"{self._topic}.not_withdrawn", reason=reason)
