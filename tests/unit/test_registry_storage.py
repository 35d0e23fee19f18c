"""Scans of storages that are written by hand, with every kind of manifest and of damage."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter.registry import files
from docker_prom_exporter.registry.storage import (
    Contents,
    Repository,
    Storage,
    StorageError,
    Tag,
)
from support import storages
from support.storages import (
    CONFIG,
    DOCKER,
    OCI_ARTIFACT,
    OCI_INDEX,
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


def repository(contents: Contents, name: str = "app") -> Repository:
    """Return the repository with this name."""
    return next(each for each in contents.repositories if each.name == name)


def tag(contents: Contents, name: str = "latest") -> Tag:
    """Return the tag with this name, in any repository."""
    return next(tag for each in contents.repositories for tag in each.tags if tag.name == name)


def defects(contents: Contents) -> list[tuple[str, str, str]]:
    """Return the repository, name and reason of each defect."""
    return [(each.repository, each.name, each.defect.reason) for each in contents.unusable]


def total(*contents: bytes) -> int:
    """Return the bytes of these blobs, each counted once."""
    return sum(map(len, {*contents}))


def test_an_image(storage: HandMade) -> None:
    """A tag has the layers and the size of its manifest, and the time of its link."""
    storage.push_image("app", A, B)
    os.utime(storage.tag_link("app", "latest"), (1, 1.5))
    contents = scan(storage)

    assert (Tag("latest", 1.5, 2, 210),) == repository(contents).tags
    assert 1 == repository(contents).revisions
    assert total(A, B, CONFIG, text_of(image(A, B))) == repository(contents).size
    assert {
        "tag": repository(contents).size,
        "untagged": 0,
        "nothing": 0,
    } == contents.blob_bytes
    assert () == contents.unusable


def test_a_layer_that_is_named_twice_counts_once(storage: HandMade) -> None:
    """A layer counts once in an image, in a repository and in the storage, even if it is named twice."""
    storage.push_image("app", A, A, B, tag="1")
    storage.push_image("app", A, C, tag="2")
    storage.push_image("other/app", A, B, tag="3")
    contents = scan(storage)

    assert (2, 210) == tag(contents, "1")[2:]
    manifests = (text_of(image(A, A, B)), text_of(image(A, C)), text_of(image(A, B)))
    assert total(A, B, C, CONFIG, *manifests[:2]) == repository(contents).size
    assert total(A, B, C, CONFIG, *manifests) == contents.blob_bytes["tag"]


def test_nested_repositories(storage: HandMade) -> None:
    """Names of repositories may have slashes, repositories may be nested, and invalid names are ignored."""
    for name in ("a", "a/b", "a/b/c-d__e.f", "A", "a/_b", f"{'x' * 200}/{'y' * 55}"):
        storage.push_image(name, A)
    (storage.path / "repositories" / os.fsdecode(b"\xff")).mkdir()
    contents = scan(storage)

    assert ["a", "a/b", "a/b/c-d__e.f"] == [each.name for each in contents.repositories]


def test_an_emptied_repository_stays(storage: HandMade) -> None:
    """A repository whose links were deleted stays, because its folders stay."""
    digest = storage.push_image("app", A)
    storage.tag_link("app", "latest").unlink()
    storage.unlink("app", digest)
    contents = scan(storage)

    assert Repository("app", (), 0, 0) == repository(contents)
    assert {
        "tag": 0,
        "untagged": 0,
        "nothing": total(A, CONFIG, text_of(image(A))),
    } == contents.blob_bytes


def test_uploads(storage: HandMade) -> None:
    """The bytes of uploads count, also those of an upload to a repository that does not exist yet."""
    storage.push_image("app", A)
    storage.upload("app", B)
    storage.upload("new", C)
    contents = scan(storage)

    assert len(B + C) == contents.upload_bytes
    assert ["app"] == [each.name for each in contents.repositories]


def test_an_index_has_the_layers_of_its_images(storage: HandMade) -> None:
    """An index has the layers of its images, attestations and inner indexes, each counted once."""
    attestation = image(
        C, annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
    )
    children = (image(A, B), image(A), attestation)
    inner = index(*children[:2])
    storage.blobs(A, B, C, CONFIG)
    for child in children:
        storage.push("app", child)
    storage.push("app", inner)
    storage.push("app", index(inner, attestation), "latest")
    contents = scan(storage)

    assert (3, len(A + B + C)) == tag(contents)[2:]
    assert 5 == repository(contents).revisions
    assert sum(storages.sizes(storage.path).values()) == repository(contents).size
    assert {
        "tag": repository(contents).size,
        "untagged": 0,
        "nothing": 0,
    } == contents.blob_bytes


def test_docker_lists_and_missing_media_types(storage: HandMade) -> None:
    """Docker's media types count as OCI's do, and OCI manifests may lack the media type."""
    storage.blobs(A, B, CONFIG)
    child = image(A, mediaType=f"{DOCKER}.v2+json")
    unnamed = image(B)
    del unnamed["mediaType"]
    storage.push("app", child)
    storage.push("app", unnamed)
    storage.push("app", index(child, mediaType=f"{DOCKER}.list.v2+json"), "list")
    described = descriptor(text_of(unnamed), OCI_MANIFEST)
    storage.push("app", {"schemaVersion": 2, "manifests": [described]}, "index")
    contents = scan(storage)

    assert (1, len(A)) == tag(contents, "list")[2:]
    assert (1, len(B)) == tag(contents, "index")[2:]
    assert () == contents.unusable


def test_a_sparse_index(storage: HandMade) -> None:
    """An index that lacks platforms has an unknown size and is unusable."""
    storage.blobs(A, CONFIG)
    storage.push("app", image(A))
    storage.push("app", index(image(A), image(B)), "latest")
    contents = scan(storage)

    assert (None, None) == tag(contents)[2:]
    assert [("app", "latest", "missing")] == defects(contents)
    assert 0 == repository(contents).size
    assert sum(storages.sizes(storage.path).values()) == contents.blob_bytes["tag"]


def test_a_deleted_child(storage: HandMade) -> None:
    """An index holds the manifest of a deleted child, but nothing holds the child's layers."""
    storage.blobs(A, B, CONFIG)
    storage.push("app", image(A))
    child = storage.push("app", image(B))
    storage.push("app", index(image(A), image(B)), "latest")
    storage.unlink("app", child)
    contents = scan(storage)

    assert [("app", "latest", "missing")] == defects(contents)
    assert len(B) == contents.blob_bytes["nothing"]


def test_a_build_cache(storage: HandMade) -> None:
    """BuildKit's cache is an index that names layers and a config."""
    config = b'{"layers":[]}'
    entries = [
        descriptor(A),
        descriptor(B),
        descriptor(config, "application/vnd.buildkit.cacheconfig.v0"),
    ]
    storage.blobs(A, B, config)
    storage.push(
        "app", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, "cache"
    )
    contents = scan(storage)

    assert (2, len(A + B)) == tag(contents, "cache")[2:]
    assert sum(storages.sizes(storage.path).values()) == repository(contents).size
    assert () == contents.unusable


def test_schema_1(storage: HandMade) -> None:
    """Schema 1 names layers without sizes, so each size is that of the blob, or unknown without the blob."""
    layers = [{"blobSum": digest_of(layer)} for layer in (A, B, A)]
    manifest = {
        "schemaVersion": 1,
        "name": "app",
        "tag": "latest",
        "fsLayers": layers,
        "history": [],
    }
    storage.blobs(A, B)
    storage.push("app", manifest, "whole")
    storage.push(
        "app", {**manifest, "fsLayers": [*layers, {"blobSum": digest_of(C)}]}, "broken"
    )
    contents = scan(storage)

    assert (2, len(A + B)) == tag(contents, "whole")[2:]
    assert (3, None) == tag(contents, "broken")[2:]
    assert [("app", "broken", "missing")] == defects(contents)


@pytest.mark.parametrize("here", [True, False])
def test_a_foreign_layer(storage: HandMade, here: bool) -> None:  # noqa: FBT001  a parameter of the test
    """A foreign layer counts for the size of the tag, and for that of the repository only if it is stored."""
    foreign = descriptor(C, f"{DOCKER}.foreign", urls=["https://example.com/layer"])
    storage.blobs(A, CONFIG, *[C] * here)
    storage.push("app", image(A, layers=[descriptor(A), foreign]), "latest")
    contents = scan(storage)

    assert (2, len(A + C)) == tag(contents)[2:]
    assert sum(storages.sizes(storage.path).values()) == repository(contents).size
    assert () == contents.unusable


def test_a_foreign_layer_that_arrives(storage: HandMade) -> None:
    """A foreign layer that is stored later counts in the next scan."""
    foreign = descriptor(C, f"{DOCKER}.foreign", urls=["https://example.com/layer"])
    storage.blobs(A, CONFIG)
    storage.push("app", image(A, layers=[descriptor(A), foreign]), "latest")
    scanned = Storage(str(storage.path))
    before = repository(scanned.scan()).size
    storage.blob(C)

    assert before + len(C) == repository(scanned.scan()).size


def test_artifacts(storage: HandMade) -> None:
    """The blobs of an artifact are layers, a signature has a tag, and nothing holds a subject."""
    storage.push_image("app", A)
    subject = descriptor(text_of(image(A)), OCI_MANIFEST)
    storage.blobs(B, C)
    storage.push(
        "app",
        {"mediaType": OCI_ARTIFACT, "blobs": [descriptor(B)], "subject": subject},
        "sbom",
    )
    storage.push("app", image(B, artifactType="example/sig"), f"sha256-{'0' * 64}.sig")
    untagged = image(C, subject=subject, artifactType="example/sbom")
    storage.push("app", untagged)
    contents = scan(storage)

    assert (1, len(B)) == tag(contents, "sbom")[2:]
    assert (1, len(B)) == tag(contents, f"sha256-{'0' * 64}.sig")[2:]
    assert total(C, text_of(untagged)) == contents.blob_bytes["untagged"]
    assert () == contents.unusable


def test_blob_bytes(storage: HandMade) -> None:
    """A blob counts once: for a tag in any repository, else for an untagged manifest, else for nothing."""
    storage.push_image("one", A, B, tag="latest")
    storage.push_image("two", A, C, tag="")
    storage.push_image("three", B, tag="")
    gone = storage.push_image("four", C, tag="")
    storage.unlink("four", gone)
    untagged = (C, text_of(image(A, C)), text_of(image(B)))

    assert {
        "tag": total(A, B, CONFIG, text_of(image(A, B))),
        "untagged": total(*untagged),
        "nothing": len(text_of(image(C))),
    } == scan(storage).blob_bytes


BROKEN: dict[str, tuple[str, bytes]] = {
    "truncated": ("corrupt", text_of(image(A))[:-10]),
    "empty": ("corrupt", b""),
    "not JSON": ("corrupt", b"\xff\xfe<html>"),
    "not an object": ("corrupt", b"[1, 2]"),
    "deep": ("corrupt", b"[" * 90_000),
    "NaN": ("corrupt", text_of(image(A)).replace(b'"size": 10', b'"size": NaN')),
    "a size of many digits": (
        "corrupt",
        text_of(image(A)).replace(b'"size": 10', b'"size": ' + b"9" * 5000),
    ),
    "a negative size": ("corrupt", text_of(image(layers=[{**descriptor(A), "size": -1}]))),
    "a size that is true": (
        "corrupt",
        text_of(image(layers=[{**descriptor(A), "size": True}])),
    ),
    "no digest": ("corrupt", text_of(image(layers=[{"size": 1}]))),
    "a digest with a path": (
        "corrupt",
        text_of(image(layers=[{"size": 1, "digest": "sha256:../../x"}])),
    ),
    "a digest that is a number": (
        "corrupt",
        text_of(image(layers=[{"size": 1, "digest": 7}])),
    ),
    "layers that are a number": ("corrupt", text_of(image(layers=7))),
    "a layer that is a string": ("corrupt", text_of(image(layers=["a"]))),
    "no config": ("corrupt", b'{"schemaVersion": 2, "layers": []}'),
    "a listed media type": (
        "corrupt",
        text_of(index(manifests=[{**descriptor(A), "mediaType": []}])),
    ),
    "an unknown kind": (
        "unsupported",
        text_of(image(A, mediaType="application/vnd.example.v9+json")),
    ),
    "a listed kind": ("unsupported", text_of(image(A, mediaType=["x"]))),
    "schema 3": ("unsupported", b'{"schemaVersion": 3}'),
    "an empty object": ("unsupported", b"{}"),
    "too many values": ("unsupported", b"[" + b"{}," * 100_000 + b"{}]"),
    "too large": ("unsupported", b" " * (4 * 2**20 + 1)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_unusable_manifest(storage: HandMade, what: str) -> None:
    """An unusable manifest has no size, is counted by reason and affects no other tag."""
    reason, text = BROKEN[what]
    storage.push_image("fine", B)
    digest = storage.blob(text)
    storage.link("app", digest)
    storage.tag("app", "latest", digest)
    contents = scan(storage)

    assert (None, None) == tag(contents)[2:]
    assert [("app", "latest", reason)] == defects(contents)
    assert digest in contents.unusable[0].defect.detail
    assert (1, len(B)) == repository(contents, "fine").tags[0][2:]
    assert len(text) + total(B, CONFIG, text_of(image(B))) == contents.blob_bytes["tag"]


def test_a_manifest_of_100_mib(storage: HandMade) -> None:
    """A manifest of 100 MiB is unsupported."""
    digest = storage.push_image("app", A)
    os.truncate(storage.data(digest), 100 * 2**20)
    contents = scan(storage)

    assert [("app", "latest", "unsupported")] == defects(contents)
    assert 100 * 2**20 <= contents.blob_bytes["tag"]


def test_a_manifest_with_another_digest(storage: HandMade) -> None:
    """A manifest that does not match its digest is corrupt, even if it is valid."""
    digest = storage.push_image("app", A)
    storage.data(digest).write_bytes(text_of(image(B)))

    assert [("app", "latest", "corrupt")] == defects(scan(storage))


def remove(what: Callable[[HandMade], str]) -> Callable[[HandMade], object]:
    """Return a function that removes this blob."""
    return lambda storage: storage.data(what(storage)).unlink()


DAMAGE: dict[str, Callable[[HandMade], object]] = {
    "layer": remove(lambda _: digest_of(A)),
    "config": remove(lambda _: digest_of(CONFIG)),
    "manifest": remove(lambda _: digest_of(text_of(image(A)))),
    "revision": lambda storage: storage.unlink("app", digest_of(text_of(image(A)))),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_part_that_is_gone(storage: HandMade, what: str) -> None:
    """A tag with a missing part is unusable; its size is known if its manifest exists."""
    storage.push_image("app", A)
    DAMAGE[what](storage)
    contents = scan(storage)

    assert [("app", "latest", "missing")] == defects(contents)
    assert (len(A) if what in ("layer", "config") else None) == tag(contents).size
    assert 0 == repository(contents).size


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
    reason = "unsupported" if what == "long" else "corrupt"

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
    assert [("mine", 1, 1), ("moved", 0, 0)] == found
    assert total(B, CONFIG, text_of(image(B))) == sum(contents.blob_bytes.values())


def test_a_link_may_end_with_a_newline(storage: HandMade) -> None:
    """A link may end with a newline, as an editor writes it."""
    digest = storage.push_image("app", A)
    storage.tag_link("app", "latest").write_text(f"{digest}\n")

    assert (1, len(A)) == tag(scan(storage))[2:]


@pytest.mark.parametrize("missing", ["", "repositories", "blobs"])
def test_no_storage(storage: HandMade, missing: str) -> None:
    """Without the folders of a storage, the error says what was expected."""
    folder = storage.path / missing
    folder.rename(storage.path.parent / "elsewhere")

    with pytest.raises(
        StorageError, match=r"no folders repositories and blobs in .*/v2"
    ) as caught:
        scan(storage)
    assert "the path ends in docker/registry/v2" in caught.value.advice


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


def test_a_push_during_a_scan(tmp_path: Path) -> None:
    """At any moment of a scan, a push makes nothing unusable, and the next scan has the push."""
    for moment in MOMENTS:
        push_during_a_scan(HandMade(tmp_path / f"{moment}/v2"), moment)


def push_during_a_scan(storage: HandMade, moment: int) -> None:
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


def test_a_delete_and_garbage_collection_during_a_scan(tmp_path: Path) -> None:
    """At any moment of a scan, deleting makes nothing unusable, and the next scan has what is left."""
    for moment in MOMENTS:
        delete_during_a_scan(HandMade(tmp_path / f"{moment}/v2"), moment)


def delete_during_a_scan(storage: HandMade, moment: int) -> None:
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


def test_damage_between_scans(storage: HandMade) -> None:
    """A later scan notices that a layer was deleted, and that it is back."""
    storage.push_image("app", A)
    scanned = Storage(str(storage.path))
    before = scanned.scan()
    folder = storage.data(digest_of(A)).parent
    kept = folder.rename(storage.path / "kept")
    broken = scanned.scan()
    kept.rename(folder)

    assert [()] == [before.unusable]
    assert [("app", "latest", "missing")] == defects(broken)
    assert before == scanned.scan()


def test_a_manifest_is_read_once(storage: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later scan opens only the manifests and links that are new."""
    monkeypatch.setattr(files, "_NANOSECONDS_TO_SETTLE", -(10**12))
    storage.push_image("app", A)
    storage.push_image("app", B, tag="2")
    scanned = Storage(str(storage.path))
    opened: list[str] = []
    real = os.open

    def counted(path: str, *rest: Any) -> int:
        opened.append(Path(path).name)
        return real(path, *rest)

    monkeypatch.setattr(os, "open", counted)
    counts = [
        (scanned.scan(), opened.count("data"), opened.count("link"))[1:] for _ in range(2)
    ]
    storage.push_image("app", C, tag="3")
    scanned.scan()

    assert [(2, 2), (2, 2)] == counts
    assert (3, 3) == (opened.count("data"), opened.count("link"))


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
    monkeypatch.setattr(files, "is_settled", lambda _: True)
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
    known = [*scanned._blobs._manifests]
    storage.unlink("app", digest)
    storage.tag_link("app", "latest").unlink()
    shutil.rmtree(storage.data(digest).parent)
    scanned.scan()

    assert [digest] == known
    assert [] == [*scanned._blobs._manifests]


def test_denied_files_and_folders(storage: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read is denied and affects nothing else.

    The test simulates this, because root can read everything.
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

    def deny(method: str, *paths: str) -> None:
        real = getattr(os, method)

        def guarded(path: str, *rest: Any) -> Any:
            if path.endswith(paths):
                raise PermissionError(13, "Permission denied", path)
            return real(path, *rest)

        monkeypatch.setattr(os, method, guarded)

    deny("open", *denied)
    deny("lstat", str(storage.tag_link("tag", "latest").parent))
    contents = scan(storage)

    assert {
        ("app", "latest", "denied"),
        ("link", "latest", "denied"),
        ("tag", "latest", "denied"),
        ("folder", "", "denied"),
        ("uploads", "", "denied"),
    } == {*defects(contents)}
    assert ["app", "fine", "link", "tag"] == [each.name for each in contents.repositories]
    assert (1, len(B)) == repository(contents, "fine").tags[0][2:]


@pytest.mark.parametrize("folder", ["repositories", "blobs", "blobs/sha256"])
def test_a_denied_storage(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """If a top folder can't be read, the scan fails instead of returning a part."""
    storage.push_image("app", A)
    real = os.open

    def guarded(path: str, *rest: Any) -> int:
        if path == str(storage.path / folder):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest)

    monkeypatch.setattr(os, "open", guarded)

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
