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
    from collections.abc import Iterator, Mapping

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
    """The links in a folder like `revisions/sha256`, whose names are digests.

    Nearly each link holds the digest of its name, so the names are kept together, sorted,
    and only the other links by themselves: a layer that is named by sha512 links the
    sha256.
    """

    names: bytes
    others: Mapping[bytes, bytes | Defect]
    versions: array[int]  # in the order of the names


class RepositoryLinks(NamedTuple):
    """All links of a repository; those of digests by algorithm."""

    tags: Mapping[str, TagLink]
    revisions: Mapping[str, DigestLinks]
    layers: Mapping[str, DigestLinks]


NO_LINKS: Final = RepositoryLinks({}, {}, {})
_NO_DIGEST_LINKS: Final = DigestLinks(b"", {}, array("q"))


def targets(links: Mapping[str, DigestLinks]) -> dict[bytes, bytes | Defect]:
    """Return the digest that each link holds, or its defect, by the digest of its name."""
    found: dict[bytes, bytes | Defect] = {}
    for algorithm, of_algorithm in links.items():
        for name in _split(of_algorithm.names, digests.WIDTHS[algorithm]):
            found[name] = of_algorithm.others.get(name, name)
    return found


def read_links(files: Files, path: str, known: RepositoryLinks) -> RepositoryLinks | None:
    """Read the links of the repository in a folder, None if tags or revisions can't be read.

    Those whose version is known are not read.
    """
    tags_path = f"{path}/_manifests/tags"
    revisions_path = f"{path}/_manifests/revisions"
    # A push writes a tag's link last, so that what a tag leads to is there.
    tags = _read_tags(files, tags_path, known.tags)
    revisions = _read_digests(files, revisions_path, known.revisions)
    layers = _read_digests(files, f"{path}/_layers", known.layers)
    for folder in (tags_path, *(f"{revisions_path}/{name}" for name in digests.WIDTHS)):
        if files.absence(folder).reason != "missing":
            return None
    return RepositoryLinks(tags, revisions, layers)


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
    status = files.status(folder) and files.status(path)
    if status is None:
        problem = files.absence(path)
        return None if problem.reason == "missing" else TagLink(problem, None, UNSETTLED)
    version = version_of(status)
    if known and version != UNSETTLED and version == known.version:
        return known
    target = _read_target(files, path)
    if isinstance(target, Defect) and target.reason == "missing":
        return None
    return TagLink(target, status.st_mtime, version)


def _read_digests(
    files: Files, path: str, known: Mapping[str, DigestLinks]
) -> dict[str, DigestLinks]:
    links = {}
    for algorithm in sorted(digests.WIDTHS.keys() & files.folders(path)):
        known_links = known.get(algorithm, _NO_DIGEST_LINKS)
        links[algorithm] = _read_algorithm(files, path, algorithm, known_links)
    return links


def _read_algorithm(
    files: Files, path: str, algorithm: str, known: DigestLinks
) -> DigestLinks:
    known_names = _split(known.names, digests.WIDTHS[algorithm])
    known_versions = dict(zip(known_names, known.versions, strict=True))
    names = []
    versions = array("q")
    others: dict[bytes, bytes | Defect] = {}
    for name in sorted(files.folders(f"{path}/{algorithm}")):
        digest = digests.from_name(algorithm, name)
        link = f"{path}/{algorithm}/{name}/link"
        status = digest and files.status(link)
        # A deletion removes the link and leaves its folder.
        if not digest or not status:
            continue
        version = version_of(status)
        if version != UNSETTLED and version == known_versions.get(digest):
            target = known.others.get(digest, digest)
        else:
            target = _read_digest(files, link, digest)
        if target != digest:
            others[digest] = target
        names.append(digest)
        versions.append(version)
    return DigestLinks(b"".join(names), others, versions)


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


def _split(names: bytes, width: int) -> Iterator[bytes]:
    for start in range(0, len(names), width):
        yield names[start : start + width]
