"""The exposition as a file for node_exporter's textfile collector."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client.exposition import generate_latest

from docker_prom_exporter.exposition import Families
from docker_prom_exporter.outlets.errors import OutletError, one_line
from docker_prom_exporter.outlets.metrics import textfile_families

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedWriter
    from pathlib import Path

    from prometheus_client.core import Metric

    from docker_prom_exporter.exposition import Exposition

_WRITE_INTERVAL: Final = 60
_MODE: Final = 0o644


class TextFile:
    """A file that is replaced atomically when the families change and each minute.

    Removed at the end. The temporary file is in the same directory and does not match
    `*.prom`. `check_interval` is the longest time in seconds between two calls of
    `is_due`. Raises `OutletError` if the file can't be written.
    """

    topic = "textfile"

    _due: float  # when to replace it even if nothing has changed, on the monotonic clock
    _written: tuple[Metric, ...] | None  # the families in it, `None` if that is unknown

    def __init__(self, path: Path, check_interval: float) -> None:
        self._path = path
        self._temporary = path.parent / f".{path.name}.tmp"
        self._check_interval = check_interval
        self._due = 0.0
        self._written = None
        self.log = structlog.get_logger().bind(path=str(path))
        # Report at the start what would fail at each write.
        try:
            if path.is_dir():
                raise IsADirectoryError("it is a directory")
            self._create().close()
            self._temporary.unlink()
        except OSError as error:
            raise OutletError(
                "no_file", f"can't write --textfile {path}: {one_line(error)}"
            ) from error

    def families(self, results: Mapping[str, int]) -> list[Metric]:
        """Return the writes by result."""
        return textfile_families(results)

    def is_due(self, exposition: Exposition) -> bool:
        """Return whether the families have changed, or a minute has passed."""
        if self._written is None or time.monotonic() >= self._due:
            return True
        # A family that has not changed is the same object.
        current = exposition.current_families()
        return [*map(id, current)] != [*map(id, self._written)]

    def pause(self) -> float:
        """Return the seconds until `is_due` has to be checked: a publication can expire."""
        return min(self._check_interval, max(self._due - time.monotonic(), 0))

    def deliver(self, exposition: Exposition) -> None:
        """Replace the file."""
        self._due = time.monotonic() + _WRITE_INTERVAL
        self._written = None
        families = exposition.current_families()
        try:
            with self._create() as file:
                file.write(generate_latest(Families(exposition.families())))
            self._temporary.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                self._temporary.unlink()
            detail = "the file stays as it was; look at its mtime"
            raise OutletError(one_line(error), detail) from error
        self._written = families

    def delivered(self) -> None:
        """Do nothing; a `Pusher` checks the expiry here."""

    def withdraw(self) -> None:
        """Remove the file."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise OutletError(one_line(error), "the file stays as it was") from error

    def _create(self) -> BufferedWriter:
        """Create the temporary file.

        An existing file, link or FIFO of that name is deleted, never opened.
        """
        self._temporary.unlink(missing_ok=True)
        file = self._temporary.open("xb")
        if sys.platform != "win32":
            os.fchmod(file.fileno(), _MODE)  # regardless of the umask
        return file
