"""Resolve the tags of a repository through its links, manifests and blobs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.registry import digests
from docker_prom_exporter.registry.blobs import TAG, UNTAGGED
from docker_prom_exporter.registry.files import Defect
from docker_prom_exporter.registry.links import targets
from docker_prom_exporter.registry.manifests import CHILD, CONFIG, FOREIGN, LAYER_OF_SCHEMA_1

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from docker_prom_exporter.registry.blobs import Blobs
    from docker_prom_exporter.registry.links import RepositoryLinks
    from docker_prom_exporter.registry.manifests import Descriptor, Manifest

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


class _Content(NamedTuple):
    """The layers and configs of an image: sizes by digest, and why they can't be pulled."""

    layers: dict[bytes, int | None]  # as the manifests say
    held: dict[bytes, int | None]  # on disk, with the configs
    defects: list[Defect]


class Resolver:
    """Resolves the tags of one repository, whose folder is `path`.

    In a pull-through `cache` it is no defect that something is absent.
    """

    _revisions: dict[bytes, bytes | Defect]  # what each link holds
    _manifests: set[bytes]  # that the repository links
    _of_tags: set[bytes]  # the manifests that tags lead to
    _held: dict[bytes, int | None]  # bytes on disk of what the usable tags hold

    def __init__(
        self, name: str, path: str, links: RepositoryLinks, blobs: Blobs, *, cache: bool
    ) -> None:
        self._name = name
        self._path = path
        self._links = links
        self._blobs = blobs
        self._cache = cache
        self._revisions = targets(links.revisions)
        self._manifests = {name for name, target in self._revisions.items() if name == target}
        self._of_tags = set()
        self._held = {}

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
        sizes = self._held.values()
        repository = Repository(
            self._name, tuple(tags), len(self._revisions), sum(filter(None, sizes))
        )
        final = not unusable and None not in sizes
        return RepositoryState(self._links, repository, tuple(unusable), final)

    def hold(self) -> None:
        """Note what the linked manifests hold: as in `garbage-collect`, what they name."""
        tagged = {link.target for link in self._links.tags.values()}
        untagged = self._manifests.copy()
        for digest, manifest in self._reached(tagged):
            if digest in untagged:
                untagged.remove(digest)
                self._hold(digest, manifest, TAG)
        for digest in untagged:
            self._hold(digest, self._blobs.manifest(digest), UNTAGGED)

    def _hold(self, digest: bytes, manifest: Manifest | Defect, holder: int) -> None:
        self._blobs.hold([digest], holder)
        if not isinstance(manifest, Defect):
            self._blobs.hold([named for _, named, _ in manifest], holder)

    @cached_property
    def _layers(self) -> dict[bytes, bytes | Defect]:
        return targets(self._links.layers)

    def _defects(self) -> Iterator[tuple[bytes, Defect]]:
        """Yield the defects of links, and of manifests that no tag leads to.

        It is none that a revision's blob is gone: nobody can pull it, and
        `garbage-collect` passes over it.
        """
        for name, target in (*self._revisions.items(), *self._layers.items()):
            if isinstance(target, Defect):
                yield name, target
        for name in self._manifests - self._of_tags:
            defect = self._defect_of(name, self._blobs.manifest(name))
            if defect and defect.reason != "missing":
                yield name, defect

    def _reached(
        self, roots: Iterable[bytes | Defect]
    ) -> Iterator[tuple[bytes, Manifest | Defect]]:
        """Yield the manifests that tags lead to, each once."""
        seen = set()
        todo = [*roots]
        while todo:
            digest = todo.pop()
            if digest in seen or isinstance(digest, Defect):
                continue
            seen.add(digest)
            manifest = self._manifest(digest)
            yield digest, manifest
            if isinstance(manifest, Defect):
                continue
            for kind, named, _ in manifest:
                # What the repository links as a manifest is one, whatever names it.
                if kind == CHILD or named in self._manifests:
                    todo.append(named)

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
        content = self._content(manifests)
        defect = self._worst(self._manifest_defects(manifests) + content.defects)
        if defect is None or defect.reason == "partial":
            self._held.update(content.held)
            for digest in manifests:
                self._held[digest] = self._blobs.size(digest)
        if any(isinstance(manifest, Defect) for manifest in manifests.values()):
            return _Image(defect=defect)
        sizes = content.layers.values()
        if None in sizes:
            return _Image(len(sizes), defect=defect)
        return _Image(len(sizes), sum(filter(None, sizes)), defect)

    def _content(self, manifests: Mapping[bytes, Manifest | Defect]) -> _Content:
        """Look at the layers and configs that manifests name."""
        content = _Content({}, {}, [])
        for kind, digest, size in _named(manifests):
            link = self._layers.get(digest)
            blob = link if isinstance(link, bytes) else digest
            size_on_disk = content.held[blob] = self._blobs.size(blob)
            if kind == LAYER_OF_SCHEMA_1:
                content.layers[digest] = size_on_disk
            elif kind != CONFIG and content.layers.get(digest) is None:
                content.layers[digest] = size
            # Nearly every layer is linked, and as large as its manifest says.
            whole = blob is link and size is not None and size == size_on_disk
            if not whole and kind != FOREIGN:
                content.defects.extend(self._content_defects(digest, size, size_on_disk))
        return content

    def _content_defects(
        self, digest: bytes, size: int | None, size_on_disk: int | None
    ) -> list[Defect]:
        """Return why a layer or config can't be pulled; nothing if only we can't read it."""
        link = self._layers.get(digest)
        if link is None:
            defect = self._blobs.files.absence(self._link("_layers", digest))
        elif isinstance(link, Defect):
            defect = link
        elif size_on_disk is None:
            defect = self._blobs.absence(link)
        elif size and size != size_on_disk:
            path = self._blobs.data(link)
            detail = f"{path} has {size_on_disk} bytes, not {size} as a manifest says"
            defect = Defect("corrupt", detail)
        else:
            return []
        return [defect] if defect.reason in ("corrupt", "missing") else []

    def _manifest_defects(self, manifests: Mapping[bytes, Manifest | Defect]) -> list[Defect]:
        """Return why manifests can't be used."""
        defects = []
        for digest, manifest in manifests.items():
            defect = self._defect_of(digest, manifest)
            if defect:
                defects.append(defect)
        # An index without all its images is partial.
        if defects and any(map(_is_image, manifests.values())):
            for place, defect in enumerate(defects):
                if defect.reason == "missing":
                    defects[place] = Defect("partial", defect.detail)
        return defects

    def _defect_of(self, digest: bytes, manifest: Manifest | Defect) -> Defect | None:
        if isinstance(manifest, Defect):
            return manifest
        if manifest and manifest[0][0] == LAYER_OF_SCHEMA_1:
            path = self._blobs.data(digest)
            return Defect("unsupported", f"{path} has schema 1, unknown to distribution 3")
        return None

    def _worst(self, defects: Iterable[Defect]) -> Defect | None:
        """Return the defect that a tag counts for."""
        worst = None
        for defect in defects:
            if self._cache and defect.reason in ("missing", "partial"):
                continue
            if worst is None or REASONS.index(defect.reason) < REASONS.index(worst.reason):
                worst = defect
        return worst


def _is_image(manifest: Manifest | Defect) -> bool:
    """Return whether a manifest is there and is not an index of others."""
    if isinstance(manifest, Defect):
        return False
    return all(kind != CHILD for kind, _, _ in manifest)


def _named(manifests: Mapping[bytes, Manifest | Defect]) -> Iterator[Descriptor]:
    """Yield the layers and configs that manifests name, each once."""
    named: set[Descriptor] = set()
    for manifest in manifests.values():
        if not isinstance(manifest, Defect):
            named.update(manifest)
    for each in named:
        if each[1] not in manifests:
            yield each
