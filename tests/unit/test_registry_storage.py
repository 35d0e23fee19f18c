"""Scans of storages that are written by hand, with every kind of manifest and of damage."""

import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from docker_prom_exporter.registry import files
from docker_prom_exporter.registry.storage import (
    Contents,
    Storage,
    StorageError,
)
from support import storages
from support.registry_oracle import compare, repository, tag
from support.storages import (
    CONFIG,
    DOCKER,
    OCI_ARTIFACT,
    OCI_MANIFEST,
    HandMade,
    descriptor,
    digest_of,
    image,
    index,
    text_of,
)

A, B, C = b"a" * 10, b"b" * 200, b"c" * 3000


@pytest.fixture
def storage(tmp_path: Path) -> HandMade:
    """Return an empty storage."""
    return HandMade(tmp_path / "v2")


def scan(storage: HandMade) -> Contents:
    """Return the first scan of a storage."""
    return Storage(str(storage.path)).scan()


def defects(contents: Contents) -> list[tuple[str, str, str]]:
    """Return the repository, name and reason of each defect."""
    return [(each.repository, each.name, each.defect.reason) for each in contents.unusable]


def total(*contents: bytes) -> int:
    """Return the bytes of these blobs, each counted once."""
    return sum(map(len, {*contents}))


class Case(NamedTuple):
    """A storage, and what a scan says of its tags and of what can't be used."""

    write: Callable[[HandMade], object]
    tags: dict[str, tuple[int | None, int | None]]
    defects: set[tuple[str, str]]


CASES: dict[str, Case] = {}

Write = Callable[[HandMade], object]


def case(
    *defects: tuple[str, str], **tags: tuple[int | None, int | None]
) -> Callable[[Write], Write]:
    """Add a case whose tags have these layers and sizes, and which has these names with reasons."""

    def add(write: Write) -> Write:
        CASES[write.__name__] = Case(write, tags, {*defects})
        return write

    return add


@case(latest=(2, 210))
def an_image(storage: HandMade) -> None:
    storage.push_image("app", A, B)


@case(one=(2, 210), two=(2, 3010), three=(2, 210))
def a_layer_that_is_named_twice_counts_once(storage: HandMade) -> None:
    storage.push_image("app", A, A, B, tag="one")
    storage.push_image("app", A, C, tag="two")
    storage.push_image("other/app", A, B, tag="three")


@case()
def an_emptied_repository_stays(storage: HandMade) -> None:
    digest = storage.push_image("app", A)
    storage.tag_link("app", "latest").unlink()
    storage.unlink("app", digest)


@case(latest=(3, total(A, B, C)))
def an_index_has_the_layers_of_its_images(storage: HandMade) -> None:
    provenance = {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
    attestation = image(C, annotations=provenance)
    children = (image(A, B), image(A), attestation)
    inner = index(*children[:2])
    storage.blobs(A, B, C, CONFIG)
    for document in (*children, inner):
        storage.push("app", document)
    storage.push("app", index(inner, attestation), "latest")


@case(list=(1, len(A)), index=(1, len(B)))
def docker_lists_and_missing_media_types(storage: HandMade) -> None:
    storage.blobs(A, B, CONFIG)
    child, unnamed = image(A, mediaType=f"{DOCKER}.v2+json"), image(B)
    del unnamed["mediaType"]
    storage.push("app", child)
    storage.push("app", unnamed)
    storage.push("app", index(child, mediaType=f"{DOCKER}.list.v2+json"), "list")
    described = descriptor(text_of(unnamed), OCI_MANIFEST)
    storage.push("app", {"schemaVersion": 2, "manifests": [described]}, "index")


@case(("latest", "partial"), latest=(None, None))
def a_sparse_index(storage: HandMade) -> None:
    storage.blobs(A, CONFIG)
    storage.push("app", image(A))
    storage.push("app", index(image(A), image(B)), "latest")


@case(("latest", "missing"), latest=(None, None))
def an_index_without_any_of_its_images(storage: HandMade) -> None:
    inner = index(image(A), image(B))
    storage.push("app", inner)
    storage.push("app", index(inner, image(C)), "latest")


@case(("latest", "partial"), latest=(None, None))
def a_deleted_child(storage: HandMade) -> None:
    # Nothing holds the child's layers.
    a_sparse_index(storage)
    storage.blob(B)
    storage.unlink("app", storage.push("app", image(B)))


@case(cache=(2, len(A + B)))
def a_build_cache(storage: HandMade) -> None:
    # BuildKit's cache is an index that names layers and a config.
    config = b'{"layers":[]}'
    entries = [
        descriptor(A),
        descriptor(B),
        descriptor(config, "application/vnd.buildkit.cacheconfig.v0"),
    ]
    storage.blobs(A, B, config)
    storage.push("app", index(manifests=entries), "cache")


@case(("broken", "missing"), ("whole", "unsupported"), whole=(2, len(A + B)), broken=(3, None))
def schema_1(storage: HandMade) -> None:
    # Distribution 3 can't serve it. Each layer has the blob's size.
    layers = [{"blobSum": digest_of(layer)} for layer in (A, B, A, C)]
    storage.blobs(A, B)
    storage.push("app", {"schemaVersion": 1, "fsLayers": layers[:3]}, "whole")
    storage.push("app", {"schemaVersion": 1, "fsLayers": layers}, "broken")


@case(latest=(2, len(A + C)))
def a_foreign_layer_that_is_elsewhere(storage: HandMade) -> None:
    foreign = descriptor(C, f"{DOCKER}.foreign", urls=["https://example.com/layer"])
    storage.blobs(A, CONFIG)
    storage.push("app", image(A, layers=[descriptor(A), foreign]), "latest")


@case(latest=(2, len(A + C)))
def a_foreign_layer_that_is_stored(storage: HandMade) -> None:
    a_foreign_layer_that_is_elsewhere(storage)
    storage.blob(C)


@case(latest=(1, len(A)), sbom=(1, len(B)), signature=(1, len(B)))
def artifacts(storage: HandMade) -> None:
    # The blobs of an artifact are layers, a signature has a tag, and nothing holds a subject.
    storage.push_image("app", A)
    subject = descriptor(text_of(image(A)), OCI_MANIFEST)
    storage.blobs(B, C)
    sbom = {"mediaType": OCI_ARTIFACT, "blobs": [descriptor(B)], "subject": subject}
    storage.push("app", sbom, "sbom")
    storage.push("app", image(B, artifactType="example/sig"), "signature")
    storage.push("app", image(C, subject=subject, artifactType="example/sbom"))


@case(latest=(2, 210))
def a_blob_counts_for_its_greatest_holder(storage: HandMade) -> None:
    # For a tag in any repository, else for an untagged manifest, else for nothing.
    storage.push_image("one", A, B)
    storage.push_image("two", A, C, tag="")
    storage.push_image("three", B, tag="")
    storage.unlink("four", storage.push_image("four", C, tag=""))


@case(("latest", "corrupt"), latest=(None, None))
def a_manifest_with_another_digest(storage: HandMade) -> None:
    storage.data(storage.push_image("app", A)).write_bytes(text_of(image(B)))


@case(("latest", "missing"), latest=(1, len(A)))
def a_layer_that_is_gone(storage: HandMade) -> None:
    storage.push_image("app", A)
    storage.data(digest_of(A)).unlink()


@case(("latest", "missing"), latest=(1, len(A)))
def a_config_that_is_gone(storage: HandMade) -> None:
    storage.push_image("app", A)
    storage.data(digest_of(CONFIG)).unlink()


@case(("latest", "missing"), latest=(None, None))
def a_manifest_that_is_gone(storage: HandMade) -> None:
    storage.data(storage.push_image("app", A)).unlink()


@case(("latest", "missing"), latest=(None, None))
def a_revision_that_is_gone(storage: HandMade) -> None:
    storage.unlink("app", storage.push_image("app", A))


@case(("latest", "missing"), latest=(1, len(A)))
def a_layer_link_that_is_gone(storage: HandMade) -> None:
    storage.push_image("app", A)
    storage.layer("app", digest_of(A)).unlink()


@case(("latest", "corrupt"), latest=(1, len(A)))
def a_layer_of_another_size(storage: HandMade) -> None:
    storage.push_image("app", A)
    os.truncate(storage.data(digest_of(A)), 5)


@case(("latest", "corrupt"), latest=(1, len(A)))
def a_config_that_is_empty(storage: HandMade) -> None:
    storage.push_image("app", A)
    os.truncate(storage.data(digest_of(CONFIG)), 0)


@case(absent=(1, None), negative=(1, None), known=(1, len(A)))
def a_descriptor_without_a_size(storage: HandMade) -> None:
    negative = {**descriptor(A), "size": -1}
    absent = {name: value for name, value in negative.items() if name != "size"}
    storage.blobs(A, CONFIG)
    storage.push("app", image(layers=[negative]), "negative")
    storage.push("app", image(layers=[absent]), "absent")
    storage.push("app", image(layers=[absent, descriptor(A)]), "known")


@case()
def an_untagged_revision_without_a_blob(storage: HandMade) -> None:
    # It is no error: nobody can pull it.
    storage.data(storage.push_image("app", A, tag="")).unlink()


@pytest.mark.parametrize("name", CASES)
def test_a_storage(storage: HandMade, name: str) -> None:
    """Tags have the layers and the size of their manifests; sizes and holders are as the oracle says."""
    CASES[name].write(storage)
    contents = scan(storage)
    tags = {each.name: each[2:] for found in contents.repositories for each in found.tags}

    assert CASES[name].tags == tags
    assert CASES[name].defects == {(name, reason) for _, name, reason in defects(contents)}
    compare(contents, storage.path)


def test_nested_repositories(storage: HandMade) -> None:
    """Names of repositories may have slashes, repositories may be nested, and invalid names are ignored."""
    for name in ("a", "a/b", "a/b/c-d__e.f", "A", "a/_b", f"{'x' * 200}/{'y' * 55}"):
        storage.push_image(name, A)
    (storage.path / "repositories" / os.fsdecode(b"\xff")).mkdir()
    contents = scan(storage)

    assert ["a", "a/b", "a/b/c-d__e.f"] == [each.name for each in contents.repositories]


def test_uploads(storage: HandMade) -> None:
    """The bytes of uploads count, also those of an upload to a repository that does not exist yet."""
    storage.push_image("app", A)
    storage.upload("app", B)
    storage.upload("new", C)
    contents = scan(storage)

    assert len(B + C) == contents.upload_bytes
    assert ["app"] == [each.name for each in contents.repositories]


def test_a_pull_through_cache(tmp_path: Path) -> None:
    """In a pull-through cache, nothing that is absent counts, and what is corrupt does."""
    storage = HandMade(tmp_path / "docker/registry/v2")
    (tmp_path / "scheduler-state.json").write_text("{}")
    storage.blobs(A, CONFIG)
    storage.push("app", image(A))
    storage.push("app", index(image(A), image(B)), "one-platform")
    storage.push("app", image(C), "manifest-alone")
    storage.tag("app", "expired", digest_of(C))
    storage.tag_link("app", "expired").write_text("")
    scanned = Storage(str(storage.path))
    contents = scanned.scan()
    (tmp_path / "scheduler-state.json").unlink()
    no_cache = scanned.scan()

    assert contents.is_cache
    assert [("app", "expired", "corrupt")] == defects(contents)
    assert sum(storages.sizes(storage.path).values()) == repository(contents).size
    assert not no_cache.is_cache
    assert {"corrupt", "missing", "partial"} == {reason for *_, reason in defects(no_cache)}


@pytest.mark.parametrize(
    ("path", "hidden"), [("docker/registry/v2", False), ("mounted/registry", True)]
)
def test_a_cache_that_may_be_hidden(tmp_path: Path, path: str, hidden: bool) -> None:  # noqa: FBT001
    """If PATH ends otherwise, a cache's scheduler-state.json can't be seen."""
    storage = HandMade(tmp_path / path)

    assert hidden == Storage(str(storage.path)).hides_cache_state()


def test_an_untagged_schema_1_manifest(storage: HandMade) -> None:
    """An untagged schema 1 manifest is unsupported: distribution 3 collects no garbage."""
    digest = storage.push("app", {"schemaVersion": 1, "fsLayers": [{"blobSum": digest_of(A)}]})

    assert [("app", digest, "unsupported")] == defects(scan(storage))


def test_a_foreign_layer_that_arrives(storage: HandMade) -> None:
    """A foreign layer that is stored later counts in the next scan."""
    foreign = descriptor(C, f"{DOCKER}.foreign", urls=["https://example.com/layer"])
    storage.blobs(A, CONFIG)
    storage.push("app", image(A, layers=[descriptor(A), foreign]), "latest")
    scanned = Storage(str(storage.path))
    before = repository(scanned.scan()).size
    storage.blob(C)

    assert before + len(C) == repository(scanned.scan()).size


def layer(**changes: Any) -> bytes:
    """Return an image whose only layer has these fields in its descriptor."""
    return text_of(image(layers=[{**descriptor(A), **changes}]))


UNUSABLE: dict[str, dict[str, bytes]] = {
    "corrupt": {
        "truncated": text_of(image(A))[:-10],
        "empty": b"",
        "not JSON": b"\xff\xfe<html>",
        "not an object": b"[1, 2]",
        "deep": b"[" * 90_000,
        "NaN": text_of(image(A)).replace(b'"size": 10', b'"size": NaN'),
        "a size of many digits": layer(size=7777).replace(b"7777", b"9" * 5000),
        "a size of more than 64 bits": layer(size=2**63),
        "a size that is true": layer(size=True),
        "no digest": text_of(image(layers=[{"size": 1}])),
        "a digest with a path": layer(digest="sha256:../../x"),
        "a digest that is a number": layer(digest=7),
        "layers that are a number": text_of(image(layers=7)),
        "a layer that is a string": text_of(image(layers=["a"])),
        "no config": b'{"schemaVersion": 2, "layers": []}',
        "a listed media type": text_of(index(manifests=[{**descriptor(A), "mediaType": []}])),
    },
    "unsupported": {
        "an unknown kind": text_of(image(A, mediaType="application/vnd.example.v9+json")),
        "a listed kind": text_of(image(A, mediaType=["x"])),
        "schema 3": b'{"schemaVersion": 3}',
        "an empty object": b"{}",
        "too many values": b"[" + b"{}," * 100_000 + b"{}]",
        "too large": b" " * (4 * 2**20 + 1),
    },
}


@pytest.mark.parametrize(
    ("reason", "what"),
    [(reason, what) for reason, manifests in UNUSABLE.items() for what in manifests],
)
def test_an_unusable_manifest(storage: HandMade, reason: str, what: str) -> None:
    """An unusable manifest has no size, is counted by reason and affects no other tag."""
    text = UNUSABLE[reason][what]
    storage.push_image("fine", B)
    digest = storage.blob(text)
    storage.link("app", digest)
    storage.tag("app", "latest", digest)
    contents = scan(storage)

    assert (None, None) == tag(contents)[2:]
    assert [("app", "latest", reason)] == defects(contents)
    assert str(storage.data(digest)) in contents.unusable[0].defect.detail
    assert (1, len(B)) == repository(contents, "fine").tags[0][2:]
    assert len(text) + total(B, CONFIG, text_of(image(B))) == contents.blob_bytes["tag"]


def test_a_manifest_of_100_mib(storage: HandMade) -> None:
    """A manifest of 100 MiB is unsupported."""
    digest = storage.push_image("app", A)
    os.truncate(storage.data(digest), 100 * 2**20)
    contents = scan(storage)

    assert [("app", "latest", "unsupported")] == defects(contents)
    assert 100 * 2**20 <= contents.blob_bytes["tag"]


def test_an_unusable_untagged_manifest(storage: HandMade) -> None:
    """An unusable manifest is counted by its digest, or with the tag that leads to it."""
    broken = storage.blob(b"{")
    storage.link("app", broken)
    child = {"mediaType": OCI_MANIFEST, "digest": broken, "size": 1}
    alone = scan(storage)
    storage.push("app", index(manifests=[child]), "latest")

    assert [("app", broken, "corrupt")] == defects(alone)
    assert [("app", "latest", "corrupt")] == defects(scan(storage))


LINKS: dict[str, Callable[[Path, Path], object]] = {
    "rubbish": lambda link, _: link.write_bytes(b"rubbish\n\xff\x00"),
    "long": lambda link, _: link.write_bytes(b"sha256:" + b"0" * 1000),
    "empty": lambda link, _: link.write_bytes(b""),
    "a newline": lambda link, outside: link.write_text(f"{outside.read_text()}\n"),
    "elsewhere": lambda link, outside: link.symlink_to(outside),
    "FIFO": lambda link, _: os.mkfifo(link),
    "folder": lambda link, _: link.mkdir(),
}


@pytest.mark.parametrize("what", LINKS)
def test_an_unusable_link(storage: HandMade, tmp_path: Path, what: str) -> None:
    """A tag with an unusable link counts; a symbolic link is not followed, and a FIFO does not block."""
    digest = storage.push_image("app", A)
    storage.push_image("app", B, tag="fine")
    outside = tmp_path / "outside"
    outside.write_text(digest)
    storage.tag_link("app", "latest").unlink()
    LINKS[what](storage.tag_link("app", "latest"), outside)
    contents = scan(storage)
    reason = "link" if what == "elsewhere" else "corrupt"

    assert [("app", "latest", reason)] == defects(contents)
    assert 2 == len(repository(contents).tags)
    assert (1, len(B)) == tag(contents, "fine")[2:]


def test_symbolic_links_are_not_followed(storage: HandMade, tmp_path: Path) -> None:
    """No repository, tag, revision or blob is found through a symbolic link."""
    outside = HandMade(tmp_path / "outside")
    digest = outside.push_image("app", A)
    storage.push_image("mine", B)
    (storage.repository("moved") / "_manifests").mkdir(parents=True)
    for name in ("tags", "revisions"):
        away = outside.repository("app") / "_manifests" / name
        (storage.repository("moved") / "_manifests" / name).symlink_to(away)
    (storage.path / "repositories/app").symlink_to(outside.repository("app"))
    tags = storage.repository("mine") / "_manifests/tags"
    (tags / "linked").symlink_to(outside.tag_link("app", "latest").parents[1])
    (tags / "1").mkdir()
    (tags / "1/current").symlink_to(outside.tag_link("app", "latest").parent)
    storage.revision("mine", digest).parent.symlink_to(outside.revision("app", digest).parent)
    for blob in storages.sizes(outside.path):
        folder = storage.data(blob).parent
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(outside.data(blob).parent)
    contents = scan(storage)

    found = [(each.name, len(each.tags), each.revisions) for each in contents.repositories]
    assert [("mine", 2, 1)] == found
    paths = [*tmp_path.rglob("*")]
    links = {
        path for path in paths if path.is_symlink() and not path.is_relative_to(outside.path)
    }
    assert len(links) == len(
        [each for each in contents.unusable if each.defect.reason == "link"]
    )
    assert total(B, CONFIG, text_of(image(B))) == sum(contents.blob_bytes.values())


def test_a_layer_behind_a_symbolic_link(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scan counts each link once, the tag stays, and the bytes behind links do not count."""
    monkeypatch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
    storage.push_image("app", A)
    folder = storage.data(digest_of(A)).parent
    folder.symlink_to(folder.rename(storage.path / "elsewhere"))
    unused = storage.data(digest_of(C)).parent
    unused.parent.mkdir(parents=True, exist_ok=True)
    unused.symlink_to(storage.path / "elsewhere")
    scanned = Storage(str(storage.path))
    first = scanned.scan()

    assert [("", "", "link")] * 2 == defects(first)
    assert (1, len(A)) == tag(first)[2:]
    assert total(CONFIG, text_of(image(A))) == sum(first.blob_bytes.values())
    assert first == scanned.scan()


DIGEST_LINKS = {
    "empty": "",
    "zeros": "\0" * 71,
    "cut": digest_of(A)[:40],
    "in upper case": f"sha256:{digest_of(A)[7:].upper()}",
    "of another digest": digest_of(B),
}


@pytest.mark.parametrize("what", DIGEST_LINKS)
@pytest.mark.parametrize("of", ["revision", "layer"])
@pytest.mark.parametrize("tags", [["latest"], []])
def test_a_corrupt_link(storage: HandMade, what: str, of: str, tags: list[str]) -> None:
    """A revision or layer link without its own digest counts with its tag, else by itself."""
    storage.blobs(A, CONFIG)
    digest = storage.push("app", image(A), *tags)
    link = storage.layer("app", digest_of(A))
    if of == "revision":
        link = storage.revision("app", digest)
    link.write_text(DIGEST_LINKS[what])
    contents = scan(storage)
    name = digest if of == "revision" else digest_of(A)

    assert [("app", *(tags or [name]), "corrupt")] == defects(contents)
    assert str(link) in contents.unusable[0].defect.detail
    assert 1 == repository(contents).revisions


def test_links_are_read_once(storage: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later scan sees a link that was changed, and reads no other."""
    monkeypatch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
    storage.push_image("app", A)
    scanned = Storage(str(storage.path))
    scanned.scan()
    storage.layer("app", digest_of(A)).write_text("")
    opened = opened_files(monkeypatch)
    contents = scanned.scan()

    assert [("app", "latest", "corrupt")] == defects(contents)
    assert [storage.layer("app", digest_of(A))] == [
        path for path in opened if path.name in ("link", "data")
    ]


def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of paths that are opened from now on."""
    opened: list[Path] = []
    real = os.open

    def noted(path: str, *rest: Any) -> int:
        opened.append(Path(path))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", noted)
    return opened


def test_a_layer_named_by_sha512(storage: HandMade) -> None:
    """The link of a layer that is named by sha512 leads to the blob, which has sha256."""
    name = f"sha512:{hashlib.sha512(A).hexdigest()}"
    storage.blobs(A, CONFIG)
    storage.push("app", image(layers=[{**descriptor(A), "digest": name}]), "latest")
    storage.link_layer("app", name, digest_of(A))
    contents = scan(storage)

    assert (1, len(A)) == tag(contents)[2:]
    assert () == contents.unusable
    assert sum(storages.sizes(storage.path).values()) == repository(contents).size
    assert len(A) == contents.blob_bytes["nothing"]  # garbage-collect deletes it


def test_keys_in_any_case(storage: HandMade) -> None:
    """Keys may be in any case, as in distribution."""
    text = text_of(image(A)).decode()
    for key in ("mediaType", "layers", "config", "digest", "size", "schemaVersion"):
        text = text.replace(f'"{key}"', f'"{key.upper()}"')
    storage.push_image("app", A, tag="")
    digest = storage.blob(text.encode())
    storage.link("app", digest)
    storage.tag("app", "latest", digest)
    contents = scan(storage)

    assert (1, len(A)) == tag(contents)[2:]
    assert () == contents.unusable


@pytest.mark.parametrize("kind", ["", "application/vnd.example"])
def test_an_index_of_manifests_without_a_known_kind(storage: HandMade, kind: str) -> None:
    """What a repository links as a revision is a manifest, whatever an index says."""
    storage.blobs(A, CONFIG)
    child = storage.push("app", image(A))
    entry = {"mediaType": kind, "digest": child, "size": 1}
    storage.push("app", index(manifests=[entry]), "latest")
    contents = scan(storage)

    assert (1, len(A)) == tag(contents)[2:]
    assert {"untagged": 0, "nothing": 0}.items() <= contents.blob_bytes.items()
    assert () == contents.unusable


def test_a_manifest_named_as_a_layer(storage: HandMade) -> None:
    """A tagged manifest that names another as a layer holds what the other names."""
    storage.blobs(A, CONFIG)
    storage.push("app", image(A))
    storage.push("app", image(text_of(image(A))), "latest")
    contents = scan(storage)

    assert (1, len(A)) == tag(contents)[2:]
    assert {"untagged": 0, "nothing": 0}.items() <= contents.blob_bytes.items()


def test_everything_is_read_anew(storage: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that was changed in place is seen after an hour at the latest."""
    monkeypatch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
    storage.push_image("app", A)
    scanned = Storage(str(storage.path))
    scanned.scan()
    os.truncate(storage.data(digest_of(A)), 1)
    before = scanned.scan()
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 3601)

    assert () == before.unusable
    assert [("app", "latest", "corrupt")] == defects(scanned.scan())


@pytest.mark.parametrize("left", ["", "docker", "docker/registry", "docker/registry/v2"])
def test_a_registry_before_its_first_push(tmp_path: Path, left: str) -> None:
    """An empty root of a registry is an empty storage, also during the first push, not later."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / left).mkdir(parents=True, exist_ok=True)
    path = tmp_path / "docker/registry/v2"
    scanned = Storage(str(path))
    before = scanned.scan()
    (path / "repositories/app/_uploads/1").mkdir(parents=True)
    (path / "repositories/app/_uploads/1/data").write_bytes(A)
    during = scanned.scan()
    HandMade(path).push_image("app", A)

    assert ((), 0) == (before.repositories, sum(before.blob_bytes.values()))
    assert len(A) == during.upload_bytes
    assert (1, len(A)) == tag(scanned.scan())[2:]
    shutil.rmtree(tmp_path / "docker")
    with pytest.raises(StorageError, match="no folders repositories and blobs"):
        scanned.scan()


@pytest.mark.parametrize("missing", ["", "repositories", "blobs"])
def test_no_storage(storage: HandMade, missing: str) -> None:
    """Without the folders of a storage, the error says what was expected."""
    storage.push_image("app", A)
    scanned = Storage(str(storage.path))
    scanned.scan()
    (storage.path / missing).rename(storage.path.parent / "elsewhere")

    with pytest.raises(
        StorageError, match=r"no folders repositories and blobs in .*/v2"
    ) as caught:
        scanned.scan()
    assert "the path ends in docker/registry/v2" in caught.value.advice


@pytest.mark.parametrize("other", ["other", "storage/other"])
def test_nothing_is_mounted(tmp_path: Path, other: str) -> None:
    """A registry before its first push has a root, and nothing in it."""
    (tmp_path / other).mkdir(parents=True)
    roots = (tmp_path / "storage", tmp_path / "gone")

    for root in roots if "/" in other else roots[1:]:
        with pytest.raises(StorageError, match="no folders repositories and blobs"):
            Storage(str(root / "docker/registry/v2")).scan()


@pytest.mark.parametrize("folder", ["repositories", "blobs"])
def test_a_storage_through_a_symbolic_link(storage: HandMade, folder: str) -> None:
    """A symbolic link in place of a top folder is not an empty storage."""
    storage.push_image("app", A)
    moved = (storage.path / folder).rename(storage.path.parent / "elsewhere")
    (storage.path / folder).symlink_to(moved)

    with pytest.raises(StorageError, match="no folders repositories and blobs"):
        scan(storage)


@pytest.mark.parametrize("above", ["docker/registry/v2", "registry/v2", "v2"])
def test_a_path_above_the_storage(tmp_path: Path, above: str) -> None:
    """If the path is above the storage, the advice is the right path."""
    HandMade(tmp_path / above)

    with pytest.raises(StorageError) as caught:
        Storage(str(tmp_path)).scan()
    assert f"the storage is {tmp_path}/{above}" == caught.value.advice


def test_a_storage_that_is_replaced_during_a_scan(storage: HandMade) -> None:
    """A scan fails if the storage is replaced meanwhile, because the result would mix two storages."""
    storage.push_image("app", A)
    moved = storage.path.parent / "moved"

    def replace() -> None:
        if not moved.exists():
            storage.path.rename(moved)
            HandMade(storage.path)

    with pytest.raises(StorageError, match="replaced"):
        Storage(str(storage.path), replace).scan()


class Changing:
    """A storage that changes when a scan looks at the n-th file or folder."""

    def __init__(self, storage: HandMade, moment: int, change: Callable[[], object]) -> None:
        self.left = moment
        self._change = change
        self.storage = Storage(str(storage.path), self._look)

    def _look(self) -> None:
        self.left -= 1
        if self.left == 0:
            self._change()


MOMENTS = range(1, 40)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_push_during_a_scan(storage: HandMade, moment: int) -> None:
    """At any moment of a scan, a push makes nothing unusable, and the next scan has the push."""
    storage.push_image("app", A)
    changing = Changing(
        storage, moment, lambda: storage.push_image("app", B, config=b"{}", tag="new")
    )
    during = changing.storage.scan()
    changing.left = 1
    after = changing.storage.scan()

    assert () == during.unusable
    assert (1, len(B)) == tag(after, "new")[2:]
    assert (
        total(A, B, CONFIG, b"{}", text_of(image(A)), text_of(image(B, config=b"{}")))
        == repository(after).size
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_delete_and_garbage_collection_during_a_scan(storage: HandMade, moment: int) -> None:
    """At any moment of a scan, deleting makes nothing unusable, and the next scan has what is left."""
    deleted = storage.push_image("app", A, config=b"{}")
    storage.push_image("app", B, tag="stays")

    def delete() -> None:
        if storage.data(deleted).exists():
            storage.unlink("app", deleted)
            storage.tag_link("app", "latest").unlink()
            for digest in (deleted, digest_of(A), digest_of(b"{}")):
                storage.data(digest).unlink()
                storage.data(digest).parent.rmdir()

    changing = Changing(storage, moment, delete)
    during = changing.storage.scan()
    delete()
    after = changing.storage.scan()

    assert () == during.unusable
    assert ["stays"] == [each.name for each in repository(after).tags]
    assert {
        "tag": total(B, CONFIG, text_of(image(B))),
        "untagged": 0,
        "nothing": 0,
    } == after.blob_bytes


def test_a_manifest_is_read_once(storage: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later scan opens only the manifests and links that are new."""
    monkeypatch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
    storage.push_image("app", A)
    storage.push_image("app", B, tag="2")
    scanned = Storage(str(storage.path))
    opened = opened_files(monkeypatch)
    counts = []
    for _ in range(2):
        scanned.scan()
        counts.append(len([path for path in opened if path.name in ("data", "link")]))
    storage.push_image("app", C, tag="3")
    scanned.scan()
    last = [path.name for path in opened if path.name in ("data", "link")][counts[-1] :]

    assert counts[0] == counts[1]
    # The manifest, its links as tag, revision and layer, and the config's, written again.
    assert ["data", "link", "link", "link", "link"] == sorted(last)


def test_a_change_right_after_a_scan_is_seen(storage: HandMade) -> None:
    """A change is noticed even if it leaves the file's times unchanged.

    That happens within one tick of the file system's clock.
    """
    storage.push_image("app", A)
    scanned = Storage(str(storage.path))
    scanned.scan()
    times = storage.tag_link("app", "latest").stat()
    storage.push_image("app", B, tag="")
    storage.tag("app", "latest", digest_of(text_of(image(B))))
    os.utime(storage.tag_link("app", "latest"), ns=(times.st_atime_ns, times.st_mtime_ns))

    assert (1, len(B)) == tag(scanned.scan())[2:]


def test_a_blob_that_was_being_written(storage: HandMade) -> None:
    """A later scan reads the size of a recently written blob again."""
    digest = storage.push_image("app", A)
    storage.data(digest_of(A)).write_bytes(A[:1])
    whole = storage.data(digest).read_bytes()
    scanned = Storage(str(storage.path))
    scanned.scan()
    storage.data(digest_of(A)).write_bytes(A)

    assert total(A, CONFIG, whole) == repository(scanned.scan()).size


def test_a_blob_whose_folder_comes_first(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob is found even if its folder existed before, so that the prefix's folder is unchanged."""
    monkeypatch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
    storage.push_image("app", B)
    storage.data(digest_of(A)).parent.mkdir(parents=True)
    scanned = Storage(str(storage.path))
    before = scanned.scan()
    storage.blob(A)

    assert 0 == before.blob_bytes["nothing"]
    assert len(A) == scanned.scan().blob_bytes["nothing"]


def test_a_deleted_manifest_is_forgotten(storage: HandMade) -> None:
    """A deleted manifest is not kept for the next scan."""
    digest = storage.push_image("app", A)
    scanned = Storage(str(storage.path))
    scanned.scan()
    known = kept_manifests(scanned)
    storage.unlink("app", digest)
    storage.tag_link("app", "latest").unlink()
    shutil.rmtree(storage.data(digest).parent)
    scanned.scan()

    assert 1 == known
    assert 0 == kept_manifests(scanned)


def kept_manifests(storage: Storage) -> int:
    """Return the number of manifests that a storage keeps for the next scan."""
    return sum(len(prefix.manifests) for prefix in storage._blobs._prefixes)


def deny(
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    is_denied: Callable[[str], bool],
    code: int = errno.EACCES,
) -> None:
    """Let a function of `os` fail for some paths, as it does for users other than root."""
    real = getattr(os, method)

    def guarded(path: str, *rest: Any) -> Any:
        if is_denied(path):
            raise OSError(code, os.strerror(code), path)
        return real(path, *rest)

    monkeypatch.setattr(os, method, guarded)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_denied_files_and_folders(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What can't be read is denied and affects nothing else.

    The test simulates this, because root can read everything, and disks seldom break.
    """
    digest = storage.push_image("app", A)
    for name, layer in (("fine", B), ("folder", C), ("link", B), ("tag", B)):
        storage.push_image(name, layer)
    storage.upload("uploads", A)
    link = storage.tag_link("link", "latest")
    denied = (
        str(storage.data(digest)),
        str(link),
        "/folder/_manifests/tags",
        "/uploads/_uploads",
    )
    deny(monkeypatch, "open", lambda path: path.endswith(denied), code)
    beside = str(storage.tag_link("tag", "latest").parent)
    deny(monkeypatch, "lstat", lambda path: path == beside, code)
    contents = scan(storage)

    assert {
        ("app", "latest", "denied"),
        ("link", "latest", "denied"),
        ("tag", "latest", "denied"),
    } == {each for each in defects(contents) if each[0]}
    paths = [each.defect.detail for each in contents.unusable if not each.repository]
    assert 2 == len(paths)
    assert any(f"/folder/_manifests/tags: {os.strerror(code)}" in path for path in paths)
    assert any(f"/uploads/_uploads: {os.strerror(code)}" in path for path in paths)
    assert ["app", "fine", "link", "tag"] == [each.name for each in contents.repositories]
    assert (1, len(B)) == repository(contents, "fine").tags[0][2:]


@pytest.mark.parametrize("what", ["layer", "manifest", "revision", "layer link"])
def test_one_denied_folder(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A folder of mode 0 costs what is in it: a tag whose manifest is known keeps its size."""
    digest = storage.push_image("app", A)
    storage.push_image("fine", B)
    folder = {
        "layer": storage.data(digest_of(A)).parent,
        "manifest": storage.data(digest).parent,
        "revision": storage.revision("app", digest).parent,
        "layer link": storage.layer("app", digest_of(A)).parent,
    }[what]
    deny(monkeypatch, "lstat", lambda path: path.startswith(f"{folder}/"))
    contents = scan(storage)
    known = what.startswith("layer")

    assert ["denied"] == [reason for *_, reason in defects(contents)]
    assert ((1, len(A)) if known else (None, None)) == tag(contents)[2:]
    assert (1, len(B)) == repository(contents, "fine").tags[0][2:]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_an_error_that_is_not_of_one_file(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Where the exporter lacks descriptors or memory, the scan fails instead of returning a part."""
    digest = storage.push_image("app", A)
    deny(monkeypatch, "open", lambda path: path == str(storage.data(digest)), code)

    with pytest.raises(StorageError, match=os.strerror(code)):
        scan(storage)


@pytest.mark.parametrize("folder", ["repositories", "blobs/sha256"])
def test_a_denied_storage(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """If a top folder can't be read, the scan fails instead of returning a part."""
    storage.push_image("app", A)
    deny(monkeypatch, "open", lambda path: path == str(storage.path / folder))

    with pytest.raises(StorageError, match=f"can't read .*/{folder}: Permission denied"):
        scan(storage)


def test_many_indexes_deep(storage: HandMade) -> None:
    """A chain of indexes is followed to its end, even if it is longer than Python's recursion limit."""
    document = image(A)
    storage.blobs(A, CONFIG)
    for _ in range(300):
        storage.push("app", document)
        document = index(document)
    storage.push("app", document, "latest")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        contents = scan(storage)
    finally:
        sys.setrecursionlimit(limit)

    assert (1, len(A)) == tag(contents)[2:]
    assert () == contents.unusable


def test_a_missing_blob_beside_one_that_is_held(storage: HandMade) -> None:
    """To look for a blob that is gone changes nothing for those in the same folder.

    Whichever repository is counted last, it lacks manifests beside the layers of the other.
    """
    for name, layer in (("one", A), ("two", B)):
        storage.push_image(name, layer)
        for held in (A, B):
            beside = digest_of(held)[:-1] + ("0" if digest_of(held)[-1] != "0" else "1")
            storage.link(name, beside)
            storage.tag(name, f"gone-{beside[-4:]}", beside)

    assert 0 == scan(storage).blob_bytes["nothing"]
