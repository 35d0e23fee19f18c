"""Write structlog's lines to standard error without blocking the threads that log."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from docker_prom_exporter.output import printable

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_QUEUED: Final = 1000
_RETRY_INTERVAL: Final = 0.05


class Writer:
    """Writes lines to a file descriptor in a daemon thread; without a descriptor, writes nothing.

    When 1,000 lines are queued, each new line replaces the oldest. `notice` turns the number of lost lines
    into a line that is written before the next one. The writer is a structlog logger, too.
    """

    def __init__(self, descriptor: int | None, notice: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._lines: deque[str] = deque(maxlen=_MAX_QUEUED)
        self._lost = 0
        self._is_writing = False
        self._changed = threading.Condition()
        if descriptor is not None:
            threading.Thread(target=self._run, name="log", daemon=True).start()

    def msg(self, line: str) -> None:
        """Queue a line."""
        with self._changed:
            self._lost += len(self._lines) == _MAX_QUEUED
            self._lines.append(line)
            self._changed.notify_all()

    debug = info = warning = error = critical = exception = msg

    def close(self, seconds: float) -> None:
        """Wait until all lines are written, but at most `seconds`."""
        if self._descriptor is not None:
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._lines and not self._is_writing, seconds
                )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lost, line = self._lost, self._lines.popleft()
                self._lost, self._is_writing = 0, True
            written = self._write(f"{self._notice(lost)}\n{line}\n" if lost else f"{line}\n")
            with self._changed:
                self._is_writing = False
                if not written:
                    self._lost += lost + 1
                self._changed.notify_all()

    def _write(self, text: str) -> bool:
        """Write the whole text; False if it failed. `sys.stderr` would keep the interpreter from exiting."""
        data = text.encode("utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor or 0, data) :]
            except BlockingIOError:  # another process made the pipe or terminal non-blocking
                time.sleep(_RETRY_INTERVAL)
            except OSError:
                return False
        return True


def configure(level: str, form: str) -> Writer:
    """Log events of `level` and above as `console`, `logfmt` or `json`; `auto` is `console` on a terminal.

    Log records of libraries (docker-py, urllib3) are dropped: the exporter logs their failures as its events.
    Close the returned writer before the process ends.
    """
    descriptor = _standard_error()
    coloured = descriptor is not None and os.isatty(descriptor)
    if form == "auto":
        form = "console" if coloured else "logfmt"
    renderers: dict[str, structlog.typing.Processor] = {
        "console": structlog.dev.ConsoleRenderer(colors=coloured),
        "json": structlog.processors.JSONRenderer(ensure_ascii=False),
        "logfmt": structlog.processors.LogfmtRenderer(
            key_order=("time", "level", "event"), bool_as_flag=False
        ),
    }
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(
            fmt="iso", utc=True, key="timestamp" if form == "console" else "time"
        ),
        structlog.processors.format_exc_info,
        _one_line,
        renderers[form],
    ]
    rendering = structlog.wrap_logger(
        structlog.ReturnLogger(), processors, structlog.BoundLogger
    )
    writer = Writer(descriptor, lambda lost: rendering.warning("log.lines_lost", lines=lost))
    logging.getLogger().addHandler(logging.NullHandler())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    return writer


def _standard_error() -> int | None:
    """Return its descriptor; None if it was closed at the start: another file may have that number now."""
    with suppress(AttributeError, OSError, ValueError):
        return sys.stderr.fileno()
    return None


def _one_line(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {
        key: printable(value) if isinstance(value, str) else value
        for key, value in event.items()
    }
