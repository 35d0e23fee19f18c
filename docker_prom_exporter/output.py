"""Lines for people, and standard output for commands that print."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class OutputError(Exception):
    """Standard output can't be written; the message is one line for the user."""


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Yield standard output, and flush it at the end. Raises `OutputError` where it is closed or full."""
    if sys.stdout is None:
        raise OutputError("can't write to standard output: it is closed")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer goes nowhere: the interpreter would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"can't write to standard output: {error.strerror or error}") from error


def printable(text: str) -> str:
    """Escape what a foreign engine or client could break a line or colour a terminal with."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
