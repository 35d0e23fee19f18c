"""The blobs of a registry's storage: digests, sizes, manifests, and what holds each blob."""

from __future__ import annotations

import hashlib
import marshal
import stat
from array import array
from typing import TYPE_CHECKING, Final

from docker_prom_exporter.registry import digests
from docker_prom_exporter.registry.files import UNSETTLED, Defect, DefectError, version_of
from docker_prom_exporter.registry.manifests import MAX_BYTES, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from docker_prom_exporter.registry.files import Files
    from docker_prom_exporter.registry.manifests import Manifest

# What holds a blob. Of several holders the greatest counts.
NOTHING, UNTAGGED, TAG = range(3)
HOLDERS: Final = ("nothing", "untagged", "tag")


class _Prefix:
    """The blobs of a folder like `sha256/0f`. Arrays take a fifth of the memory of objects."""

    version: int  # of the folder when it was listed
    places: dict[bytes, int]  # in the arrays, by digest
    sizes: array[int]  # bytes on disk
    holders: bytearray
    manifests: dict[int, bytes]  # by place, marshalled: objects take ten times the memory

    def __init__(self, version: int = UNSETTLED) -> None:
        self.version = version
        self.places = {}
        self.sizes = array("q")
        self.holders = bytearray()
        self.manifests = {}

    def add(self, digest: bytes, size: int) -> None:
        """Add a blob that nothing holds."""
        self.places[digest] = len(self.sizes)
        self.sizes.append(size)
        self.holders.append(NOTHING)

    def keep_manifests(self, known: _Prefix) -> bool:
        """Keep the manifests of an earlier listing; return whether no blob has gone since."""
        same = True
        for digest, place in known.places.items():
            here = self.places.get(digest)
            if here is None or self.sizes[here] != known.sizes[place]:
                same = False
            elif place in known.manifests:
                self.manifests[here] = known.manifests[place]
        return same


class Blobs:
    """Blobs in the folder `path`, by digest; distribution stores each under its sha256.

    The content of a digest never changes, so each manifest is read once and kept until
    its blob is deleted or has another size. A folder is listed again when it has changed.
    """

    manifests_read: int
    _prefixes: list[_Prefix]  # by the first byte of the digests

    def __init__(self, path: str, files: Files) -> None:
        self._path = path
        self.files = files
        self.manifests_read = 0
        self._prefixes = [_Prefix() for _ in range(256)]

    def __len__(self) -> int:
        """Return the number of blobs."""
        return sum(len(prefix.sizes) for prefix in self._prefixes)

    def refresh(self) -> bool:
        """List changed folders; return whether a blob was deleted or has a new size."""
        path = f"{self._path}/sha256"
        names = {*self.files.folders(path, required=True)}
        changed = False
        for first, known in enumerate(self._prefixes):
            name = f"{first:02x}"
            listed = _Prefix()
            if name in names:
                listed = self._list(f"{path}/{name}", known)
            if listed is not known:
                self._prefixes[first] = listed
                changed |= not listed.keep_manifests(known)
        return changed

    def size(self, digest: bytes) -> int | None:
        """Return a blob's bytes on disk, None if it is not there or can't be read."""
        prefix = self._prefixes[digest[0]]
        place = prefix.places.get(digest)
        if place is not None:
            return prefix.sizes[place]
        # The blob may have been pushed since. No folder on its path may be a symbolic link.
        data = self.data(digest)
        parts = data.rsplit("/", 3)
        for depth in range(1, len(parts)):
            if not self.files.status("/".join(parts[:depth])):
                return None
        size = self._size_on_disk(data)
        if size is not None:
            prefix.add(digest, size)
        return size

    def data(self, digest: bytes) -> str:
        """Return the path of a blob's file."""
        name = digest.hex()
        return f"{self._path}/{digests.algorithm(digest)}/{name[:2]}/{name}/data"

    def absence(self, digest: bytes) -> Defect:
        """Return why a blob has no size: it is missing, or a problem of this scan."""
        return self.files.absence(self.data(digest))

    def manifest(self, digest: bytes) -> Manifest | Defect:
        """Return the manifest in a blob, or the reason why it can't be used."""
        size = self.size(digest)
        if size is None:
            return self.absence(digest)
        prefix = self._prefixes[digest[0]]
        place = prefix.places[digest]
        packed = prefix.manifests.get(place)
        if packed is not None:
            known: Manifest = marshal.loads(packed)  # noqa: S302  packed by the lines below
            return known
        try:
            manifest = self._read(digest, size)
        except DefectError as error:
            return error.defect
        prefix.manifests[place] = marshal.dumps(manifest)
        return manifest

    def release(self) -> None:
        """Forget what holds the blobs."""
        for prefix in self._prefixes:
            prefix.holders = bytearray(len(prefix.sizes))

    def hold(self, blobs: Iterable[bytes], holder: int) -> None:
        """Note that `holder` holds these blobs, as far as they are there."""
        for digest in blobs:
            prefix = self._prefixes[digest[0]]
            place = prefix.places.get(digest)
            if place is not None and prefix.holders[place] < holder:
                prefix.holders[place] = holder

    def bytes_by_holder(self) -> dict[str, int]:
        """Return the bytes of blobs on disk by one of `HOLDERS`."""
        totals = [0] * len(HOLDERS)
        for prefix in self._prefixes:
            for size, holder in zip(prefix.sizes, prefix.holders, strict=True):
                totals[holder] += size
        return dict(zip(HOLDERS, totals, strict=True))

    def _list(self, path: str, known: _Prefix) -> _Prefix:
        """Return the blobs of a folder like `sha256/0f`: `known` if it has not changed."""
        status = self.files.status(path)
        version = version_of(status) if status else UNSETTLED
        if version != UNSETTLED and version == known.version:
            return known
        listed = _Prefix(version)
        problems = len(self.files.problems)
        for name in self.files.folders(path):
            digest = digests.from_name("sha256", name)
            if digest is None or not path.endswith(name[:2]):
                continue
            size = self._size_on_disk(f"{path}/{name}/data")
            if size is None:
                # The file may come later, which does not change this folder.
                listed.version = UNSETTLED
            else:
                listed.add(digest, size)
        # Each scan must find the problems anew.
        if len(self.files.problems) > problems:
            listed.version = UNSETTLED
        return listed

    def _size_on_disk(self, path: str) -> int | None:
        status = self.files.status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        return status.st_size

    def _read(self, digest: bytes, size: int) -> Manifest:
        self.manifests_read += 1
        path = self.data(digest)
        if size > MAX_BYTES:
            raise DefectError("unsupported", f"{path} has more than {MAX_BYTES} bytes")
        text = self.files.read(path, size)
        if hashlib.new(digests.algorithm(digest), text).digest() != digest:
            raise DefectError("corrupt", f"{path} has a content of another digest")
        try:
            return parse(text)
        except DefectError as error:
            reason, detail = error.defect
            raise DefectError(reason, f"{path} {detail}") from error
