"""Signals that stop the program: SIGTERM, SIGINT, and SIGHUP, unless nohup ignores it."""

from __future__ import annotations

import os
import signal
import socket
from typing import Final

_NAMES: Final = ("SIGTERM", "SIGINT", "SIGHUP")


class StopSignals:
    """Notes the first signal after its creation, and ends the process at the second.

    Only the main thread may create it.
    """

    _noted: bool  # whether there was a signal
    _ends_at_once: bool  # whether the first signal ends the process, as the second does
    _code: int | None  # the exit code then; `None`: 128 plus the signal's number
    # Python writes each signal's number to the socket, so that `wait` can't miss one.
    _reader: socket.socket
    _writer: socket.socket

    def __init__(self) -> None:
        self._noted = False
        self._ends_at_once = False
        self._code: int | None = None
        self._reader, self._writer = socket.socketpair()
        self._writer.settimeout(0)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        # The process 1 of a container gets only the signals that it has a handler for.
        for name in _NAMES:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is None:
                continue
            if name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
                continue
            signal.signal(number, self._handle)

    def end_at_once(self, code: int | None = None) -> None:
        """End the process at the first signal, or now if there was one already.

        The exit code is `code`; for `None` it is 128 plus the signal's number, as in a
        shell.
        """
        self._code, self._ends_at_once = code, True
        if self._noted:
            self._handle(self._reader.recv(1)[0], None)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the first signal, for ever by default; return whether there was one.

        An event that the handler sets would lose three of 3,000 signals that arrive just
        when the wait begins, or would deadlock.
        """
        self._reader.settimeout(seconds)
        try:
            self._reader.recv(1)
        except TimeoutError:
            return False
        return True

    def _handle(self, number: int, _: object) -> None:
        if not self._noted and not self._ends_at_once:
            self._noted = True
            return
        code = self._code
        if code is None:
            code = 128 + number
        # Unlike `sys.exit` this can't be caught, and waits for no thread.
        os._exit(code)
