"""Resolve the tags of a repository through its links, manifests and blobs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.registry import digests
from docker_prom_exporter.registry.blobs import TAG, UNTAGGED
from docker_prom_exporter.registry.files import Defect
from docker_prom_exporter.registry.manifests import (
    CHILD,
    CONFIG,
    FOREIGN,
    LAYER_OF_SCHEMA_1,
    Manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from docker_prom_exporter.registry.blobs import Blobs
    from docker_prom_exporter.registry.links import RepositoryLinks
    from docker_prom_exporter.registry.manifests import Descriptor

# A tag with several defects counts for the first of these: corrupt links and manifests make
# each `garbage-collect` fail.
REASONS: Final = ("corrupt", "denied", "link", "missing", "partial", "unsupported")


class Tag(NamedTuple):
    """A tag. `pushed` is a Unix time, `size` is in bytes; unknown values are None."""

    name: str
    pushed: float | None
    layers: int | None
    size: int | None


class Repository(NamedTuple):
    """A repository: tags by name, the number of its revision links, and bytes on disk.

    `size` is what its tags hold that can be pulled, each blob once.
    """

    name: str
    tags: tuple[Tag, ...]
    revisions: int
    size: int


class Unusable(NamedTuple):
    """What the scan could not use. `name` is a tag, a digest, or empty for a path."""

    repository: str
    name: str
    defect: Defect


class RepositoryState(NamedTuple):
    """The links of a repository and their results.

    Both stay valid while the links stay the same and no blob goes, if it is `final`.
    """

    links: RepositoryLinks
    repository: Repository
    unusable: tuple[Unusable, ...]
    final: bool


class _Image(NamedTuple):
    """What the metrics say of the image that a tag leads to."""

    layers: int | None = None
    size: int | None = None
    defect: Defect | None = None


class Resolver:
    """Resolves the tags of one repository, whose folder is `path`.

    In a pull-through `cache` it is no defect that something is absent.
    """

    _of_tags: set[bytes]  # the manifests that tags lead to
    _held: set[bytes]  # the blobs of all tags that can be pulled

    def __init__(
        self, name: str, path: str, links: RepositoryLinks, blobs: Blobs, *, cache: bool
    ) -> None:
        self._name = name
        self._path = path
        self._links = links
        self._blobs = blobs
        self._cache = cache
        self._of_tags = set()
        self._held = set()

    def state(self) -> RepositoryState:
        """Resolve all tags, and find what is wrong with links and untagged manifests."""
        images: dict[bytes | Defect, _Image] = {}
        tags = []
        unusable = []
        for name, link in self._links.tags.items():
            image = images.get(link.target)
            if image is None:
                image = images[link.target] = self._resolve(link.target)
            tags.append(Tag(name, link.pushed, image.layers, image.size))
            if image.defect:
                unusable.append(Unusable(self._name, name, image.defect))
        # What a tag leads to is counted with the tag.
        of_tags = {each.defect for each in unusable}
        for digest, defect in self._defects():
            if defect not in of_tags:
                unusable.append(Unusable(self._name, digests.as_text(digest), defect))
        sizes = [self._blobs.size(digest) for digest in self._held]
        size = sum(filter(None, sizes))
        return RepositoryState(
            self._links,
            Repository(self._name, tuple(tags), len(self._revisions), size),
            tuple(unusable),
            final=not unusable and None not in sizes,
        )

    def hold(self) -> None:
        """Note what the linked manifests hold: as in `garbage-collect`, what they name."""
        untagged = {name for name, target in self._revisions.items() if name == target}
        for digest, manifest in self._reached(self._tagged()):
            if digest in untagged:
                untagged.remove(digest)
                self._hold(digest, manifest, TAG)
        for digest in untagged:
            self._hold(digest, self._blobs.manifest(digest), UNTAGGED)

    @cached_property
    def _revisions(self) -> dict[bytes, bytes | Defect]:
        return self._links.revisions.targets()

    @cached_property
    def _layers(self) -> dict[bytes, bytes | Defect]:
        return self._links.layers.targets()

    def _tagged(self) -> list[bytes]:
        targets = {link.target for link in self._links.tags.values()}
        return [target for target in targets if isinstance(target, bytes)]

    def _hold(self, digest: bytes, manifest: Manifest | Defect, holder: int) -> None:
        self._blobs.hold(digest, holder)
        if isinstance(manifest, Manifest):
            for named in manifest.descriptors:
                self._blobs.hold(named.digest, holder)

    def _defects(self) -> Iterator[tuple[bytes, Defect]]:
        """Yield the defects of links, and of manifests that no tag leads to.

        It is none that a revision's blob is gone: nobody can pull it, and `garbage-collect`
        passes over it.
        """
        for targets in (self._revisions, self._layers):
            for name, target in targets.items():
                if isinstance(target, Defect):
                    yield name, target
        for name, target in self._revisions.items():
            if name == target and name not in self._of_tags:
                defect = self._defect_of(name, self._blobs.manifest(name))
                if defect and defect.reason != "missing":
                    yield name, defect

    def _reached(self, roots: Iterable[bytes]) -> Iterator[tuple[bytes, Manifest | Defect]]:
        """Yield the manifests that tags lead to, each once.

        Whatever a manifest names is a manifest itself if the repository links it as one.
        """
        seen = set()
        todo = [*roots]
        while todo:
            digest = todo.pop()
            if digest in seen:
                continue
            seen.add(digest)
            manifest = self._manifest(digest)
            yield digest, manifest
            if isinstance(manifest, Manifest):
                todo += filter(None, map(self._child, manifest.descriptors))

    def _child(self, named: Descriptor) -> bytes | None:
        """Return the digest of a manifest that another one names, None if it is a blob."""
        is_revision = self._revisions.get(named.digest) == named.digest
        return named.digest if named.kind == CHILD or is_revision else None

    def _manifest(self, digest: bytes) -> Manifest | Defect:
        target = self._revisions.get(digest)
        if target is None:
            return self._blobs.files.absence(self._link("_manifests/revisions", digest))
        if isinstance(target, Defect):
            return target
        return self._blobs.manifest(target)

    def _link(self, kind: str, digest: bytes) -> str:
        return f"{self._path}/{kind}/{digests.algorithm(digest)}/{digest.hex()}/link"

    def _resolve(self, target: bytes | Defect) -> _Image:
        """Resolve the digest that a tag's link holds."""
        if isinstance(target, Defect):
            return _Image(defect=target)
        manifests = dict(self._reached([target]))
        self._of_tags.update(manifests)
        defects = [*self._manifest_defects(manifests)]
        layers: dict[bytes, int | None] = {}
        held = set(manifests)
        for named in self._content(manifests):
            held.add(self._target(named.digest))
            if named.kind != CONFIG and layers.get(named.digest) is None:
                layers[named.digest] = self._size(named)
            defect = self._content_defect(named)
            if defect:
                defects.append(defect)
        if self._cache:
            defects = [each for each in defects if each.reason not in ("missing", "partial")]
        worst = min(defects, key=lambda each: REASONS.index(each.reason), default=None)
        if worst is None or worst.reason == "partial":
            self._held |= held
        if any(isinstance(manifest, Defect) for manifest in manifests.values()):
            return _Image(defect=worst)
        sizes = layers.values()
        size = None if None in sizes else sum(filter(None, sizes))
        return _Image(len(layers), size, worst)

    def _content(self, manifests: Mapping[bytes, Manifest | Defect]) -> set[Descriptor]:
        """Return the layers and configs that manifests name."""
        content: set[Descriptor] = set()
        for manifest in manifests.values():
            if isinstance(manifest, Manifest):
                content.update(manifest.descriptors)
        return {named for named in content if named.digest not in manifests}

    def _manifest_defects(
        self, manifests: Mapping[bytes, Manifest | Defect]
    ) -> Iterator[Defect]:
        """Yield why manifests can't be used. An index without all its images is partial."""
        usable = any(map(_is_image, manifests.values()))
        for digest, manifest in manifests.items():
            defect = self._defect_of(digest, manifest)
            if defect and defect.reason == "missing" and usable:
                yield Defect("partial", defect.detail)
            elif defect:
                yield defect

    def _defect_of(self, digest: bytes, manifest: Manifest | Defect) -> Defect | None:
        if isinstance(manifest, Defect):
            return manifest
        if any(named.kind == LAYER_OF_SCHEMA_1 for named in manifest.descriptors):
            path = self._blobs.data(digest)
            return Defect("unsupported", f"{path} has schema 1, unknown to distribution 3")
        return None

    def _content_defect(self, named: Descriptor) -> Defect | None:
        """Return why a layer or config can't be pulled; None if only we can't read it."""
        if named.kind == FOREIGN:
            return None
        target = self._layers.get(named.digest)
        if target is None:
            defect = self._blobs.files.absence(self._link("_layers", named.digest))
            return defect if defect.reason == "missing" else None
        if isinstance(target, Defect):
            return target if target.reason == "corrupt" else None
        size = self._blobs.size(target)
        if size is None:
            defect = self._blobs.absence(target)
            return defect if defect.reason == "missing" else None
        if named.size and named.size != size:
            path = self._blobs.data(target)
            detail = f"{path} has {size} bytes, not {named.size} as a manifest says"
            return Defect("corrupt", detail)
        return None

    def _target(self, digest: bytes) -> bytes:
        target = self._layers.get(digest)
        return target if isinstance(target, bytes) else digest

    def _size(self, named: Descriptor) -> int | None:
        """Return a layer's size as its manifest says; schema 1 says none."""
        if named.kind == LAYER_OF_SCHEMA_1:
            return self._blobs.size(self._target(named.digest))
        return named.size


def _is_image(manifest: Manifest | Defect) -> bool:
    """Return whether a manifest is there and is not an index of others."""
    if isinstance(manifest, Defect):
        return False
    return all(named.kind != CHILD for named in manifest.descriptors)
