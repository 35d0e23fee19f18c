"""Output of commands: standard output, one-line errors, and escaped text."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

_ENDED_BY_SIGPIPE: Final = 128 + 13


class CommandError(Exception):
    """A command failed.

    The message is one line for the user or empty, `code` the exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Yield standard output and flush it at the end.

    Raises `CommandError` if it is closed or full, and one without a message if its reader
    is gone, as in `check | head -1`.
    """
    if sys.stdout is None:
        raise CommandError("can't write to standard output: it is closed")
    try:
        yield sys.stdout
        # What is still buffered can fail, too.
        sys.stdout.flush()
    except OSError as error:
        # Discard the buffer: at exit the interpreter would flush it and report another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise CommandError("", _ENDED_BY_SIGPIPE) from error
        raise CommandError(
            f"can't write to standard output: {error.strerror or error}"
        ) from error


def may_colour() -> bool:
    """Return whether the user takes colours on a terminal (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Escape text of an engine or a client that could break a line or colour a terminal."""
    if text.isprintable():
        return text
    return text.encode("unicode_escape").decode()
