"""The links of a repository: files that hold the digest of a manifest or a layer.

A link is read once a version, and only its status is asked in later scans.
"""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.registry import digests
from docker_prom_exporter.registry.files import UNSETTLED, Defect, DefectError, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker_prom_exporter.registry.files import Files

# What distribution/reference allows.
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_MAX_BYTES: Final = 256


class TagLink(NamedTuple):
    """The digest that a tag's link holds, or a defect; `pushed` is a Unix time."""

    target: bytes | Defect
    pushed: float | None
    version: int


class DigestLinks(NamedTuple):
    """The links in folders like `revisions` or `_layers`, whose names are digests.

    Nearly each link holds the digest of its name, so the names are kept together, sorted, and
    only the other links by themselves: a layer that is named by sha512 links the sha256.
    """

    names: Mapping[str, bytes]  # by algorithm
    others: Mapping[bytes, bytes | Defect]
    versions: Mapping[str, array[int]]  # by algorithm, in the order of the names

    def targets(self) -> dict[bytes, bytes | Defect]:
        """Return the digest that each link holds, or its defect."""
        targets: dict[bytes, bytes | Defect] = {}
        for algorithm, names in self.names.items():
            for name in _split(names, digests.WIDTHS[algorithm]):
                targets[name] = self.others.get(name, name)
        return targets

    def same_as(self, other: DigestLinks) -> bool:
        """Return whether both have the same links with the same content."""
        return self.names == other.names and self.others == other.others


class RepositoryLinks(NamedTuple):
    """All links of a repository; not `complete` if tags or revisions can't be read."""

    tags: Mapping[str, TagLink]
    revisions: DigestLinks
    layers: DigestLinks
    complete: bool = True

    def same_as(self, other: RepositoryLinks) -> bool:
        """Return whether both lead to the same results."""
        mine = [(name, link.target, link.pushed) for name, link in self.tags.items()]
        others = [(name, link.target, link.pushed) for name, link in other.tags.items()]
        return (
            mine == others
            and self.complete == other.complete
            and self.revisions.same_as(other.revisions)
            and self.layers.same_as(other.layers)
        )


_NO_LINKS: Final = DigestLinks({}, {}, {})
NO_LINKS: Final = RepositoryLinks({}, _NO_LINKS, _NO_LINKS)


def read_links(files: Files, path: str, known: RepositoryLinks) -> RepositoryLinks:
    """Read the links of the repository in a folder; those whose version is known are not read.

    Tags come first, since a push writes a tag's link last.
    """
    folders = (f"{path}/_manifests/tags", f"{path}/_manifests/revisions")
    tags = _read_tags(files, folders[0], known.tags)
    revisions = _read_digests(files, folders[1], known.revisions)
    layers = _read_digests(files, f"{path}/_layers", known.layers)
    complete = True
    for folder in (folders[0], *(f"{folders[1]}/{name}" for name in digests.WIDTHS)):
        if files.absence(folder).reason != "missing":
            complete = False
    return RepositoryLinks(tags, revisions, layers, complete)


def _read_tags(files: Files, path: str, known: Mapping[str, TagLink]) -> dict[str, TagLink]:
    """Return the link of each tag, sorted by tag. A folder without a link is not a tag."""
    links = {}
    for tag in sorted(filter(_TAG.fullmatch, files.folders(path))):
        link = _read_tag(files, f"{path}/{tag}/current", known.get(tag))
        if link:
            links[tag] = link
    return links


def _read_tag(files: Files, folder: str, known: TagLink | None) -> TagLink | None:
    path = f"{folder}/link"
    # The folder is asked, too: it may have become a symbolic link, which must not be followed.
    status = files.status(path) if files.status(folder) else None
    if status is None:
        problem = files.absence(path)
        return None if problem.reason == "missing" else TagLink(problem, None, UNSETTLED)
    version = version_of(status)
    if known and version != UNSETTLED and version == known.version:
        return known
    target = _read_target(files, path)
    if isinstance(target, Defect):
        version = UNSETTLED
        if target.reason == "missing":
            return None
    return TagLink(target, status.st_mtime, version)


def _read_digests(files: Files, path: str, known: DigestLinks) -> DigestLinks:
    names: dict[str, bytes] = {}
    versions: dict[str, array[int]] = {}
    others: dict[bytes, bytes | Defect] = {}
    for algorithm in sorted(digests.WIDTHS.keys() & files.folders(path)):
        width = digests.WIDTHS[algorithm]
        read = _split(known.names.get(algorithm, b""), width)
        read_versions = dict(zip(read, known.versions.get(algorithm, ()), strict=True))
        here = []
        versions[algorithm] = array("q")
        for name in sorted(files.folders(f"{path}/{algorithm}")):
            digest = digests.from_name(algorithm, name)
            link = f"{path}/{algorithm}/{name}/link"
            status = files.status(link) if digest else None
            # A deletion removes the link and leaves its folder.
            if digest is None or status is None:
                continue
            version = version_of(status)
            if version != UNSETTLED and version == read_versions.get(digest):
                target = known.others.get(digest, digest)
            else:
                target = _read_digest(files, link, digest)
            if isinstance(target, Defect) and target.reason == "denied":
                version = UNSETTLED
            if target != digest:
                others[digest] = target
            here.append(digest)
            versions[algorithm].append(version)
        names[algorithm] = b"".join(here)
    return DigestLinks(names, others, versions)


def _read_digest(files: Files, path: str, name: bytes) -> bytes | Defect:
    """Return the digest in a link; only a name not of sha256 is an alias."""
    target = _read_target(files, path)
    if isinstance(target, bytes) and target != name and len(name) == digests.WIDTHS["sha256"]:
        return Defect("corrupt", f"{path} holds another digest than its own")
    return target


def _read_target(files: Files, path: str) -> bytes | Defect:
    try:
        text = files.read(path, _MAX_BYTES)
    except DefectError as error:
        return error.defect
    target = digests.from_text(text.decode("ascii", "replace"))
    return target or Defect("corrupt", f"{path} does not hold a digest")


def _split(names: bytes, width: int) -> list[bytes]:
    return [names[start : start + width] for start in range(0, len(names), width)]
