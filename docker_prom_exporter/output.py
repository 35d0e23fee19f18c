"""What a command says: on standard output, in one line where it fails, in lines for people."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class CommandError(Exception):
    """A command can't do its work: one line for the user, and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Yield standard output, and flush it at the end. Raises `CommandError` where it is closed or full."""
    if sys.stdout is None:
        raise CommandError("can't write to standard output: it is closed")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer goes nowhere: the interpreter would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CommandError(f"can't write to standard output: {error.strerror or error}") from error


def printable(text: str) -> str:
    """Escape what a foreign engine or client could break a line or colour a terminal with."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
