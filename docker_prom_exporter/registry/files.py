"""Access to files that may change at any time, without following symbolic links or waiting for FIFOs."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from contextlib import suppress
from typing import Final, NamedTuple

from docker_prom_exporter.registry.manifests import DefectError

if sys.platform == "win32":
    _READ = _LIST = os.O_RDONLY
else:
    _READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # to open a FIFO must not block
    _LIST = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY

# A second change within one tick of a file system's clock does not change the times.
_NANOSECONDS_TO_SETTLE: Final = 2 * 10**9


class Version(NamedTuple):
    """Identifies the content of a file or folder; each change of the content leads to a new version."""

    inode: int
    size: int
    modified: int
    changed: int


def version(path: str) -> Version | None:
    """Return the version of the file or folder, None if it does not exist. Raises `OSError`."""
    found = _status(path)
    return _version(found) if found else None


def is_settled(found: Version) -> bool:
    """Return whether the next change will change the version; not so soon after the last change."""
    return found.changed < time.time_ns() - _NANOSECONDS_TO_SETTLE


def is_folder(path: str) -> bool:
    """Return whether the path is a folder. Raises `OSError`."""
    found = _status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def size(path: str) -> int | None:
    """Return a file's size in bytes, None if there is no regular file. Raises `OSError`."""
    found = _status(path)
    return found.st_size if found and stat.S_ISREG(found.st_mode) else None


def folders(path: str) -> list[str]:
    """Return the names of subfolders; no names if the path is not a folder or is gone. Raises `OSError`."""
    try:
        opened = os.open(path, _LIST)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return []
        raise
    try:
        with os.scandir(opened) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(opened)


def read(path: str, limit: int) -> tuple[bytes, Version]:
    """Return a file's content and version. Raises `DefectError`, also if it has more than `limit` bytes."""
    try:
        with open(path, "rb", opener=lambda path, _: os.open(path, _READ)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DefectError("corrupt", "it is not a regular file")
            if status.st_size > limit:
                raise DefectError("unsupported", f"it has more than {limit} bytes")
            return file.read(status.st_size), _version(status)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DefectError("missing", f"{path} is gone") from error
    except OSError as error:
        reason = (
            "corrupt" if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) else "denied"
        )
        raise DefectError(reason, f"{path}: {error.strerror}") from error


def _status(path: str) -> os.stat_result | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.lstat(path)
    return None


def _version(status: os.stat_result) -> Version:
    return Version(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
