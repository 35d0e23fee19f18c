"""Write structlog's lines to standard error without blocking the threads that log."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO, cast

import structlog

from docker_prom_exporter.output import may_colour, printable

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_QUEUED: Final = 1000
_MAX_WARNINGS: Final = 100
_MAX_TEXT: Final = 10_000
_SECONDS_AT_END: Final = 0.25
_RETRY_INTERVAL: Final = 0.05


class Writer:
    """Writes lines to a file descriptor, in a daemon thread. It is a structlog logger, too.

    When 1,000 lines are queued, each new line replaces the oldest. `notice` turns the
    number of dropped lines into a line that is written before the next one. Without a
    descriptor nothing is written.
    """

    _lines: deque[str]  # not written yet
    _dropped: int  # lines that were neither written nor mentioned in a notice
    _is_writing: bool  # whether the thread writes a line that it has taken from the queue
    _changed: threading.Condition  # guards the three

    def __init__(self, descriptor: int | None, notice: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._lines = deque(maxlen=_MAX_QUEUED)
        self._dropped = 0
        self._is_writing = False
        self._changed = threading.Condition()
        if descriptor is not None:
            threading.Thread(target=self._run, name="log", daemon=True).start()

    def msg(self, line: str) -> None:
        """Queue a line."""
        with self._changed:
            if len(self._lines) == _MAX_QUEUED:
                self._dropped += 1
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
                text = self._lines.popleft() + "\n"
                dropped, self._dropped = self._dropped, 0
                self._is_writing = True
            if dropped:
                text = f"{self._notice(dropped)}\n{text}"
            # Without the lock: this blocks while nobody reads the pipe.
            written = self._write(text)
            with self._changed:
                self._is_writing = False
                if not written:
                    self._dropped += dropped + 1
                self._changed.notify_all()

    def _write(self, text: str) -> bool:
        """Write the whole text, or return False."""
        # Not to `sys.stderr`, whose lock would keep the interpreter from exiting.
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
    """Log events of `level` and above as `console`, `logfmt` or `json`.

    `auto` is `console` on a terminal. Whatever else Python or a library then writes to
    standard error becomes an event, too: a write of its own would hang the thread of a
    poll or a request while nobody reads. Close the returned writer before the process
    ends.
    """
    descriptor = _standard_error()
    terminal = descriptor is not None and os.isatty(descriptor)
    if form == "auto" and terminal:
        form = "console"
    time_key = "time"
    if form == "console":
        time_key = "timestamp"  # which ConsoleRenderer puts first
    renderers: dict[str, structlog.typing.Processor] = {
        "console": structlog.dev.ConsoleRenderer(colors=terminal and may_colour()),
        "json": structlog.processors.JSONRenderer(ensure_ascii=False),
    }
    logfmt = structlog.processors.LogfmtRenderer(
        key_order=("time", "level", "event"), bool_as_flag=False
    )
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key=time_key),
        _explain_exception,
        _one_line,
        renderers.get(form, logfmt),
    ]
    rendering = structlog.wrap_logger(
        structlog.ReturnLogger(), processors, structlog.BoundLogger
    )
    writer = Writer(
        descriptor, lambda dropped: rendering.warning("log.lines_lost", lines=dropped)
    )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    _silence_libraries()
    _set_hooks(writer)
    sys.stderr = cast("TextIO", _StandardError(descriptor))
    return writer


def _silence_libraries() -> None:
    """Drop log records of libraries: they may quote an engine's answer, as urllib3's do.

    The exporter logs their failures as its own events.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    logging.lastResort = logging.NullHandler()  # for a logger that does not propagate
    logging.raiseExceptions = False


def _explain_exception(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Replace `exc_info`, an exception, by its type and its stack.

    Its message is left out, because it may quote an answer of the engine.
    """
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event["exception_type"] = type(error).__name__
        event["trace"] = "".join(traceback.format_tb(error.__traceback__))
    return event


def _set_hooks(writer: Writer) -> None:
    """Log Python's warnings, and the exceptions that nothing catches."""
    log = structlog.get_logger()
    warned: set[tuple[object, ...]] = set()

    def warn(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object
    ) -> None:
        # Some warnings come with each connection; each is logged once.
        key = category, str(message), filename, lineno
        if key not in warned and len(warned) < _MAX_WARNINGS:
            warned.add(key)
            where = f"{filename}:{lineno}"
            log.warning(
                "python.warning", category=category.__name__, text=str(message), where=where
            )

    def thread_failed(failed: threading.ExceptHookArgs) -> None:
        name = getattr(failed.thread, "name", None)
        log.error("thread.failed", thread=name, exc_info=failed.exc_value)

    def ignored(unraisable: sys.UnraisableHookArgs) -> None:
        log.error("exception.ignored", exc_info=unraisable.exc_value)

    def failed(_: type[BaseException], error: BaseException, __: object) -> None:
        log.error("exporter.failed", exc_info=error)
        writer.close(_SECONDS_AT_END)

    warnings.showwarning = warn  # type: ignore[assignment]
    threading.excepthook = thread_failed
    sys.unraisablehook = ignored
    sys.excepthook = failed


class _StandardError(io.TextIOBase):
    """A text stream for `sys.stderr`: each line that is written to it becomes an event."""

    _unfinished: str  # the line that is being written

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._log = structlog.get_logger()
        self._unfinished = ""

    def write(self, text: str) -> int:
        """Log each complete line; keep the rest until the next write or `flush`."""
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._log_line(line)
        # Somebody may write for ever without a line break.
        if len(self._unfinished) > _MAX_TEXT:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Log what was written without a line break."""
        line, self._unfinished = self._unfinished, ""
        self._log_line(line)

    def fileno(self) -> int:
        """Return the descriptor; `OSError` if standard error was closed at the start."""
        if self._descriptor is None:
            raise OSError("standard error is closed")
        return self._descriptor

    def _log_line(self, line: str) -> None:
        if line.strip():
            self._log.warning("stderr.written", text=line[:_MAX_TEXT])


def _standard_error() -> int | None:
    """Return its descriptor, or `None` if it was closed at the start.

    Then another file may have the number 2.
    """
    with suppress(AttributeError, OSError, ValueError):
        return sys.stderr.fileno()
    return None


def _one_line(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event
