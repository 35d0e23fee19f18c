"""The blobs of a registry's storage: digests, sizes and manifests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from docker_prom_exporter.registry import files
from docker_prom_exporter.registry.manifests import (
    DIGEST,
    MAX_BYTES,
    Defect,
    DefectError,
    Manifest,
    missing,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator


class _Prefix(NamedTuple):
    """Blobs with a common beginning of the digest; `version` is None if they must be listed again."""

    version: files.Version | None = None
    digests: frozenset[str] = frozenset()


class Blobs:
    """Blobs in the folder `path`, by digest.

    The content of a digest never changes, so each size and each manifest is read once and kept until the blob
    is deleted. `checkpoint` is called before each file or folder is accessed.
    """

    def __init__(self, path: str, checkpoint: Callable[[], object]) -> None:
        self._path = path
        self._checkpoint = checkpoint
        self._prefixes: dict[str, _Prefix] = {}
        self._sizes: dict[str, int] = {}
        self._manifests: dict[str, Manifest] = {}
        self._resized = False
        self.manifests_read = 0

    def __len__(self) -> int:
        """Return the number of blobs with a known size."""
        return len(self._sizes)

    def refresh(self) -> bool:
        """List changed folders; return whether a blob was deleted or has a new size. Raises `OSError`."""
        self._prefixes = {prefix: self._list(prefix) for prefix in self._prefix_names()}
        there = frozenset().union(*(prefix.digests for prefix in self._prefixes.values()))
        vanished = self._sizes.keys() - there
        for digest in vanished:
            del self._sizes[digest]
            self._manifests.pop(digest, None)
        resized, self._resized = self._resized, False
        return resized or bool(vanished)

    def size(self, digest: str) -> int | None:
        """Return a blob's bytes on disk, None if the blob does not exist. Raises `OSError`.

        A blob that was not listed may have been pushed since.
        """
        size = self._sizes.get(digest)
        if size is None:
            folder = self._folder(digest)
            if files.is_folder(folder.rpartition("/")[0]) and files.is_folder(folder):
                size = self._ask_size(digest)
        return size

    def manifest(self, digest: str) -> Manifest | Defect:
        """Return the manifest in a blob, or the reason why it can't be used. Raises `OSError`."""
        if self.size(digest) is None:
            return missing(digest)
        if digest not in self._manifests:
            try:
                self._manifests[digest] = self._read(digest)
            except DefectError as error:
                return Defect(error.defect.reason, f"{digest}: {error.defect.detail}")
        return self._manifests[digest]

    def bytes_by_holder(
        self, tagged: Container[str], untagged: Container[str]
    ) -> dict[str, int]:
        """Return the bytes of blobs held by tags, held only by untagged manifests, and held by nothing."""
        totals = {"tag": 0, "untagged": 0, "nothing": 0}
        for digest, size in self._sizes.items():
            totals[
                "tag" if digest in tagged else "untagged" if digest in untagged else "nothing"
            ] += size
        return totals

    def _prefix_names(self) -> Iterator[str]:
        """Yield the beginnings of digests that have a folder, like `sha256:0f`."""
        for algorithm in files.folders(self._path):
            yield from (
                f"{algorithm}:{name}" for name in files.folders(f"{self._path}/{algorithm}")
            )

    def _list(self, prefix: str) -> _Prefix:
        """List the blobs of a prefix, unless its folder has not changed since the last listing."""
        self._checkpoint()
        path = f"{self._path}/{prefix.replace(':', '/')}"
        known = self._prefixes.get(prefix, _Prefix())
        version = files.version(path)
        if version and version == known.version:
            return known
        names = {
            f"{prefix[:-2]}{name}"
            for name in files.folders(path)
            if name.startswith(prefix[-2:])
        }
        final = known.digests if known.version else frozenset()
        listed = frozenset(
            digest for digest in names if digest in final or self._ask_size(digest) is not None
        )
        settled = version and files.is_settled(version) and len(listed) == len(names)
        return _Prefix(version if settled else None, listed)

    def _ask_size(self, digest: str) -> int | None:
        self._checkpoint()
        size = files.size(f"{self._folder(digest)}/data") if DIGEST.fullmatch(digest) else None
        if size is not None:
            self._resized |= self._sizes.get(digest, size) != size
            self._sizes[digest] = size
        return size

    def _read(self, digest: str) -> Manifest:
        self._checkpoint()
        self.manifests_read += 1
        text, _ = files.read(f"{self._folder(digest)}/data", MAX_BYTES)
        algorithm, _, name = digest.partition(":")
        if hashlib.new(algorithm, text).hexdigest() != name:
            raise DefectError("corrupt", "its content has another digest")
        return parse(text)

    def _folder(self, digest: str) -> str:
        algorithm, _, name = digest.partition(":")
        return f"{self._path}/{algorithm}/{name[:2]}/{name}"
