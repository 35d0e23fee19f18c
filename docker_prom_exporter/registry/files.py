"""Access to files that may change at any time: follow no link, wait for no FIFO."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform == "win32":
    _READ = _LIST = os.O_RDONLY
else:
    _READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # to open a FIFO must not block
    _LIST = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY

UNSETTLED: Final = 0  # the version of a file or folder that must be read again

_NOT_A_FOLDER: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

# This user may not read it, or the disk can't. EUCLEAN, of a damaged file system, is Linux's.
_UNREADABLE: Final = (errno.EACCES, errno.EPERM, errno.EIO, getattr(errno, "EUCLEAN", None))

# A second change within one tick of a file system's clock does not change the times.
_NANOSECONDS_TO_SETTLE: Final = 2 * 10**9


class Defect(NamedTuple):
    """Why something can't be used: the metric's `reason`, and a line with its path."""

    reason: str
    detail: str


class DefectError(Exception):
    """A file can't be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.defect = Defect(reason, detail)


def version_of(status: os.stat_result) -> int:
    """Return a number that changes with the content, `UNSETTLED` right after a change."""
    if status.st_ctime_ns >= time.time_ns() - _NANOSECONDS_TO_SETTLE:
        return UNSETTLED
    return hash((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


class Files:
    """Reads the files and folders of a storage. `checkpoint` is called before each access.

    A symbolic link, or what can't be read, becomes one of `problems` and costs nothing
    else. Errors that are not about one file, such as too many open files, are raised as
    `OSError`.
    """

    problems: dict[str, Defect]  # by path, of the current scan

    def __init__(self, checkpoint: Callable[[], object]) -> None:
        self._checkpoint = checkpoint
        self.problems = {}

    def status(self, path: str) -> os.stat_result | None:
        """Return the status of a file or folder, None if there is none that can be used."""
        self._checkpoint()
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._deny(path, error)
            return None
        if stat.S_ISLNK(status.st_mode):
            self.problems[path] = Defect("link", f"{path} is a symbolic link")
            return None
        return status

    def folders(self, path: str, *, required: bool = False) -> list[str]:
        """Return the names of subfolders; none if the path is gone or is not a folder.

        Raises `OSError` if a `required` folder can't be read.
        """
        self._checkpoint()
        try:
            return self._folders(path)
        except OSError as error:
            if error.errno in _NOT_A_FOLDER:
                self.status(path)  # notes a symbolic link
            elif required:
                raise
            else:
                self._deny(path, error)
        return []

    def _folders(self, path: str) -> list[str]:
        names = []
        opened = os.open(path, _LIST)
        try:
            with os.scandir(opened) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        names.append(entry.name)
                    elif entry.is_symlink():
                        link = f"{path}/{entry.name}"
                        self.problems[link] = Defect("link", f"{link} is a symbolic link")
        finally:
            os.close(opened)
        return names

    def read(self, path: str, limit: int) -> bytes:
        """Return the content of a file, but at most one byte more than `limit`.

        Raises `DefectError`.
        """
        self._checkpoint()
        try:
            opened = os.open(path, _READ)
            try:
                return os.read(opened, limit + 1)
            finally:
                os.close(opened)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.EISDIR):
                raise DefectError("corrupt", f"{path} is not a file") from error
            if error.errno in _NOT_A_FOLDER:
                self.status(path)
            else:
                self._deny(path, error)
        raise DefectError(*self.absence(path))

    def absence(self, path: str) -> Defect:
        """Return why nothing was found at a path: a problem there or above, or missing."""
        above = path
        while above:
            if above in self.problems:
                return self.problems[above]
            above = above.rpartition("/")[0]
        return Defect("missing", f"{path} is gone")

    def _deny(self, path: str, error: OSError) -> None:
        if error.errno not in _UNREADABLE:
            raise error
        self.problems[path] = Defect("denied", f"{path}: {error.strerror}")
