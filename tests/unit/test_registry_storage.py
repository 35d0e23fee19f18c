"""What a scan finds in storages written by hand: of every kind of manifest, and with every kind of damage."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter.registry import files
from docker_prom_exporter.registry.manifests import MAX_BYTES
from docker_prom_exporter.registry.storage import Contents, Repository, Storage, StorageError, Tag
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
    """Make an empty storage."""
    return HandMade(tmp_path / "v2")


def scan(storage: HandMade) -> Contents:
    """Scan for the first time."""
    return Storage(str(storage.path)).scan()


def repository(contents: Contents, name: str = "app") -> Repository:
    """Return the repository of that name."""
    return next(each for each in contents.repositories if each.name == name)


def tag(contents: Contents, name: str = "latest") -> Tag:
    """Return the tag of that name, of whatever repository."""
    return next(tag for each in contents.repositories for tag in each.tags if tag.name == name)


def defects(contents: Contents) -> list[tuple[str, str, str]]:
    """Return what is unusable, and why."""
    return [(each.repository, each.name, each.defect.reason) for each in contents.unusable]


def total(*contents: bytes) -> int:
    """Return the bytes of different blobs."""
    return sum(map(len, {*contents}))


def test_an_image(storage: HandMade) -> None:
    """A tag has the layers and the size its manifest says, and the time of its link."""
    storage.push_image("app", A, B)
    os.utime(storage.tag_link("app", "latest"), (1, 1.5))
    contents = scan(storage)

    assert (Tag("latest", 1.5, 2, 210),) == repository(contents).tags
    assert 1 == repository(contents).revisions
    assert total(A, B, CONFIG, text_of(image(A, B))) == repository(contents).size
    assert {"tag": repository(contents).size, "untagged": 0, "nothing": 0} == contents.blob_bytes
    assert () == contents.unusable


def test_a_layer_that_is_named_twice_counts_once(storage: HandMade) -> None:
    """In an image as well as in a repository, and among those of all."""
    storage.push_image("app", A, A, B, tag="1")
    storage.push_image("app", A, C, tag="2")
    storage.push_image("other/app", A, B, tag="3")
    contents = scan(storage)

    assert (2, 210) == tag(contents, "1")[2:]
    manifests = (text_of(image(A, A, B)), text_of(image(A, C)), text_of(image(A, B)))
    assert total(A, B, C, CONFIG, *manifests[:2]) == repository(contents).size
    assert total(A, B, C, CONFIG, *manifests) == contents.blob_bytes["tag"]


def test_repositories_are_in_repositories(storage: HandMade) -> None:
    """Names have slashes, one repository may be below another, and names that can't be are none."""
    for name in ("a", "a/b", "a/b/c-d__e.f", "A", "a/_b", f"{'x' * 200}/{'y' * 55}"):
        storage.push_image(name, A)
    (storage.path / "repositories" / os.fsdecode(b"\xff")).mkdir()
    contents = scan(storage)

    assert ["a", "a/b", "a/b/c-d__e.f"] == [each.name for each in contents.repositories]


def test_an_emptied_repository_stays(storage: HandMade) -> None:
    """After a delete by digest the folders stay, without links."""
    digest = storage.push_image("app", A)
    storage.tag_link("app", "latest").unlink()
    storage.unlink("app", digest)
    contents = scan(storage)

    assert Repository("app", (), 0, 0) == repository(contents)
    assert {"tag": 0, "untagged": 0, "nothing": total(A, CONFIG, text_of(image(A)))} == contents.blob_bytes


def test_uploads(storage: HandMade) -> None:
    """What is being uploaded counts, also where no repository is made by it yet."""
    storage.push_image("app", A)
    storage.upload("app", B)
    storage.upload("new", C)
    contents = scan(storage)

    assert len(B + C) == contents.upload_bytes
    assert ["app"] == [each.name for each in contents.repositories]


def test_an_index_has_the_layers_of_its_images(storage: HandMade) -> None:
    """Each different one once, an attestation's too, and those of an index in it."""
    attestation = image(C, annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"})
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
    assert {"tag": repository(contents).size, "untagged": 0, "nothing": 0} == contents.blob_bytes


def test_docker_lists_and_kinds_without_media_type(storage: HandMade) -> None:
    """Docker's own kinds count alike, and OCI's kinds need not name themselves."""
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
    """Of an index whose platforms are not all there nobody knows the size, and it can't be pulled whole."""
    storage.blobs(A, CONFIG)
    storage.push("app", image(A))
    storage.push("app", index(image(A), image(B)), "latest")
    contents = scan(storage)

    assert (None, None) == tag(contents)[2:]
    assert [("app", "latest", "missing")] == defects(contents)
    assert 0 == repository(contents).size
    assert sum(storages.sizes(storage.path).values()) == contents.blob_bytes["tag"]


def test_a_deleted_child(storage: HandMade) -> None:
    """Its index still holds the child's manifest, and nothing holds what only the child names."""
    storage.blobs(A, B, CONFIG)
    storage.push("app", image(A))
    child = storage.push("app", image(B))
    storage.push("app", index(image(A), image(B)), "latest")
    storage.unlink("app", child)
    contents = scan(storage)

    assert [("app", "latest", "missing")] == defects(contents)
    assert len(B) == contents.blob_bytes["nothing"]


def test_a_build_cache(storage: HandMade) -> None:
    """BuildKit's cache is an index that names layers itself, and a config."""
    config = b'{"layers":[]}'
    entries = [descriptor(A), descriptor(B), descriptor(config, "application/vnd.buildkit.cacheconfig.v0")]
    storage.blobs(A, B, config)
    storage.push("app", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, "cache")
    contents = scan(storage)

    assert (2, len(A + B)) == tag(contents, "cache")[2:]
    assert sum(storages.sizes(storage.path).values()) == repository(contents).size
    assert () == contents.unusable


def test_schema_1(storage: HandMade) -> None:
    """It names layers, most of them twice, without a size: the blobs' own counts, or nobody knows it."""
    layers = [{"blobSum": digest_of(layer)} for layer in (A, B, A)]
    manifest = {"schemaVersion": 1, "name": "app", "tag": "latest", "fsLayers": layers, "history": []}
    storage.blobs(A, B)
    storage.push("app", manifest, "whole")
    storage.push("app", {**manifest, "fsLayers": [*layers, {"blobSum": digest_of(C)}]}, "broken")
    contents = scan(storage)

    assert (2, len(A + B)) == tag(contents, "whole")[2:]
    assert (3, None) == tag(contents, "broken")[2:]
    assert [("app", "broken", "missing")] == defects(contents)


@pytest.mark.parametrize("here", [True, False])
def test_a_foreign_layer(storage: HandMade, here: bool) -> None:  # noqa: FBT001  it's the parameter
    """It may be elsewhere: its size counts for the tag, and for the blobs only where it is here."""
    foreign = descriptor(C, f"{DOCKER}.foreign", urls=["https://example.com/layer"])
    storage.blobs(A, CONFIG, *[C] * here)
    storage.push("app", image(A, layers=[descriptor(A), foreign]), "latest")
    contents = scan(storage)

    assert (2, len(A + C)) == tag(contents)[2:]
    assert sum(storages.sizes(storage.path).values()) == repository(contents).size
    assert () == contents.unusable


def test_a_foreign_layer_that_arrives(storage: HandMade) -> None:
    """A later scan counts it."""
    foreign = descriptor(C, f"{DOCKER}.foreign", urls=["https://example.com/layer"])
    storage.blobs(A, CONFIG)
    storage.push("app", image(A, layers=[descriptor(A), foreign]), "latest")
    scanned = Storage(str(storage.path))
    before = repository(scanned.scan()).size
    storage.blob(C)

    assert before + len(C) == repository(scanned.scan()).size


def test_artifacts(storage: HandMade) -> None:
    """An artifact's blobs count as its layers; a signature is a tag like others; a subject holds nobody."""
    storage.push_image("app", A)
    subject = descriptor(text_of(image(A)), OCI_MANIFEST)
    storage.blobs(B, C)
    storage.push("app", {"mediaType": OCI_ARTIFACT, "blobs": [descriptor(B)], "subject": subject}, "sbom")
    storage.push("app", image(B, artifactType="example/sig"), f"sha256-{'0' * 64}.sig")
    untagged = image(C, subject=subject, artifactType="example/sbom")
    storage.push("app", untagged)
    contents = scan(storage)

    assert (1, len(B)) == tag(contents, "sbom")[2:]
    assert (1, len(B)) == tag(contents, f"sha256-{'0' * 64}.sig")[2:]
    assert total(C, text_of(untagged)) == contents.blob_bytes["untagged"]
    assert () == contents.unusable


def test_tag_beats_untagged_beats_nothing(storage: HandMade) -> None:
    """Over all repositories."""
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
    "no object": ("corrupt", b"[1, 2]"),
    "deep": ("corrupt", b"[" * 90_000),
    "NaN": ("corrupt", text_of(image(A)).replace(b'"size": 10', b'"size": NaN')),
    "a size of many digits": ("corrupt", text_of(image(A)).replace(b'"size": 10', b'"size": ' + b"9" * 5000)),
    "a negative size": ("corrupt", text_of(image(layers=[{**descriptor(A), "size": -1}]))),
    "a size that is true": ("corrupt", text_of(image(layers=[{**descriptor(A), "size": True}]))),
    "no digest": ("corrupt", text_of(image(layers=[{"size": 1}]))),
    "a digest that leads out": ("corrupt", text_of(image(layers=[{"size": 1, "digest": "sha256:../../x"}]))),
    "a digest that is none": ("corrupt", text_of(image(layers=[{"size": 1, "digest": 7}]))),
    "layers that are none": ("corrupt", text_of(image(layers=7))),
    "a layer that is none": ("corrupt", text_of(image(layers=["a"]))),
    "no config": ("corrupt", b'{"schemaVersion": 2, "layers": []}'),
    "a media type that is none": ("corrupt", text_of(index(manifests=[{**descriptor(A), "mediaType": []}]))),
    "an unknown kind": ("unsupported", text_of(image(A, mediaType="application/vnd.example.v9+json"))),
    "a kind that is none": ("unsupported", text_of(image(A, mediaType=["x"]))),
    "schema 3": ("unsupported", b'{"schemaVersion": 3}'),
    "nothing": ("unsupported", b"{}"),
    "too many values": ("unsupported", b"[" + b"{}," * 100_000 + b"{}]"),
    "too large": ("unsupported", b" " * (MAX_BYTES + 1)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_manifest_that_cant_be_used(storage: HandMade, what: str) -> None:
    """It has no size, is counted by its reason, and spoils nothing else."""
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
    """It is not read."""
    digest = storage.push_image("app", A)
    os.truncate(storage.data(digest), 100 * 2**20)
    contents = scan(storage)

    assert [("app", "latest", "unsupported")] == defects(contents)
    assert 100 * 2**20 <= contents.blob_bytes["tag"]


def test_a_manifest_that_says_something_else(storage: HandMade) -> None:
    """What is not what its digest says is corrupt, also where it is a manifest."""
    digest = storage.push_image("app", A)
    storage.data(digest).write_bytes(text_of(image(B)))

    assert [("app", "latest", "corrupt")] == defects(scan(storage))


def remove(what: Callable[[HandMade], str]) -> Callable[[HandMade], object]:
    """Return what removes that blob."""
    return lambda storage: storage.data(what(storage)).unlink()


DAMAGE: dict[str, Callable[[HandMade], object]] = {
    "layer": remove(lambda _: digest_of(A)),
    "config": remove(lambda _: digest_of(CONFIG)),
    "manifest": remove(lambda _: digest_of(text_of(image(A)))),
    "revision": lambda storage: storage.unlink("app", digest_of(text_of(image(A)))),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_part_that_is_gone(storage: HandMade, what: str) -> None:
    """The tag can't be pulled; its size stays known where its manifest is there."""
    storage.push_image("app", A)
    DAMAGE[what](storage)
    contents = scan(storage)

    assert [("app", "latest", "missing")] == defects(contents)
    assert (len(A) if what in ("layer", "config") else None) == tag(contents).size
    assert 0 == repository(contents).size


def test_an_untagged_manifest_that_cant_be_used(storage: HandMade) -> None:
    """It is counted by itself; what a tag leads to is counted as that tag, however many manifests it is."""
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
def test_a_link_that_cant_be_used(storage: HandMade, tmp_path: Path, what: str) -> None:
    """The tag is counted, and corrupt; a link to elsewhere is not followed, a FIFO not waited for."""
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


def test_folders_elsewhere_are_not_followed(storage: HandMade, tmp_path: Path) -> None:
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
    """As written by hand."""
    digest = storage.push_image("app", A)
    storage.tag_link("app", "latest").write_text(f"{digest}\n")

    assert (1, len(A)) == tag(scan(storage))[2:]


@pytest.mark.parametrize("lacking", ["", "repositories", "blobs"])
def test_no_storage(storage: HandMade, lacking: str) -> None:
    """What was expected is said."""
    folder = storage.path / lacking
    folder.rename(storage.path.parent / "elsewhere")

    with pytest.raises(StorageError, match=r"no folders repositories and blobs in .*/v2") as caught:
        scan(storage)
    assert "the path ends in docker/registry/v2" in caught.value.advice


@pytest.mark.parametrize("above", ["docker/registry/v2", "registry/v2", "v2"])
def test_a_path_above_the_storage(tmp_path: Path, above: str) -> None:
    """The right path is named."""
    HandMade(tmp_path / above)

    with pytest.raises(StorageError) as caught:
        Storage(str(tmp_path)).scan()
    assert f"the storage is {tmp_path}/{above}" == caught.value.advice


def test_a_storage_that_is_replaced_during_a_scan(storage: HandMade) -> None:
    """What is found then is of neither."""
    storage.push_image("app", A)
    moved = storage.path.parent / "moved"

    def replace() -> None:
        if not moved.exists():
            storage.path.rename(moved)
            HandMade(storage.path)

    with pytest.raises(StorageError, match="replaced"):
        Storage(str(storage.path), replace).scan()


class Changing:
    """A storage that is changed at the n-th file or folder that a scan looks at."""

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
    """At whatever moment, it makes nothing unusable, and the next scan has it."""
    for moment in MOMENTS:
        push_during_a_scan(HandMade(tmp_path / f"{moment}/v2"), moment)


def push_during_a_scan(storage: HandMade, moment: int) -> None:
    storage.push_image("app", A)
    changing = Changing(storage, moment, lambda: storage.push_image("app", B, config=b"{}", tag="new"))
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
    """At whatever moment, they make nothing unusable, and the next scan has only what is left."""
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
    assert {"tag": total(B, CONFIG, text_of(image(B))), "untagged": 0, "nothing": 0} == after.blob_bytes


def test_what_breaks_is_found(storage: HandMade) -> None:
    """A later scan tells of a layer that a garbage collection removed, and that it is back."""
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
    """A later scan opens no manifest and no link that it knows, and reads what is new."""
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
    counts = [(scanned.scan(), opened.count("data"), opened.count("link"))[1:] for _ in range(2)]
    storage.push_image("app", C, tag="3")
    scanned.scan()

    assert [(2, 2), (2, 2)] == counts
    assert (3, 3) == (opened.count("data"), opened.count("link"))


def test_a_change_right_after_a_scan_is_seen(storage: HandMade) -> None:
    """Even within one tick of the file system's clock, which leaves no trace in its times."""
    storage.push_image("app", A)
    scanned = Storage(str(storage.path))
    scanned.scan()
    times = storage.tag_link("app", "latest").stat()
    storage.push_image("app", B, tag="")
    storage.tag("app", "latest", digest_of(text_of(image(B))))
    os.utime(storage.tag_link("app", "latest"), ns=(times.st_atime_ns, times.st_mtime_ns))

    assert (1, len(B)) == tag(scanned.scan())[2:]


def test_a_blob_that_was_being_written(storage: HandMade) -> None:
    """Its size is asked for again."""
    digest = storage.push_image("app", A)
    storage.data(digest_of(A)).write_bytes(A[:1])
    whole = storage.data(digest).read_bytes()
    scanned = Storage(str(storage.path))
    scanned.scan()
    storage.data(digest_of(A)).write_bytes(A)

    assert total(A, CONFIG, whole) == repository(scanned.scan()).size


def test_a_blob_whose_folder_comes_first(storage: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found when it is there, though the folder of its prefix stays as it was."""
    monkeypatch.setattr(files, "is_settled", lambda _: True)
    storage.data(digest_of(A)).parent.mkdir(parents=True)
    scanned = Storage(str(storage.path))
    before = scanned.scan()
    storage.blob(A)

    assert 0 == before.blob_bytes["nothing"]
    assert len(A) == scanned.scan().blob_bytes["nothing"]


def test_what_is_gone_is_forgotten(storage: HandMade) -> None:
    """What is kept of one scan for the next is not more than there is."""
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


def test_what_may_not_be_read_is_denied(storage: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest, a tag or a repository; nothing else is spoilt. Simulated, as root may read all."""
    digest = storage.push_image("app", A)
    for name, layer in (("fine", B), ("folder", C), ("link", B), ("tag", B)):
        storage.push_image(name, layer)
    storage.upload("uploads", A)
    link = storage.tag_link("link", "latest")
    denied = (str(storage.data(digest)), str(link), "/folder/_manifests/tags", "/uploads/_uploads")

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
def test_a_storage_that_may_not_be_read(
    storage: HandMade, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Where not all can be seen, nothing is made up."""
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
    """A chain of them is followed to its end."""
    document = image(A)
    storage.blobs(A, CONFIG)
    for _ in range(1100):  # deeper than Python recurses
        storage.push("app", document)
        document = index(document)
    storage.push("app", document, "latest")
    contents = scan(storage)

    assert (1, len(A)) == tag(contents)[2:]
    assert () == contents.unusable
