"""What a registry's storage holds, found by a slow walk that shares nothing with the exporter."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from docker_prom_exporter.registry.storage import Contents, Repository, Tag

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _children(document: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the entries of an index that are manifests: a build cache names blobs."""
    return [entry for entry in (document or {}).get("manifests", []) if _is_manifest(entry)]


def _is_manifest(entry: dict[str, Any]) -> bool:
    return "manifest" in entry["mediaType"] or "index" in entry["mediaType"]


def _layers(document: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the layers that a manifest names; a size that is missing is -1."""
    document = document or {}
    layers = [{"digest": entry["blobSum"]} for entry in document.get("fsLayers", [])]
    entries = [*document.get("layers", []), *document.get("blobs", [])]
    for entry in document.get("manifests", []):
        if not _is_manifest(entry) and "config" not in entry["mediaType"]:
            entries.append(entry)
    return layers + [{**entry, "size": entry.get("size", -1)} for entry in entries]


def _configs(document: dict[str, Any] | None) -> list[dict[str, Any]]:
    document = document or {}
    caches = [each for each in document.get("manifests", []) if "config" in each["mediaType"]]
    return [document["config"], *caches] if "config" in document else caches


class Expected(NamedTuple):
    """The expected metrics; `reasons` are those of tags that can't be used."""

    tags: dict[tuple[str, str], tuple[int | None, int | None]]
    revisions: dict[str, int]
    sizes: dict[str, int]
    blob_bytes: dict[str, int]
    reasons: dict[tuple[str, str], str]
    symbolic_links: bool


class Oracle:
    """Reads a storage of images, indexes and build caches. Symbolic links are as if nothing were there."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._root = storage / "repositories"
        self._blobs = {
            f"sha256:{data.parent.name}": data
            for data in storage.glob("blobs/sha256/*/*/data")
            if self._is_plain(data)
        }

    def expected(self) -> Expected:
        """Return the expected metrics."""
        result = Expected({}, {}, {}, {}, {}, self._has_symbolic_links())
        tagged: set[str] = set()
        linked: set[str] = set()
        for manifests in self._root.glob("**/_manifests"):
            revisions = self._links(manifests / "revisions/sha256")
            good = {digest for digest, ok in revisions.items() if ok}
            reached = self._tags(manifests, revisions, result)
            for each in good:
                linked |= {each, *self._named(each)}
            for each in good & reached:
                tagged |= {each, *self._named(each)}
        result.blob_bytes["tag"] = self._bytes(tagged)
        result.blob_bytes["untagged"] = self._bytes(linked - tagged)
        if result.sizes or not self._blobs:
            # Without any manifest nobody can know what holds a blob.
            result.blob_bytes["nothing"] = self._bytes({*self._blobs} - linked - tagged)
        return result

    def _tags(self, manifests: Path, revisions: dict[str, bool], result: Expected) -> set[str]:
        """Add a repository and its tags; return the manifests that they lead to."""
        name = str(manifests.parent.relative_to(self._root))
        result.revisions[name] = len(revisions)
        all_reached: set[str] = set()
        held: set[str] = set()
        for link in manifests.glob("tags/*/current/link"):
            key = (name, link.parts[-3])
            digest = "" if link.is_symlink() else link.read_text(errors="replace")
            if not _DIGEST.fullmatch(digest):
                result.tags[key] = (None, None)
                result.reasons[key] = "link" if link.is_symlink() else "corrupt"
                continue
            reached = self._reached(digest, revisions)
            all_reached |= reached
            if all(revisions.get(each) and self._document(each) for each in reached):
                result.tags[key] = self._size(reached)
            else:
                result.tags[key] = (None, None)
            reason = self._reason(reached, revisions, manifests.parent)
            if reason:
                result.reasons[key] = reason
            if reason in (None, "partial"):
                held |= reached
                for each in reached:
                    held |= {*self._named(each)} if revisions.get(each) else set()
        result.sizes[name] = self._bytes(held)
        return all_reached

    def _size(self, reached: set[str]) -> tuple[int, int | None]:
        """Return the number of the layers of these manifests, and their bytes if all are known."""
        sizes: dict[str, int | None] = {}
        for each in reached:
            for entry in _layers(self._document(each)):
                data = self._blobs.get(entry["digest"])
                known = entry.get("size") or (data.stat().st_size if data else -1)
                if known >= 0:
                    sizes[entry["digest"]] = known
                sizes.setdefault(entry["digest"], None)
        known_sizes = [size for size in sizes.values() if size is not None]
        return len(sizes), sum(known_sizes) if len(known_sizes) == len(sizes) else None

    def _reason(
        self, reached: set[str], revisions: dict[str, bool], repository: Path
    ) -> str | None:
        reasons: set[str | None] = set()
        gone = images = False
        layers = self._links(repository / "_layers/sha256")
        for digest in reached:
            document = self._document(digest)
            link = repository / "_manifests/revisions/sha256" / digest[7:] / "link"
            if revisions.get(digest) is False:
                reasons.add("corrupt")
            elif link.is_symlink() or (link.exists() and self._data(digest).is_symlink()):
                reasons.add("link")
            elif digest not in revisions or digest not in self._blobs:
                gone = True
            elif document is None:
                reasons.add("corrupt")
            else:
                images = images or not _children(document)
                if document.get("fsLayers"):
                    reasons.add("unsupported")
                for entry in (*_layers(document), *_configs(document)):
                    reasons.add(self._blob_reason(entry, layers, repository))
        if gone:
            reasons.add("partial" if images else "missing")
        order = ("corrupt", "link", "missing", "partial", "unsupported")
        return next((reason for reason in order if reason in reasons), None)

    def _blob_reason(
        self, entry: dict[str, Any], layers: dict[str, bool], repository: Path
    ) -> str | None:
        """Return why a layer or config can't be pulled; a symbolic link may lead to it."""
        digest = entry["digest"]
        link = repository / "_layers/sha256" / digest[7:] / "link"
        if link.is_symlink() or ("urls" in entry and digest not in self._blobs):
            return None
        if digest not in layers:
            return "missing"
        if not layers[digest]:
            return "corrupt"
        if self._data(digest).is_symlink():
            return None
        if digest not in self._blobs:
            return "missing"
        size = self._blobs[digest].stat().st_size
        return None if entry.get("size", -1) in (-1, size) else "corrupt"

    def _data(self, digest: str) -> Path:
        return self._storage / "blobs/sha256" / digest[7:9] / digest[7:] / "data"

    def _links(self, folder: Path) -> dict[str, bool]:
        """Return the digests that have a link, and whether it holds its own digest."""
        links = {}
        for link in folder.glob("*/link"):
            if self._is_plain(link):
                digest = f"sha256:{link.parent.name}"
                links[digest] = link.read_text(errors="replace") == digest
        return links

    def _reached(self, root: str, revisions: dict[str, bool]) -> set[str]:
        reached = {root}
        if revisions.get(root):
            for child in _children(self._document(root)):
                reached |= self._reached(child["digest"], revisions)
        return reached

    def _document(self, digest: str) -> dict[str, Any] | None:
        data = self._blobs.get(digest)
        text = data.read_bytes() if data else b""
        if f"sha256:{hashlib.sha256(text).hexdigest()}" != digest:
            return None
        document: dict[str, Any] = json.loads(text)
        return document

    def _named(self, digest: str) -> list[str]:
        document = self._document(digest)
        entries = [*_layers(document), *_children(document), *_configs(document)]
        return [entry["digest"] for entry in entries]

    def _bytes(self, digests: set[str]) -> int:
        return sum(self._blobs[each].stat().st_size for each in digests if each in self._blobs)

    def _is_plain(self, path: Path) -> bool:
        parts = [path, *path.parents]
        inside = [each for each in parts if each.is_relative_to(self._storage)]
        return not any(each.is_symlink() for each in inside)

    def _has_symbolic_links(self) -> bool:
        return any(path.is_symlink() for path in self._storage.rglob("*"))


def compare(contents: Contents, storage: Path) -> None:
    """Compare a scan with what the storage holds."""
    expected = Oracle(storage).expected()
    tags = {}
    for repository in contents.repositories:
        for tag in repository.tags:
            tags[(repository.name, tag.name)] = tag[2:]
    reasons = {
        (each.repository, each.name): each.defect.reason
        for each in contents.unusable
        if each.name and ":" not in each.name
    }
    revisions = {each.name: each.revisions for each in contents.repositories}
    sizes = {each.name: each.size for each in contents.repositories}
    has_links = any(each.defect.reason == "link" for each in contents.unusable)
    found = (tags, revisions, sizes, dict(contents.blob_bytes), reasons, has_links)
    for name, wanted, here in zip(expected._fields, expected, found, strict=True):
        assert wanted == here, f"{name}: {wanted} expected, {here} found"


def repository(contents: Contents, name: str = "app") -> Repository:
    """Return the repository with this name."""
    return next(each for each in contents.repositories if each.name == name)


def tag(contents: Contents, name: str = "latest") -> Tag:
    """Return the tag with this name, in any repository."""
    return next(tag for each in contents.repositories for tag in each.tags if tag.name == name)
