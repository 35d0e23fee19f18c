"""Scans of random storages agree with a slow and simple reference that knows what the storages contain."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_prom_exporter.registry import files
from docker_prom_exporter.registry.storage import Contents, Storage
from support.storages import (
    DOCKER,
    OCI_LAYER,
    Document,
    HandMade,
    content_of,
    descriptor,
    digest_of,
    image,
    index,
    text_of,
)

LAYERS = [bytes([65 + number]) * (7 * 3**number) for number in range(5)]
CONFIGS = [b'{"os":"a"}', b'{"os":"other"}']
REPOSITORIES = ("a", "a/b", "c")


class Plan(NamedTuple):
    """The contents of a storage: manifests, the repositories that link each, the tags, and missing blobs."""

    manifests: list[Document]
    linked: list[frozenset[str]]
    tags: dict[tuple[str, str], int]
    gone: frozenset[str]

    def repositories(self) -> set[str]:
        """Return the names of the repositories that have a link."""
        return {name for name, _ in self.tags}.union(*self.linked)


@st.composite
def storages(draw: st.DrawFn) -> Plan:
    """Draw images, schema 1 images, indexes of manifests that were drawn before, and build caches."""
    manifests: list[Document] = []
    for _ in range(draw(st.integers(1, 6))):
        layers = draw(st.lists(st.sampled_from(LAYERS), max_size=4))
        kind = draw(
            st.sampled_from(
                ["image", "image", "schema 1", "index", "index", "cache", "foreign"]
            )
        )
        manifests.append(_manifest(draw, kind, layers, manifests))
    many = st.frozensets(st.sampled_from(REPOSITORIES))
    linked = [draw(many) for _ in manifests]
    names = st.tuples(st.sampled_from(REPOSITORIES), st.sampled_from(["1", "2", "latest"]))
    tags = draw(st.dictionaries(names, st.integers(0, len(manifests) - 1)))
    everything = [*LAYERS, *CONFIGS, *map(text_of, manifests)]
    gone = draw(
        st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(everything), max_size=2))
    )
    return Plan(manifests, linked, tags, frozenset(map(digest_of, gone)))


def _manifest(
    draw: st.DrawFn, kind: str, layers: list[bytes], before: list[Document]
) -> Document:
    if kind == "schema 1":
        return {
            "schemaVersion": 1,
            "fsLayers": [{"blobSum": digest_of(layer)} for layer in layers],
        }
    if kind == "index" and before:
        children = [
            {
                **descriptor(text_of(child)),
                "mediaType": child.get("mediaType", f"{DOCKER}.v1+prettyjws"),
            }
            for child in draw(st.lists(st.sampled_from(before), max_size=3))
        ]
        return index(manifests=children)
    if kind == "cache":
        return index(manifests=[descriptor(layer) for layer in layers])
    described = [descriptor(layer) for layer in layers]
    if kind == "foreign":
        described = [{**each, "urls": ["https://example.com"]} for each in described]
    return image(config=draw(st.sampled_from(CONFIGS)), layers=described)


def write(plan: Plan, path: Path) -> HandMade:
    """Write a storage with these contents."""
    storage = HandMade(path)
    for content in (*LAYERS, *CONFIGS, *map(text_of, plan.manifests)):
        if digest_of(content) not in plan.gone:
            storage.blob(content)
    for document, repositories in zip(plan.manifests, plan.linked, strict=True):
        for name in repositories:
            storage.link(name, digest_of(text_of(document)))
            for blob in content_of(document):
                storage.link_layer(name, blob)
    for (name, tag), number in plan.tags.items():
        storage.tag(name, tag, digest_of(text_of(plan.manifests[number])))
    return storage


class Reference:
    """Computes each result anew from the contents, without reading files."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._documents = {
            digest_of(text_of(document)): document for document in plan.manifests
        }
        contents = [*LAYERS, *CONFIGS, *map(text_of, plan.manifests)]
        self.sizes = {
            digest_of(each): len(each) for each in contents if digest_of(each) not in plan.gone
        }
        self._links: dict[str, frozenset[str]] = {}
        for document, names in zip(plan.manifests, plan.linked, strict=True):
            digest = digest_of(text_of(document))
            self._links[digest] = self._links.get(digest, frozenset()) | names

    def tags(self) -> dict[tuple[str, str], tuple[int | None, int | None]]:
        """Return the number of layers and the size of each tag."""
        return {key: self._tag(key[0], self._root(key)) for key in self._plan.tags}

    def unusable(self) -> set[tuple[str, str, str]]:
        """Return repository, name and reason of each unusable tag and untagged manifest."""
        found = set()
        reached: set[tuple[str, str]] = set()
        for key in self._plan.tags:
            reason = self._reason(key[0], self._root(key))
            if reason:
                found.add((*key, reason))
            reached |= {(key[0], each) for each in self._reached(key[0], self._root(key))}
        for digest, names in self._links.items():
            if "fsLayers" in self._documents[digest] and self._has_layers(digest):
                for name in names:
                    if digest in self.sizes and (name, digest) not in reached:
                        found.add((name, digest, "unsupported"))
        return found

    def repository_sizes(self) -> dict[str, int]:
        """Return the bytes that usable tags hold, by repository."""
        sizes = dict.fromkeys(self._plan.repositories(), 0)
        for name in sizes:
            roots = [self._root(key) for key in self._plan.tags if key[0] == name]
            reasons = {root: self._reason(name, root) for root in roots}
            usable = [root for root in roots if reasons[root] in (None, "partial")]
            manifests = {digest for root in usable for digest in self._reached(name, root)}
            linked = {digest for digest in manifests if self._linked(name, digest)}
            blobs = manifests | {each for digest in linked for each in self._names(digest)}
            sizes[name] = sum(self.sizes.get(each, 0) for each in blobs)
        return sizes

    def blob_bytes(self) -> dict[str, int]:
        """Return the bytes of the blobs by what holds them."""
        tagged = {
            digest
            for digest in self.sizes
            if any(self._holds(name, root, digest) for name, root in self._roots())
        }
        linked = {
            digest
            for digest in self.sizes
            if any(
                digest in (held, *self._names(held))
                for held, names in self._links.items()
                if names
            )
        }
        bytes_of = {
            "tag": tagged,
            "untagged": linked - tagged,
            "nothing": {*self.sizes} - linked - tagged,
        }
        return {
            holder: sum(self.sizes[digest] for digest in held)
            for holder, held in bytes_of.items()
        }

    def _linked(self, name: str, digest: str) -> bool:
        return name in self._links.get(digest, ())

    def _root(self, key: tuple[str, str]) -> str:
        return digest_of(text_of(self._plan.manifests[self._plan.tags[key]]))

    def _roots(self) -> list[tuple[str, str]]:
        return [(key[0], self._root(key)) for key in self._plan.tags]

    def _readable(self, name: str, digest: str) -> bool:
        return self._linked(name, digest) and digest in self.sizes

    def _children(self, digest: str) -> list[str]:
        entries = self._documents[digest].get("manifests", [])
        return [entry["digest"] for entry in entries if entry["mediaType"] != OCI_LAYER]

    def _layers(self, digest: str) -> dict[str, int | None]:
        document = self._documents[digest]
        if "fsLayers" in document:
            return {
                each["blobSum"]: self.sizes.get(each["blobSum"])
                for each in document["fsLayers"]
            }
        entries = document.get("layers") or document.get("manifests") or []
        return {
            each["digest"]: each["size"] for each in entries if each["mediaType"] == OCI_LAYER
        }

    def _names(self, digest: str) -> set[str]:
        if digest in self._plan.gone:
            return set()
        config = self._documents[digest].get("config")
        return {
            *self._children(digest),
            *self._layers(digest),
            *([config["digest"]] if config else []),
        }

    def _reached(self, name: str, root: str) -> set[str]:
        if not self._readable(name, root):
            return {root}
        return {root}.union(*(self._reached(name, child) for child in self._children(root)))

    def _holds(self, name: str, root: str, blob: str) -> bool:
        return any(
            self._linked(name, digest) and blob in (digest, *self._names(digest))
            for digest in self._reached(name, root)
        )

    def _whole(self, name: str, root: str) -> bool:
        return all(self._readable(name, digest) for digest in self._reached(name, root))

    def _reason(self, name: str, root: str) -> str | None:
        """Return why a tag is unusable."""
        reached = self._reached(name, root)
        there = {digest for digest in reached if self._readable(name, digest)}
        images = {digest for digest in there if not self._children(digest)}
        for digest in there:
            if not self._names(digest) - self._foreign(digest) - reached <= self.sizes.keys():
                return "missing"
        if there != reached:
            return "partial" if images else "missing"
        if any(
            "fsLayers" in self._documents[each] and self._has_layers(each) for each in there
        ):
            return "unsupported"
        return None

    def _has_layers(self, digest: str) -> bool:
        return bool(self._documents[digest]["fsLayers"])

    def _foreign(self, digest: str) -> set[str]:
        entries = self._documents[digest].get("layers", [])
        return {entry["digest"] for entry in entries if "urls" in entry}

    def _tag(self, name: str, root: str) -> tuple[int | None, int | None]:
        if not self._whole(name, root):
            return None, None
        layers: dict[str, int | None] = {}
        for digest in self._reached(name, root):
            for layer, size in self._layers(digest).items():
                layers[layer] = layers.get(layer) or size
        known = [size for size in layers.values() if size is not None]
        return len(layers), sum(known) if len(known) == len(layers) else None


def check(found: Contents, reference: Reference, emptied: Iterable[str] = ()) -> None:
    """Compare a scan with the reference; emptied repositories stay in the storage."""
    tags = {(each.name, tag.name): tag[2:] for each in found.repositories for tag in each.tags}

    assert reference.tags() == tags
    assert reference.unusable() == {
        (each.repository, each.name, each.defect.reason) for each in found.unusable
    }
    sizes = dict.fromkeys(emptied, 0) | reference.repository_sizes()
    assert sizes == {each.name: each.size for each in found.repositories}
    blob_bytes = reference.blob_bytes()
    assert sum(reference.sizes.values()) == sum(blob_bytes.values())
    if not found.repositories and reference.sizes:
        del blob_bytes["nothing"]
    assert blob_bytes == found.blob_bytes


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder, in memory if possible: on a disk its removal takes longer than the test."""
    memory = "/dev/shm"
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@given(storages())
def test_a_scan(plan: Plan) -> None:
    """A scan of any storage agrees with the reference."""
    with temporary_folder() as folder:
        write(plan, folder / "v2")
        check(Storage(f"{folder}/v2").scan(), Reference(plan))


@given(storages(), storages())
def test_a_later_scan(before: Plan, after: Plan) -> None:
    """A scan after any changes agrees with the reference, although it keeps all that it can."""
    with temporary_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
        write(before, folder / "v2")
        for path in folder.rglob("*"):
            os.utime(path, (1, 1))
        storage = Storage(f"{folder}/v2")
        first = storage.scan()
        transform(folder / "v2", write(after, folder / "other").path)
        second = storage.scan()

    check(first, Reference(before))
    check(second, Reference(after), emptied={*before.repositories()})


def transform(storage: Path, into: Path) -> None:
    """Change a storage into another one, as a registry does: a blob's folder is deleted with the blob."""
    old, new = (
        {
            file.relative_to(each): file.read_bytes()
            for file in each.rglob("*")
            if file.is_file()
        }
        for each in (storage, into)
    )
    for name in old.keys() - new.keys():
        (storage / name).unlink()
        if name.parts[0] == "blobs":
            (storage / name).parent.rmdir()
    for name in new:
        if old.get(name) != new[name]:
            (storage / name).parent.mkdir(parents=True, exist_ok=True)
            (storage / name).write_bytes(new[name])
