"""Scans of random storages agree with a slow and simple walk through them, tests/support/registry_oracle.py."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_prom_exporter.registry import files
from docker_prom_exporter.registry.storage import Storage
from support.registry_oracle import compare
from support.storages import (
    DOCKER,
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


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder, in memory if possible: on a disk its removal takes longer than the test."""
    memory = "/dev/shm"
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@given(storages())
def test_a_scan(plan: Plan) -> None:
    """A scan of any storage agrees with the oracle."""
    with temporary_folder() as folder:
        write(plan, folder / "v2")
        compare(Storage(f"{folder}/v2").scan(), folder / "v2")


@given(storages(), storages())
def test_a_later_scan(before: Plan, after: Plan) -> None:
    """A scan after any changes agrees with the oracle, although it keeps all that it can."""
    with temporary_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
        write(before, folder / "v2")
        for path in folder.rglob("*"):
            os.utime(path, (1, 1))
        storage = Storage(f"{folder}/v2")
        compare(storage.scan(), folder / "v2")
        transform(folder / "v2", write(after, folder / "other").path)
        compare(storage.scan(), folder / "v2")


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
