"""What a registry's storage holds, found by a slow walk that shares nothing with the exporter."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES = ("image.index", "manifest.list")


class Expected(NamedTuple):
    """The expected metrics; `reasons` are those of tags that can't be used."""

    tags: dict[tuple[str, str], tuple[int | None, int | None]]
    revisions: dict[str, int]
    sizes: dict[str, int]
    blob_bytes: dict[str, int]
    reasons: dict[tuple[str, str], str]
    symbolic_links: bool


class Oracle:
    """Reads a storage of OCI images and indexes. Symbolic links are as if nothing were there."""

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
            sizes = {}
            for each in reached:
                for entry in (self._document(each) or {}).get("layers", []):
                    sizes[entry["digest"]] = entry["size"]
            whole = all(revisions.get(each) and self._document(each) for each in reached)
            result.tags[key] = (len(sizes), sum(sizes.values())) if whole else (None, None)
            reason = self._reason(reached, revisions, manifests.parent)
            if reason:
                result.reasons[key] = reason
            if reason in (None, "partial"):
                held |= reached
                for each in reached:
                    held |= {*self._named(each)} if revisions.get(each) else set()
        result.sizes[name] = self._bytes(held)
        return all_reached

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
                images = images or "manifests" not in document
                entries = [*document.get("layers", []), document.get("config")]
                found = (
                    self._blob_reason(entry, layers, repository) for entry in entries if entry
                )
                reasons.update(found)
        if gone:
            reasons.add("partial" if images else "missing")
        order = ("corrupt", "link", "missing", "partial")
        return next((reason for reason in order if reason in reasons), None)

    def _blob_reason(
        self, entry: dict[str, Any], layers: dict[str, bool], repository: Path
    ) -> str | None:
        """Return why a layer or config can't be pulled; a symbolic link may lead to it."""
        digest = entry["digest"]
        link = repository / "_layers/sha256" / digest[7:] / "link"
        if link.is_symlink():
            return None
        if digest not in layers:
            return "missing"
        if not layers[digest]:
            return "corrupt"
        if self._data(digest).is_symlink():
            return None
        if digest not in self._blobs:
            return "missing"
        return None if self._blobs[digest].stat().st_size == entry["size"] else "corrupt"

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
            for entry in (self._document(root) or {}).get("manifests", []):
                reached |= self._reached(entry["digest"], revisions)
        return reached

    def _document(self, digest: str) -> dict[str, Any] | None:
        data = self._blobs.get(digest)
        text = data.read_bytes() if data else b""
        if f"sha256:{hashlib.sha256(text).hexdigest()}" != digest:
            return None
        document: dict[str, Any] = json.loads(text)
        return document

    def _named(self, digest: str) -> list[str]:
        document = self._document(digest) or {}
        entries = [*document.get("layers", []), *document.get("manifests", [])]
        if "config" in document:
            entries.append(document["config"])
        return [entry["digest"] for entry in entries]

    def _bytes(self, digests: set[str]) -> int:
        return sum(self._blobs[each].stat().st_size for each in digests if each in self._blobs)

    def _is_plain(self, path: Path) -> bool:
        parts = [path, *path.parents]
        inside = [each for each in parts if each.is_relative_to(self._storage)]
        return not any(each.is_symlink() for each in inside)

    def _has_symbolic_links(self) -> bool:
        return any(path.is_symlink() for path in self._storage.rglob("*"))
