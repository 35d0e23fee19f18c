"""The blobs of a registry's storage: digests, sizes, manifests, and what holds each blob."""

from __future__ import annotations

import hashlib
import marshal
import re
import stat
from array import array
from typing import TYPE_CHECKING, Final

from docker_prom_exporter.registry import digests
from docker_prom_exporter.registry.files import UNSETTLED, Defect, DefectError, version_of
from docker_prom_exporter.registry.manifests import MAX_BYTES, Descriptor, Manifest, parse

if TYPE_CHECKING:
    from docker_prom_exporter.registry.files import Files

_PREFIX: Final = re.compile(r"[0-9a-f]{2}")

_Key = tuple[int, int]  # of a folder like `sha256/0f`: bytes of its digests, and the first one

# What holds a blob. Of several holders the greatest counts.
NOTHING, UNTAGGED, TAG = range(3)
HOLDERS: Final = ("nothing", "untagged", "tag")


class _Prefix:
    """The blobs of a folder like `sha256/0f`. Arrays take a fifth of the memory of objects."""

    version: int  # of the folder at its listing
    numbers: dict[bytes, int]  # digest → place in the arrays
    sizes: array[int]  # bytes on disk
    holders: bytearray
    manifests: dict[int, bytes]  # by place, marshalled: objects take ten times the memory

    def __init__(self) -> None:
        self.version = UNSETTLED
        self.numbers = {}
        self.sizes = array("q")
        self.holders = bytearray()
        self.manifests = {}

    def add(self, digest: bytes, size: int) -> None:
        """Add a blob that nothing holds."""
        self.numbers[digest] = len(self.sizes)
        self.sizes.append(size)
        self.holders.append(NOTHING)

    def size(self, digest: bytes) -> int | None:
        """Return a blob's bytes on disk, None if it is not here."""
        number = self.numbers.get(digest)
        return None if number is None else self.sizes[number]


class Blobs:
    """Blobs in the folder `path`, by digest.

    The content of a digest never changes, so each manifest is read once and kept until its
    blob is deleted or has another size. A folder is listed again when it has changed.
    """

    _prefixes: dict[_Key, _Prefix]
    _changed: bool  # whether a blob was deleted or has a new size since the last `refresh`
    manifests_read: int

    def __init__(self, path: str, files: Files) -> None:
        self._path = path
        self.files = files
        self._prefixes = {}
        self._changed = False
        self.manifests_read = 0

    def __len__(self) -> int:
        """Return the number of blobs."""
        return sum(len(prefix.sizes) for prefix in self._prefixes.values())

    def refresh(self) -> bool:
        """List changed folders; return whether a blob was deleted or has a new size."""
        keys = set(self._prefixes)
        for algorithm in self.files.folders(self._path, required=True):
            for name in self.files.folders(f"{self._path}/{algorithm}", required=True):
                if algorithm in digests.WIDTHS and _PREFIX.fullmatch(name):
                    keys.add((digests.WIDTHS[algorithm], int(name, 16)))
        for key in sorted(keys):
            self._list(key)
        changed, self._changed = self._changed, False
        return changed

    def size(self, digest: bytes) -> int | None:
        """Return a blob's bytes on disk, None if it is not there or can't be read."""
        key = _key(digest)
        size = self._prefixes[key].size(digest) if key in self._prefixes else None
        if size is None and self.files.status(f"{self._path}/{digests.algorithm(digest)}"):
            # The blob may have been pushed since.
            size = self._list(key).size(digest)
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
        if self.size(digest) is None:
            return self.absence(digest)
        prefix = self._prefixes[_key(digest)]
        number = prefix.numbers[digest]
        packed = prefix.manifests.get(number)
        if packed is None:
            try:
                manifest = self._read(digest)
            except DefectError as error:
                return error.defect
            packed = marshal.dumps(tuple(map(tuple, manifest.descriptors)))
            prefix.manifests[number] = packed
            return manifest
        descriptors = marshal.loads(packed)  # noqa: S302  packed by the lines above
        return Manifest(tuple(map(Descriptor._make, descriptors)))

    def release(self) -> None:
        """Forget what holds the blobs."""
        for prefix in self._prefixes.values():
            prefix.holders = bytearray(len(prefix.sizes))

    def hold(self, digest: bytes, holder: int) -> None:
        """Note that `holder` holds the blob, if there is such a blob."""
        prefix = self._prefixes.get(_key(digest))
        number = None if prefix is None else prefix.numbers.get(digest)
        if prefix and number is not None and prefix.holders[number] < holder:
            prefix.holders[number] = holder

    def bytes_by_holder(self) -> dict[str, int]:
        """Return the bytes of blobs on disk by one of `HOLDERS`."""
        totals = [0] * len(HOLDERS)
        for prefix in self._prefixes.values():
            for size, holder in zip(prefix.sizes, prefix.holders, strict=True):
                totals[holder] += size
        return dict(zip(HOLDERS, totals, strict=True))

    def _list(self, key: _Key) -> _Prefix:
        """Return the blobs of a prefix; list them if its folder has changed."""
        algorithm, beginning = digests.algorithm(bytes(key[0])), f"{key[1]:02x}"
        path = f"{self._path}/{algorithm}/{beginning}"
        status = self.files.status(path)
        known = self._prefixes.setdefault(key, _Prefix())
        version = version_of(status) if status else UNSETTLED
        if version != UNSETTLED and version == known.version:
            return known
        listed = _Prefix()
        complete = True
        for name in self.files.folders(path):
            digest = digests.from_name(algorithm, name)
            if digest and name.startswith(beginning):
                data = self.files.status(f"{path}/{name}/data")
                if data and stat.S_ISREG(data.st_mode):
                    listed.add(digest, data.st_size)
                else:
                    complete = False
        if complete and not self.files.has_problems_in(path):
            listed.version = version
        self._prefixes[key] = listed
        self._keep(known, listed)
        return listed

    def _keep(self, known: _Prefix, listed: _Prefix) -> None:
        """Keep what was known of the blobs that are still there."""
        for digest, number in known.numbers.items():
            if known.sizes[number] != listed.size(digest):
                self._changed = True
                continue
            place = listed.numbers[digest]
            listed.holders[place] = known.holders[number]
            if number in known.manifests:
                listed.manifests[place] = known.manifests[number]

    def _read(self, digest: bytes) -> Manifest:
        self.manifests_read += 1
        path = self.data(digest)
        size = self.size(digest) or 0
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


def _key(digest: bytes) -> _Key:
    return len(digest), digest[0]
