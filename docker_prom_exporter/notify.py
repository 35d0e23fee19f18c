"""Messages to systemd about the state of the service, as sd_notify(3) describes them."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# In seconds. While the first result is not there, systemd's start timeout is extended.
_START_INTERVAL: Final = 1
_START_EXTENSION: Final = 30
_SEND_TIMEOUT: Final = 1


class Notifier:
    """Tells systemd that the service is ready, that it works, and that it stops.

    Without `NOTIFY_SOCKET`, which systemd sets for a unit with `Type=notify`, nothing is
    sent.
    """

    # The path of systemd's socket, or its abstract name after a null byte, or empty.
    _address: str
    # The unit's `WatchdogSec` in seconds, `None` without one.
    _watchdog: float | None
    # Whether systemd was told that the service is ready.
    _announced: bool

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = ""
        address = environ.get("NOTIFY_SOCKET", "")
        if address.startswith("/"):
            self._address = address
        elif address.startswith("@"):
            self._address = "\0" + address[1:]
        self._watchdog = None
        microseconds = environ.get("WATCHDOG_USEC", "")
        pid = str(os.getpid())
        # The variables may be inherited from a parent that is the service's main process.
        if microseconds.isdecimal() and environ.get("WATCHDOG_PID", pid) == pid:
            self._watchdog = int(microseconds) / 1e6
        self._announced = False

    def report(self, *, ready: bool, healthy: bool) -> float | None:
        """Send what has to be sent.

        Return the seconds until the next call, `None` if none is needed. `ready` does not
        become false again. While the service is not `healthy`, nothing is sent, so that
        systemd restarts it after `WatchdogSec`, or ends a start that takes too long.
        """
        if not self._address:
            return None
        if not ready:
            if healthy:
                self._send(f"EXTEND_TIMEOUT_USEC={_START_EXTENSION * 1_000_000}")
            return _START_INTERVAL
        if not self._announced:
            self._announced = True
            self._send("READY=1")
        if self._watchdog is None:
            return None
        if healthy:
            self._send("WATCHDOG=1")
        # sd_watchdog_enabled(3) recommends half of the time.
        return self._watchdog / 2

    def stopping(self) -> None:
        """Tell systemd that the service has begun to stop."""
        if self._address:
            self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if sys.platform == "win32":
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_TIMEOUT)
            sender.sendto(message.encode(), self._address)
