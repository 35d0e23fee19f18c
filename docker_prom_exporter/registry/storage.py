"""Read a registry's file storage: the content of its repositories, and what holds its blobs.

The layout is that of distribution 2 and 3 (registry/storage/paths.go). Only links and
manifests are read.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.registry.blobs import HOLDERS, Blobs
from docker_prom_exporter.registry.files import Files
from docker_prom_exporter.registry.links import NO_LINKS, read_links
from docker_prom_exporter.registry.repositories import Repository, Resolver, Tag, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from docker_prom_exporter.registry.links import RepositoryLinks
    from docker_prom_exporter.registry.repositories import RepositoryState

__all__ = ["Contents", "Repository", "Storage", "StorageError", "Tag", "Unusable"]

# distribution/reference: a repository's name is a path of components.
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_MAX_NAME: Final = 255

# Where a registry keeps its storage below its root. A pull-through cache has a file beside it.
_BELOW_ROOT: Final = ("docker", "registry", "v2")
_CACHE_STATE: Final = "scheduler-state.json"

# distribution 2 empties a link before it writes it, and deletes a manifest before the tags
# that lead to it.
_SECONDS_BETWEEN_CHECKS: Final = 0.1
_MAX_CHECKS: Final = 5

# A blob that is changed in place changes no folder: only a scan of everything sees that.
_SECONDS_BETWEEN_FULL_SCANS: Final = 3600

_NO_BYTES: Final = dict.fromkeys(HOLDERS, 0)


class StorageError(Exception):
    """The storage can't be read. The message is the cause; `advice` is how to fix it."""

    def __init__(self, cause: str, advice: str) -> None:
        super().__init__(cause)
        self.advice = advice


class Contents(NamedTuple):
    """The content of a storage.

    `blob_bytes` has the bytes held by `tag`, `untagged` and `nothing`; without `nothing`
    if the storage has blobs and no manifests, so that nobody can know what holds them.
    """

    repositories: tuple[Repository, ...] = ()
    blob_bytes: Mapping[str, int] = _NO_BYTES
    upload_bytes: int = 0
    unusable: tuple[Unusable, ...] = ()
    is_cache: bool = False

    def tags(self) -> int:
        """Return the number of tags."""
        return sum(len(repository.tags) for repository in self.repositories)


class Storage:
    """A registry's file storage at `path`.

    One thread calls `scan`; any thread may call `progress`. `checkpoint` is called before
    each file or folder is accessed; an exception from it ends the scan.
    """

    _states: dict[str, RepositoryState]  # of the last scan, by name
    _seen: Counter[str]  # what the current scan has read
    _full_scan_due: float  # on the monotonic clock
    _was_cache: bool
    _had_repositories: bool  # whether a scan has found a storage that is not empty

    def __init__(self, path: str, checkpoint: Callable[[], object] = lambda: None) -> None:
        self._path = path
        self._files = Files(checkpoint)
        self._seen = Counter()
        self._was_cache = self._had_repositories = False
        self._forget()

    def progress(self) -> dict[str, int]:
        """Return the counts of the current scan, and the manifests read since a full scan."""
        return {
            **self._seen,
            "blobs": len(self._blobs),
            "manifests_read": self._blobs.manifests_read,
        }

    def scan(self) -> Contents:
        """Return the content of the storage, which may change during the scan.

        Raises `StorageError`.
        """
        try:
            return self._scan()
        except OSError as error:
            cause = f"can't read {error.filename or self._path}: {error.strerror}"
            raise StorageError(
                cause, "look at the mount, and whether this user may read it"
            ) from error

    def _forget(self) -> None:
        self._states = {}
        self._blobs = Blobs(f"{self._path}/blobs", self._files)
        self._full_scan_due = time.monotonic() + _SECONDS_BETWEEN_FULL_SCANS

    def _scan(self) -> Contents:
        self._seen.clear()
        self._files.problems.clear()
        roots = self._roots()
        is_cache = self._is_cache()
        if is_cache != self._was_cache or time.monotonic() >= self._full_scan_due:
            self._was_cache = is_cache
            self._forget()
        if not roots:
            return Contents(is_cache=is_cache)
        self._had_repositories = True
        blobs_gone = self._blobs.refresh()
        states: dict[str, RepositoryState] = {}
        upload_bytes = 0
        for name, folders in self._walk():
            if "_uploads" in folders:
                upload_bytes += self._upload_bytes(name)
            if "_manifests" in folders:
                state = self._state(name, self._states.get(name), blobs_gone=blobs_gone)
                if state:
                    states[name] = state
        self._check_again(states)
        if self._roots()[: len(roots)] != roots:
            cause = f"{self._path} was replaced during the scan"
            raise StorageError(cause, "the next scan reads what is there now")
        self._states = states
        return self._contents(upload_bytes)

    def _contents(self, upload_bytes: int) -> Contents:
        states = [self._states[name] for name in sorted(self._states)]
        self._blobs.release()
        unusable: list[Unusable] = []
        for state in states:
            self._resolver(state.repository.name, state.links).hold()
            unusable += state.unusable
        blob_bytes = self._blobs.bytes_by_holder()
        if not states and any(blob_bytes.values()):
            del blob_bytes["nothing"]
        # A path that spoils a tag counts with the tag.
        known = {each.defect for each in unusable}
        for _, problem in sorted(self._files.problems.items()):
            if problem not in known:
                unusable.append(Unusable("", "", problem))
        repositories = tuple(state.repository for state in states)
        return Contents(
            repositories, blob_bytes, upload_bytes, tuple(unusable), self._was_cache
        )

    def _root(self) -> Path | None:
        """Return the root of the registry's files, None if PATH ends otherwise."""
        path = Path(os.path.realpath(self._path))
        return path.parents[2] if path.parts[-3:] == _BELOW_ROOT else None

    def _is_cache(self) -> bool:
        root = self._root()
        return root is not None and os.path.lexists(root / _CACHE_STATE)

    def hides_cache_state(self) -> bool:
        """Return whether the root of the registry's files is not mounted with the storage."""
        root = self._root()
        if root is None:
            return True
        try:
            return root.stat().st_dev != Path(self._path).stat().st_dev
        except OSError:
            return False  # gone since: the next scan says so

    def _roots(self) -> list[tuple[int, int]]:
        """Return device and inode of the storage's two folders.

        Before the first push there are none, and during it there are only `repositories`.
        """
        roots = []
        for name in ("repositories", "blobs"):
            try:
                status = os.lstat(f"{self._path}/{name}")
            except (FileNotFoundError, NotADirectoryError):
                break
            if not stat.S_ISDIR(status.st_mode):
                break
            roots.append((status.st_dev, status.st_ino))
        if len(roots) == 2:
            return roots
        empty = not self._has_manifests() if roots else self._is_empty()
        if not empty:
            raise self._wrong_path()
        return roots

    def _wrong_path(self) -> StorageError:
        cause = f"no folders repositories and blobs in {self._path}"
        if not Path(self._path).exists():
            cause += ", which does not exist"
        advice = "the path ends in docker/registry/v2; look at the mount"
        for below in ("v2", "registry/v2", "docker/registry/v2"):
            if Path(self._path, below, "repositories").is_dir():
                advice = f"the storage is {self._path}/{below}"
        return StorageError(cause, advice)

    def _has_manifests(self) -> bool:
        return any("_manifests" in folders for _, folders in self._walk())

    def _is_empty(self) -> bool:
        """Return whether a registry that was never pushed to can have left the folders so."""
        folder = self._root()
        below = [*_BELOW_ROOT]
        if folder is None:
            folder = Path(os.path.realpath(self._path))
            below = []
        # The mount must be there, and hold nothing but the way to the storage.
        if self._had_repositories or not folder.is_dir():
            return False
        for name in (*below, ""):
            if folder.is_dir():
                entries = {entry.name for entry in folder.iterdir()}
                if entries - {name, _CACHE_STATE, "lost+found"}:
                    return False
            folder /= name
        return True

    def _walk(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the name of each folder that can be a repository, and the folders in it."""
        repositories = f"{self._path}/repositories"
        todo = self._files.folders(repositories, required=True)
        while todo:
            name = todo.pop()
            if len(name) > _MAX_NAME or not _COMPONENT.fullmatch(name.rpartition("/")[2]):
                continue
            folders = self._files.folders(f"{repositories}/{name}")
            yield name, folders
            todo += [f"{name}/{each}" for each in folders]

    def _state(
        self, name: str, known: RepositoryState | None, *, blobs_gone: bool
    ) -> RepositoryState | None:
        """Return the state of a repository, None if its tags or revisions can't be read."""
        links = read_links(self._files, self._folder(name), known.links if known else NO_LINKS)
        if links is None:
            return None
        self._seen.update(repositories=1, tags=len(links.tags))
        if known and known.final and not blobs_gone and links == known.links:
            return known
        return self._resolver(name, links).state()

    def _resolver(self, name: str, links: RepositoryLinks) -> Resolver:
        return Resolver(name, self._folder(name), links, self._blobs, cache=self._was_cache)

    def _folder(self, name: str) -> str:
        return f"{self._path}/repositories/{name}"

    def _check_again(self, states: dict[str, RepositoryState]) -> None:
        """Read suspect repositories again: a link may have just been written or deleted."""
        suspects = [*states]
        for _ in range(_MAX_CHECKS):
            suspects = [name for name in suspects if states[name].unusable]
            if not suspects:
                break
            time.sleep(_SECONDS_BETWEEN_CHECKS)
            suspects = [name for name in suspects if self._has_changed(name, states)]

    def _has_changed(self, name: str, states: dict[str, RepositoryState]) -> bool:
        """Read a repository again, and return whether its links have changed."""
        known = states[name].links
        links = read_links(self._files, self._folder(name), known)
        if links is None or links == known:
            return False
        states[name] = self._resolver(name, links).state()
        return True

    def _upload_bytes(self, name: str) -> int:
        uploads = f"{self._path}/repositories/{name}/_uploads"
        total = 0
        for upload in self._files.folders(uploads):
            data = self._files.status(f"{uploads}/{upload}/data")
            total += data.st_size if data else 0
        return total
