"""Images: what a tag leads to through the manifests that its repository links. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from docker_prom_exporter.registry.manifests import REASONS, Defect, Layer, Manifest, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Revisions = Mapping[str, Manifest | Defect]
    SizeOnDisk = Callable[[str], int | None]


class Image(NamedTuple):
    """What a tag leads to: manifests, and all blobs together, by digest.

    `layers` counts the different ones, `size` is theirs in bytes; None is what can't be known. `defect` is
    why it can't be pulled.
    """

    manifests: frozenset[str] = frozenset()
    blobs: frozenset[str] = frozenset()
    layers: int | None = None
    size: int | None = None
    defect: Defect | None = None


def image(root: str, revisions: Revisions, size_on_disk: SizeOnDisk) -> Image:
    """Find what a tag leads to; `size_on_disk` is None for a blob that is not there."""
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


def _sizes(layers: list[Layer], size_on_disk: SizeOnDisk) -> dict[str, int | None]:
    """Return each layer's size as its manifest says, or where that says none (schema 1) the one on disk."""
    sizes: dict[str, int | None] = {layer.digest: layer.size for layer in layers if layer.size is not None}
    return {digest: size_on_disk(digest) for digest, *_ in layers if digest not in sizes} | sizes


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
