"""Parse manifests of images, indexes and artifacts. No input or output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from docker_prom_exporter.registry import digests
from docker_prom_exporter.registry.files import DefectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Document = Mapping[str, Any]

MAX_BYTES: Final = 4 * 2**20  # distribution's limit: maxManifestBodySize

LAYER: Final = "layer"
LAYER_OF_SCHEMA_1: Final = "layer of schema 1"  # distribution 3 can't serve schema 1
FOREIGN: Final = "foreign"  # a layer that may be elsewhere
CONFIG: Final = "config"
CHILD: Final = "child"  # a manifest that an index names

# A value needs up to 240 bytes of memory, so that 4 MiB of empty lists would need 100 MB.
_MAX_VALUES: Final = 100_000
_INT64: Final = 2**63

_DOCKER: Final = "application/vnd.docker.distribution.manifest"
_OCI: Final = "application/vnd.oci"
_BUILD_CACHE_CONFIG: Final = "application/vnd.buildkit.cacheconfig.v0"

# Go's decoder, and so distribution, takes a key in any case.
_KEYS: Final = {
    "schemaversion": "schemaVersion",
    "mediatype": "mediaType",
    "fslayers": "fsLayers",
    "blobsum": "blobSum",
}
_USUAL_KEYS: Final = frozenset(
    ("schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "urls")
)


# What a manifest names: one of the kinds above, a digest, and the bytes, which not every
# manifest says; schema 1 never does.
Descriptor = tuple[str, bytes, int | None]
Manifest = tuple[Descriptor, ...]


def parse(text: bytes) -> Manifest:
    """Parse a manifest: Docker schema 1, 2 or list, OCI image, index or artifact.

    The kind is determined as in distribution: by `mediaType`, or by the content if there
    is no `mediaType`. Raises `DefectError`.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise DefectError("unsupported", f"has more than {_MAX_VALUES} values")
    try:
        document = json.loads(text, object_hook=_with_exact_keys)
    except (ValueError, RecursionError) as error:
        raise DefectError("corrupt", "is not JSON") from error
    if not isinstance(document, dict):
        raise DefectError("corrupt", "is not a JSON object")
    parse_kind = _PARSERS.get(_media_type(document))
    if parse_kind is None:
        raise DefectError("unsupported", "has a mediaType and schemaVersion of no known kind")
    try:
        return parse_kind(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DefectError("corrupt", "lacks fields that its kind requires") from error


def _with_exact_keys(entry: Document) -> Document:
    if entry.keys() <= _USUAL_KEYS:
        return entry
    exact = {}
    for key, value in entry.items():
        lower = key.lower()
        exact[_KEYS.get(lower, lower)] = value
    return exact


def _media_type(document: Document) -> str:
    media_type = document.get("mediaType") or ""
    if media_type or document.get("schemaVersion") not in (1, 2):
        return str(media_type)
    if document["schemaVersion"] == 1:
        return f"{_DOCKER}.v1+json"
    kind = "manifest" if document.get("manifests") is None else "index"
    return f"{_OCI}.image.{kind}.v1+json"


def _image(document: Document) -> Manifest:
    config = _descriptor(CONFIG, document["config"])
    return (config, *_layers(document.get("layers")))


def _artifact(document: Document) -> Manifest:
    return tuple(_layers(document.get("blobs")))


def _schema_1(document: Document) -> Manifest:
    layers = []
    for layer in document["fsLayers"]:
        layers.append(_descriptor(LAYER_OF_SCHEMA_1, {"digest": layer["blobSum"]}))
    return tuple(layers)


def _index(document: Document) -> Manifest:
    """Parse an index. BuildKit's cache is an index of layers and a config, not of images."""
    named = []
    for entry in document.get("manifests") or ():
        media_type = entry.get("mediaType")
        if media_type == _BUILD_CACHE_CONFIG:
            kind = CONFIG
        elif media_type in (None, "") or media_type in _PARSERS:
            kind = CHILD
        else:
            kind = LAYER
        named.append(_descriptor(kind, entry))
    return tuple(named)


def _layers(entries: Any) -> Iterator[Descriptor]:
    for entry in entries or ():
        yield _descriptor(FOREIGN if entry.get("urls") else LAYER, entry)


def _descriptor(kind: str, entry: Document) -> Descriptor:
    size = entry.get("size")
    if size is not None and (type(size) is not int or not -_INT64 <= size < _INT64):
        raise ValueError("a size is not a 64-bit integer")
    # distribution 3 accepts and serves a descriptor without a size, or with a negative one.
    if size is not None and size < 0:
        size = None
    digest = digests.from_text(entry["digest"])
    if digest is None:
        raise ValueError("a digest has another form")
    return kind, digest, size


_PARSERS: Final[dict[str, Callable[[Document], Manifest]]] = {
    f"{_DOCKER}.v1+json": _schema_1,
    f"{_DOCKER}.v1+prettyjws": _schema_1,
    f"{_DOCKER}.v2+json": _image,
    f"{_DOCKER}.list.v2+json": _index,
    f"{_OCI}.image.manifest.v1+json": _image,
    f"{_OCI}.image.index.v1+json": _index,
    f"{_OCI}.artifact.manifest.v1+json": _artifact,
}
