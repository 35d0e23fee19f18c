"""Read a registry's file storage: the content of its repositories, and the references to its blobs.

The layout is that of distribution 2 and 3 (registry/storage/paths.go). Only links and manifests are read.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.registry import files
from docker_prom_exporter.registry.blobs import Blobs
from docker_prom_exporter.registry.manifests import (
    DIGEST,
    Defect,
    DefectError,
    Image,
    Manifest,
    image,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from docker_prom_exporter.registry.manifests import Revisions

# Names that distribution/reference allows. A repository's name is a path of components.
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_MAX_NAME: Final = 255
_MAX_LINK: Final = 256

# distribution 2 empties a link before it writes it, and deletes a manifest before the tags that lead to it.
_SECONDS_BETWEEN_LOOKS: Final = 0.1
_MAX_LOOKS: Final = 5


class StorageError(Exception):
    """The storage can't be read. The message is the cause; `advice` is how to fix it."""

    def __init__(self, cause: str, advice: str) -> None:
        super().__init__(cause)
        self.advice = advice


class Tag(NamedTuple):
    """A tag. `pushed` is a Unix time, `size` is in bytes; unknown values are None."""

    name: str
    pushed: float | None
    layers: int | None
    size: int | None


class Repository(NamedTuple):
    """A repository: tags by name, the number of linked manifests, and the bytes its usable tags hold."""

    name: str
    tags: tuple[Tag, ...]
    revisions: int
    size: int


class Unusable(NamedTuple):
    """A tag, an untagged manifest or a folder of a repository that the scan could not use."""

    repository: str
    name: str
    defect: Defect


class Contents(NamedTuple):
    """The content of a storage. `blob_bytes` has the bytes held by `tag`, `untagged` and `nothing`."""

    repositories: tuple[Repository, ...]
    blob_bytes: Mapping[str, int]
    upload_bytes: int
    unusable: tuple[Unusable, ...]


class _Link(NamedTuple):
    """The digest in a tag's link, or a defect. `version` is None while a change might not alter it."""

    pushed: float | None
    digest: str = ""
    defect: Defect | None = None
    version: files.Version | None = None


class _Found(NamedTuple):
    """A repository's links and their results, valid while links and blobs stay the same if it is `final`."""

    links: Mapping[str, _Link]
    revisions: frozenset[str]
    repository: Repository
    unusable: tuple[Unusable, ...]
    tagged: frozenset[str]
    untagged: frozenset[str]
    final: bool


class Storage:
    """A registry's file storage at `path`. One thread calls `scan`; any thread may call `progress`.

    `checkpoint` is called before each file or folder is accessed; an exception from it ends the scan.
    """

    def __init__(self, path: str, checkpoint: Callable[[], object] = lambda: None) -> None:
        self._path = path
        self._checkpoint = checkpoint
        self._blobs = Blobs(f"{path}/blobs", checkpoint)
        self._found: dict[str, _Found] = {}
        self._seen: Counter[str] = Counter()
        self._denied: list[Unusable] = []

    def progress(self) -> dict[str, int]:
        """Return the counts of the current scan, and the number of manifests read since the start."""
        return {
            **self._seen,
            "blobs": len(self._blobs),
            "manifests_read": self._blobs.manifests_read,
        }

    def scan(self) -> Contents:
        """Return the content of the storage, which may change during the scan. Raises `StorageError`."""
        try:
            return self._scan()
        except OSError as error:
            cause = f"can't read {error.filename or self._path}: {error.strerror}"
            raise StorageError(
                cause, "look at the mount, and whether this user may read it"
            ) from error

    def _scan(self) -> Contents:
        self._seen, self._denied = Counter(), []
        roots = self._roots()
        if self._blobs.refresh():
            self._found = {
                name: found._replace(final=False) for name, found in self._found.items()
            }
        found, upload_bytes = {}, 0
        for name, folders in self._walk():
            if "_uploads" in folders:
                upload_bytes += self._upload_bytes(name)
            if "_manifests" in folders:
                with self._noting_denials(name):
                    found[name] = self._repository(name)
        self._look_again(found)
        if self._roots() != roots:
            cause = f"{self._path} was replaced meanwhile"
            raise StorageError(cause, "the next scan reads what is there now")
        self._found = found
        by_name = [found[name] for name in sorted(found)]
        tagged = frozenset().union(*(each.tagged for each in by_name))
        untagged = frozenset().union(*(each.untagged for each in by_name))
        return Contents(
            tuple(each.repository for each in by_name),
            self._blobs.bytes_by_holder(tagged, untagged),
            upload_bytes,
            (*(unusable for each in by_name for unusable in each.unusable), *self._denied),
        )

    def _roots(self) -> list[tuple[int, int]]:
        """Return device and inode of the two folders that a registry's storage must have."""
        try:
            roots = [os.lstat(f"{self._path}/{name}") for name in ("repositories", "blobs")]
        except (FileNotFoundError, NotADirectoryError):
            roots = []
        if not roots or not all(stat.S_ISDIR(root.st_mode) for root in roots):
            advice = (
                "the path ends in docker/registry/v2; a registry makes it at the first push"
            )
            for below in ("v2", "registry/v2", "docker/registry/v2"):
                if Path(self._path, below, "repositories").is_dir():
                    advice = f"the storage is {self._path}/{below}"
            raise StorageError(f"no folders repositories and blobs in {self._path}", advice)
        return [(root.st_dev, root.st_ino) for root in roots]

    def _walk(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the name of each folder that can be a repository, and the folders in it."""
        todo = [""]
        while todo:
            name = todo.pop()
            folders: list[str] = []
            with self._noting_denials(name):
                folders = self._folders(name)
            if name:
                yield name, folders
            longer = (
                f"{name}/{each}".lstrip("/") for each in folders if _COMPONENT.fullmatch(each)
            )
            todo += (each for each in longer if len(each) <= _MAX_NAME)

    def _repository(self, name: str) -> _Found:
        """Read a repository's links and evaluate them. Tags are read first, since a push writes them last."""
        known = self._found.get(name)
        links = self._links(name, known.links if known else {})
        revisions = frozenset(self._revisions(name))
        self._seen.update(repositories=1, tags=len(links))
        if known and known.final and (links, revisions) == (known.links, known.revisions):
            return known
        return self._work_out(name, links, revisions)

    def _work_out(
        self, name: str, links: Mapping[str, _Link], revisions: frozenset[str]
    ) -> _Found:
        manifests = {digest: self._blobs.manifest(digest) for digest in sorted(revisions)}
        images, reached, blobs = self._images(links, manifests)
        by_tag = {
            tag: images.get(link.digest) or Image(defect=link.defect)
            for tag, link in links.items()
        }
        tags = tuple(
            Tag(tag, links[tag].pushed, each.layers, each.size) for tag, each in by_tag.items()
        )
        alone = {digest: manifests[digest] for digest in manifests if digest not in reached}
        unusable = (
            *(Unusable(name, tag, each.defect) for tag, each in by_tag.items() if each.defect),
            *(
                Unusable(name, digest, each)
                for digest, each in alone.items()
                if isinstance(each, Defect)
            ),
        )
        sizes = [self._blobs.size(digest) for digest in blobs]
        return _Found(
            links,
            revisions,
            Repository(name, tags, len(revisions), sum(filter(None, sizes))),
            unusable,
            _held(manifests, revisions & reached),
            _held(manifests, revisions - reached),
            final=not unusable and None not in sizes,
        )

    def _images(
        self, links: Mapping[str, _Link], manifests: Revisions
    ) -> tuple[dict[str, Image], set[str], set[str]]:
        """Return images by digest, all manifests that tags lead to, and the blobs of images without defect.

        Images are kept without their digests, to save memory: many tags may lead to nearly the same digests.
        """
        images: dict[str, Image] = {}
        reached: set[str] = set()
        blobs: set[str] = set()
        for digest in {link.digest for link in links.values() if link.digest}:
            self._checkpoint()
            found = image(digest, manifests, self._blobs.size)
            reached |= found.manifests
            if not found.defect:
                blobs |= found.blobs
            images[digest] = found._replace(manifests=frozenset(), blobs=frozenset())
        return images, reached, blobs

    def _look_again(self, found: dict[str, _Found]) -> None:
        """Read repositories with unusable tags again, in case a link was just being written or deleted."""
        suspects = {*found}
        for _ in range(_MAX_LOOKS):
            suspects = {name for name in suspects if found[name].unusable}
            if not suspects:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            suspects = {name for name in suspects if self._has_changed(name, found)}

    def _has_changed(self, name: str, found: dict[str, _Found]) -> bool:
        """Read a repository again if its links have changed, and return whether they have."""
        with self._noting_denials(name):
            if self._links(name, found[name].links) != found[name].links:
                found[name] = self._repository(name)
                return True
        return False

    def _links(self, name: str, known: Mapping[str, _Link]) -> dict[str, _Link]:
        """Return the link of each tag, sorted by tag. A folder without a link is not a tag."""
        tags = sorted(filter(_TAG.fullmatch, self._folders(f"{name}/_manifests/tags")))
        return {tag: link for tag in tags if (link := self._link(name, tag, known.get(tag)))}

    def _link(self, name: str, tag: str, known: _Link | None) -> _Link | None:
        self._checkpoint()
        folder = f"{self._path}/repositories/{name}/_manifests/tags/{tag}/current"
        try:
            if known and known.version and known.version == files.version(f"{folder}/link"):
                return known
            return _read_link(f"{folder}/link") if files.is_folder(folder) else None
        except PermissionError as error:
            return _Link(None, defect=Defect("denied", f"{folder}: {error.strerror}"))
        except DefectError as error:
            return (
                None if error.defect.reason == "missing" else _Link(None, defect=error.defect)
            )

    def _revisions(self, name: str) -> Iterator[str]:
        """Yield the digests that the repository links. A deletion removes the link and leaves its folder."""
        folder = f"{name}/_manifests/revisions"
        for algorithm in self._folders(folder):
            for each in self._folders(f"{folder}/{algorithm}"):
                digest = f"{algorithm}:{each}"
                if DIGEST.fullmatch(digest) and self._file_size(
                    f"{folder}/{algorithm}/{each}/link"
                ):
                    yield digest

    def _upload_bytes(self, name: str) -> int:
        folder = f"{name}/_uploads"
        with self._noting_denials(name):
            return sum(
                self._file_size(f"{folder}/{upload}/data") for upload in self._folders(folder)
            )
        return 0

    def _file_size(self, path: str) -> int:
        self._checkpoint()
        return files.size(f"{self._path}/repositories/{path}") or 0

    def _folders(self, path: str) -> list[str]:
        self._checkpoint()
        return files.folders(f"{self._path}/repositories/{path}".rstrip("/"))

    @contextmanager
    def _noting_denials(self, repository: str) -> Iterator[None]:
        """Note a folder of a repository that can't be read, and go on; the top folder must be readable."""
        try:
            yield
        except PermissionError as error:
            if not repository:
                raise
            self._denied.append(
                Unusable(
                    repository, "", Defect("denied", f"{error.filename}: {error.strerror}")
                )
            )


def _read_link(path: str) -> _Link:
    text, version = files.read(path, _MAX_LINK)
    digest = text.decode("ascii", "replace").strip()
    if not DIGEST.fullmatch(digest):
        return _Link(
            version.modified / 1e9, defect=Defect("corrupt", "its link is not a digest")
        )
    return _Link(
        version.modified / 1e9, digest, version=version if files.is_settled(version) else None
    )


def _held(manifests: Revisions, revisions: frozenset[str]) -> frozenset[str]:
    """Return the blobs that revisions hold: as in garbage-collect, a manifest and the digests in it."""
    found = [manifests[digest] for digest in revisions]
    named = (
        digest for each in found if isinstance(each, Manifest) for digest in each.digests()
    )
    return frozenset((*revisions, *named))
