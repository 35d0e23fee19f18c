"""Parse manifests of images, indexes and artifacts, and resolve tags through them. No input or output."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Revisions = Mapping[str, "Manifest | Defect"]
    SizeOnDisk = Callable[[str], int | None]

REASONS: Final = ("missing", "corrupt", "unsupported", "denied")

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")

MAX_BYTES: Final = 4 * 2**20  # distribution's limit: maxManifestBodySize

# A value needs up to 240 bytes of memory, so that 4 MiB of empty lists would need 100 MB.
_MAX_VALUES: Final = 100_000
_MAX_SIZE: Final = 2**63 - 1

_DOCKER: Final = "application/vnd.docker.distribution.manifest"
_OCI: Final = "application/vnd.oci"
_BUILD_CACHE_CONFIG: Final = "application/vnd.buildkit.cacheconfig.v0"


class Defect(NamedTuple):
    """Why a manifest or a tag can't be used: one of `REASONS`, and a line of detail."""

    reason: str
    detail: str


def missing(digest: str) -> Defect:
    """Return the defect of a manifest or another blob that does not exist."""
    return Defect("missing", f"{digest} is gone")


class DefectError(Exception):
    """A manifest or a tag can't be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.defect = Defect(reason, detail)


class Layer(NamedTuple):
    """A layer. `size` is in bytes, None if the manifest has none; a `foreign` layer may be elsewhere."""

    digest: str
    size: int | None
    foreign: bool


class Manifest(NamedTuple):
    """The layers, config digests and, for an index, manifest digests (`children`) that a manifest names."""

    layers: tuple[Layer, ...]
    configs: tuple[str, ...] = ()
    children: tuple[str, ...] = ()

    def digests(self) -> tuple[str, ...]:
        """Return all digests that the manifest names directly."""
        return (*(layer.digest for layer in self.layers), *self.configs, *self.children)


class Image(NamedTuple):
    """The digests of the manifests and of all blobs that a tag leads to.

    `layers` is the number of different layers, `size` their bytes; both are None if unknown. `defect` is the
    reason why the image can't be pulled.
    """

    manifests: frozenset[str] = frozenset()
    blobs: frozenset[str] = frozenset()
    layers: int | None = None
    size: int | None = None
    defect: Defect | None = None


def parse(text: bytes) -> Manifest:
    """Parse a manifest: Docker schema 1, 2 or list, OCI image, index or artifact. Raises `DefectError`.

    The kind is determined as in distribution: by `mediaType`, or by the content if there is no `mediaType`.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise DefectError("unsupported", f"it has more than {_MAX_VALUES} values")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DefectError("corrupt", "it is not JSON") from error
    if not isinstance(document, dict):
        raise DefectError("corrupt", "it is not a JSON object")
    read = _READERS.get(_media_type(document))
    if read is None:
        raise DefectError(
            "unsupported", "its mediaType and schemaVersion are of no known kind"
        )
    try:
        return read(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DefectError("corrupt", "it lacks fields that its kind requires") from error


def image(root: str, revisions: Revisions, size_on_disk: SizeOnDisk) -> Image:
    """Resolve a tag's digest `root`; `size_on_disk` returns None for a blob that does not exist."""
    reached = _reached(root, revisions)
    defects = [found for found in reached.values() if isinstance(found, Defect)]
    if defects:
        worst = min(defects, key=lambda defect: REASONS.index(defect.reason))
        return Image(frozenset(reached), defect=worst)
    manifests = [found for found in reached.values() if isinstance(found, Manifest)]
    layers = [layer for manifest in manifests for layer in manifest.layers]
    configs = {config for manifest in manifests for config in manifest.configs}
    here = configs.union(layer.digest for layer in layers if not layer.foreign)
    gone = [digest for digest in here if size_on_disk(digest) is None]
    sizes = _sizes(layers, size_on_disk)
    return Image(
        manifests=frozenset(reached),
        blobs=frozenset((*reached, *configs, *sizes)),
        layers=len(sizes),
        size=None if None in sizes.values() else sum(filter(None, sizes.values())),
        defect=missing(min(gone)) if gone else None,
    )


def _media_type(document: Mapping[str, Any]) -> str:
    media_type = document.get("mediaType") or ""
    if media_type or document.get("schemaVersion") not in (1, 2):
        return str(media_type)
    if document["schemaVersion"] == 1:
        return f"{_DOCKER}.v1+json"
    return (
        f"{_OCI}.image.{'manifest' if document.get('manifests') is None else 'index'}.v1+json"
    )


def _image(document: Mapping[str, Any]) -> Manifest:
    return Manifest(
        _layers(document.get("layers")), configs=(_descriptor(document["config"])[0],)
    )


def _artifact(document: Mapping[str, Any]) -> Manifest:
    return Manifest(_layers(document.get("blobs")))


def _schema_1(document: Mapping[str, Any]) -> Manifest:
    digests = (_digest(layer["blobSum"]) for layer in document["fsLayers"])
    return Manifest(tuple(Layer(digest, None, foreign=False) for digest in digests))


def _index(document: Mapping[str, Any]) -> Manifest:
    """Read an index. BuildKit's cache is an index of layers and a config instead of images."""
    named = [(entry.get("mediaType"), entry) for entry in document.get("manifests") or ()]
    return Manifest(
        _layers(
            e for kind, e in named if kind not in _READERS and kind != _BUILD_CACHE_CONFIG
        ),
        configs=tuple(_descriptor(e)[0] for kind, e in named if kind == _BUILD_CACHE_CONFIG),
        children=tuple(_descriptor(e)[0] for kind, e in named if kind in _READERS),
    )


def _layers(entries: Any) -> tuple[Layer, ...]:
    return tuple(
        Layer(*_descriptor(entry), foreign=bool(entry.get("urls"))) for entry in entries or ()
    )


def _descriptor(entry: Mapping[str, Any]) -> tuple[str, int]:
    size = entry["size"]
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise ValueError("a size is no number of bytes")
    return _digest(entry["digest"]), size


def _digest(text: str) -> str:
    if not DIGEST.fullmatch(text):
        raise ValueError("a digest is not written like one")
    return text


def _sizes(layers: list[Layer], size_on_disk: SizeOnDisk) -> dict[str, int | None]:
    """Return each layer's size from its manifest, or the size on disk if that has none (schema 1)."""
    sizes: dict[str, int | None] = {
        layer.digest: layer.size for layer in layers if layer.size is not None
    }
    return {
        digest: size_on_disk(digest) for digest, *_ in layers if digest not in sizes
    } | sizes


def _reached(root: str, revisions: Revisions) -> dict[str, Manifest | Defect]:
    """Return the manifests an image or index reaches, itself included."""
    reached: dict[str, Manifest | Defect] = {}
    todo = [root]
    while todo:
        digest = todo.pop()
        if digest not in reached:
            reached[digest] = found = revisions.get(digest) or missing(digest)
            if isinstance(found, Manifest):
                todo += found.children
    return reached


_READERS: Final[dict[str, Callable[[Mapping[str, Any]], Manifest]]] = {
    f"{_DOCKER}.v1+json": _schema_1,
    f"{_DOCKER}.v1+prettyjws": _schema_1,
    f"{_DOCKER}.v2+json": _image,
    f"{_DOCKER}.list.v2+json": _index,
    f"{_OCI}.image.manifest.v1+json": _image,
    f"{_OCI}.image.index.v1+json": _index,
    f"{_OCI}.artifact.manifest.v1+json": _artifact,
}
