"""Owns the log: structlog, set up once, to standard error."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Final

import structlog

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _StandardError:
    """A structlog logger that writes lines; a full disk or a reader that went away stops no poll."""

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


def configure(level: str, form: str) -> None:
    """Log events of `level` and above as `console`, `logfmt` or `json`; `auto` asks whether it's a terminal.

    What libraries log by themselves (docker-py, urllib3, asyncio) stays out: each of their failures is
    logged here, by name.
    """
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "logfmt"
    logging.getLogger().addHandler(logging.NullHandler())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(
                fmt="iso", utc=True, key="timestamp" if form == "console" else "time"
            ),
            structlog.processors.format_exc_info,
            _one_line,
            _renderer(form),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _StandardError(),
        cache_logger_on_first_use=False,
    )


def _one_line(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event


def printable(text: str) -> str:
    """Escape what a foreign engine or client could break a line or colour a terminal with."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _renderer(form: str) -> structlog.typing.Processor:
    if form == "console":
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if form == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.processors.LogfmtRenderer(key_order=["time", "level", "event"], bool_as_flag=False)
