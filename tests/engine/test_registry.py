"""Scans of a real registry's storage, compared with what the registry's garbage collection frees."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.registry import Scanner
from docker_prom_exporter.registry.storage import Contents, Repository, Storage, Unusable
from support.layouts import write_layout
from support.promtool import faults_of
from support.registries import VALIDATION, VERSIONS, Registry, registry
from support.registry_mutations import mutate
from support.registry_oracle import repository, tag
from support.storages import CONFIG, data, descriptor, digest_of, image, index, sizes, text_of
from support.waiting import wait_for

A, B, C, D = (
    letter * length
    for letter, length in ((b"a", 1000), (b"b", 2000), (b"c", 4000), (b"d", 8000))
)


class Subject:
    """A real registry and a scanner of its storage; the scanner keeps what it has read."""

    def __init__(self, running: Registry) -> None:
        """Make a scanner that has read nothing."""
        self.registry = running
        self._storage = Storage(str(running.storage))

    def scan(self) -> Contents:
        """Scan; the result must equal that of a new scanner, and its blob bytes the sum of those on disk."""
        found = self._storage.scan()
        assert Storage(str(self.registry.storage)).scan() == found
        assert sum(found.blob_bytes.values()) == self.bytes_on_disk()
        return found

    def collect_garbage(self, *options: str) -> tuple[Contents, Contents, int]:
        """Collect garbage; return the scans before and after it, and the bytes that it freed."""
        before, on_disk = self.scan(), self.bytes_on_disk()
        self.registry.collect_garbage(*options)
        return before, self.scan(), on_disk - self.bytes_on_disk()

    def bytes_on_disk(self) -> int:
        """Return the size of all blobs in bytes."""
        return sum(sizes(self.registry.storage).values())


@pytest.fixture(params=VERSIONS)
def subject(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Yield an empty running registry of each version, which accepts indexes with gaps."""
    with registry(tmp_path, request.param, validation=VALIDATION) as running:
        yield Subject(running)


@pytest.fixture
def distribution_2(tmp_path: Path) -> Iterator[Subject]:
    """Yield an empty running registry of distribution 2."""
    with registry(tmp_path, "2.8.2") as running:
        yield Subject(running)


def defects(contents: Contents) -> list[tuple[str, str]]:
    """Return the name and the reason of everything that is unusable."""
    return [(each.name, each.defect.reason) for each in contents.unusable]


def test_images_pushed_by_skopeo(subject: Subject, tmp_path: Path) -> None:
    """A scan reads images and an index pushed by skopeo, and counts layers that they share once."""
    write_layout(tmp_path / "one", [A, B])
    write_layout(tmp_path / "two", [A, C])
    manifests, blobs = write_layout(tmp_path / "many", [A, B], [A, D])
    for name, layout in (("app", "one"), ("team/other", "two")):
        subject.registry.copy(name, layout, tmp_path / layout)
    subject.registry.copy("app", "many", tmp_path / "many", "--all")
    contents = subject.scan()
    layers = {layer["digest"]: layer["size"] for each in manifests for layer in each["layers"]}

    assert ["app", "team/other"] == [each.name for each in contents.repositories]
    assert (3, sum(layers.values())) == tag(contents, "many")[2:]
    assert (2, 3) == (len(repository(contents).tags), repository(contents).revisions)
    assert sum(len(blob) for blob in {*blobs}) == repository(contents).size
    assert subject.bytes_on_disk() == contents.blob_bytes["tag"]
    assert () == contents.unusable


def test_an_upload(subject: Subject) -> None:
    """An unfinished upload counts as upload bytes and does not make a repository."""
    subject.registry.push("app", image(A), A, CONFIG, tag="latest")
    subject.registry.begin_upload("new", B)
    contents = subject.scan()

    assert len(B) == contents.upload_bytes
    assert ["app"] == [each.name for each in contents.repositories]


def test_a_delete(subject: Subject) -> None:
    """After a delete, garbage collection frees exactly the bytes of `nothing`, and the repository stays."""
    deleted = subject.registry.push("app", image(A, B), A, B, CONFIG, tag="latest")
    subject.registry.push("other", image(A), A, CONFIG, tag="latest")
    subject.registry.delete("app", deleted)
    before, after, freed = subject.collect_garbage()

    assert Repository("app", (), 0, 0) == repository(before)
    assert len(B) + len(text_of(image(A, B))) == before.blob_bytes["nothing"]
    assert freed == before.blob_bytes["nothing"]
    assert {**before.blob_bytes, "nothing": 0} == after.blob_bytes
    assert () == after.unusable


def test_a_deleted_child(subject: Subject) -> None:
    """An index with a deleted child is `partial`; garbage collection frees exactly the bytes of `nothing`."""
    subject.registry.push("app", image(A), A, CONFIG)
    child = subject.registry.push("app", image(B), B, CONFIG)
    subject.registry.push("app", index(image(A), image(B)), tag="latest")
    subject.registry.delete("app", child)
    before, after, freed = subject.collect_garbage()

    assert [("latest", "partial")] == defects(before)
    assert len(B) == before.blob_bytes["nothing"] == freed
    assert [("latest", "partial")] == defects(after)
    assert 0 == after.blob_bytes["nothing"]


def test_delete_untagged_without_indexes(subject: Subject) -> None:
    """Without indexes, `--delete-untagged` frees exactly the bytes of `nothing` and `untagged`."""
    subject.registry.push("app", image(A, B), A, B, CONFIG, tag="latest")
    subject.registry.push("app", image(A, C), A, C, CONFIG, tag="latest")
    deleted = subject.registry.push("app", image(D), D, CONFIG)
    subject.registry.delete("app", deleted)
    before, after, freed = subject.collect_garbage("--delete-untagged")

    assert len(B) + len(text_of(image(A, B))) == before.blob_bytes["untagged"]
    assert len(D) + len(text_of(image(D))) == before.blob_bytes["nothing"]
    assert freed == before.blob_bytes["untagged"] + before.blob_bytes["nothing"]
    assert {"tag": before.blob_bytes["tag"], "untagged": 0, "nothing": 0} == after.blob_bytes
    assert () == after.unusable


def test_delete_untagged_breaks_a_tagged_index(distribution_2: Subject) -> None:
    """Distribution 2's `--delete-untagged` removes a tagged index's children; the index is then `missing`."""
    subject = distribution_2
    subject.registry.push("app", image(A), A, CONFIG)
    subject.registry.push("app", index(image(A)), tag="latest")
    before, after, _ = subject.collect_garbage("--delete-untagged")

    assert () == before.unusable
    assert {"untagged": 0, "nothing": 0}.items() <= before.blob_bytes.items()
    assert [("latest", "missing")] == defects(after)
    assert digest_of(text_of(image(A)))[7:] in after.unusable[0].defect.detail
    assert (None, None) == tag(after)[2:]


def test_delete_untagged_of_distribution_3_while_something_is_missing(tmp_path: Path) -> None:
    """Distribution 3's `--delete-untagged` deletes layers of an index that another repository lacks in part."""
    with registry(tmp_path, "3.1.2") as running:
        subject = Subject(running)
        for name in ("dev/app", "prod/app"):
            running.push(name, image(A), A, CONFIG)
            running.push(name, index(image(A)), tag="latest")
        running.delete("dev/app", digest_of(text_of(image(A))))
        before = subject.scan()
        running.collect_garbage("--delete-untagged")
        after = subject.scan()
        running.stop()  # it caches what exists
        running.start()
        pulled = running.blob("prod/app", digest_of(A))

    assert [("dev/app", "missing")] == [
        (e.repository, e.defect.reason) for e in before.unusable
    ]
    assert 0 == before.blob_bytes["untagged"]
    assert {"dev/app", "prod/app"} == {each.repository for each in after.unusable}
    assert pulled is None


def link(subject: Subject, folder: str, digest: str) -> Path:
    """Return a link of the repository `app`."""
    return subject.registry.storage.joinpath(
        "repositories/app", folder, digest.replace(":", "/"), "link"
    )


LINKS = {"empty": "", "zeros": "\0" * 71, "cut": digest_of(A)[:40]}


@pytest.mark.parametrize("what", LINKS)
@pytest.mark.parametrize("tagged", [True, False])
def test_a_corrupt_revision_link(subject: Subject, what: str, tagged: bool) -> None:  # noqa: FBT001
    """A corrupt revision link is reported, and garbage collection fails until it is removed."""
    name = "latest" if tagged else ""
    digest = subject.registry.push("app", image(A), A, CONFIG, tag=name)
    path = link(subject, "_manifests/revisions", digest)
    path.write_text(LINKS[what])
    contents = subject.scan()
    collects = subject.registry.collects_garbage()
    path.unlink()

    assert [(name or digest, "corrupt")] == defects(contents)
    assert str(path) in contents.unusable[0].defect.detail
    assert not collects
    assert subject.registry.collects_garbage()


@pytest.mark.parametrize("what", LINKS)
def test_a_corrupt_layer_link(subject: Subject, what: str) -> None:
    """With a corrupt layer link a tag can't be pulled, and distribution 3 collects no garbage."""
    subject.registry.push("app", image(A), A, CONFIG, tag="latest")
    path = link(subject, "_layers", digest_of(A))
    path.write_text(LINKS[what])
    contents = subject.scan()
    pulled, collects = (
        subject.registry.blob("app", digest_of(A)),
        subject.registry.collects_garbage(),
    )
    path.unlink()
    subject.registry.push("app", image(A), A, CONFIG, tag="latest")

    assert [("latest", "corrupt")] == defects(contents)
    assert pulled is None
    assert collects == subject.registry.version.startswith("2.")
    assert A == subject.registry.blob("app", digest_of(A))
    assert () == subject.scan().unusable


def test_the_way_to_repair_a_manifest(subject: Subject) -> None:
    """A damaged manifest stays when it is pushed again, unless its blob's folder was removed."""
    digest = subject.registry.push("app", image(A), A, CONFIG, tag="latest")
    path = data(subject.registry.storage, digest)
    path.write_bytes(b"{")
    damaged, collects = (
        Storage(str(subject.registry.storage)).scan(),
        subject.registry.collects_garbage(),
    )
    subject.registry.push("app", image(A), A, CONFIG, tag="latest")
    still = Storage(str(subject.registry.storage)).scan()
    shutil.rmtree(path.parent)
    subject.registry.push("app", image(A), A, CONFIG, tag="latest")

    assert [("latest", "corrupt")] == defects(damaged) == defects(still)
    assert str(path.parent) in damaged.unusable[0].defect.detail
    assert not collects
    assert () == subject.scan().unusable
    assert subject.registry.collects_garbage()


def test_a_layer_named_by_sha512(subject: Subject) -> None:
    """A layer named by sha512 is found through its link; garbage collection deletes it."""
    name = f"sha512:{hashlib.sha512(A).hexdigest()}"
    subject.registry.push_blob("app", A, name)
    manifest = image(layers=[{**descriptor(A), "digest": name}])
    subject.registry.push("app", manifest, CONFIG, tag="latest")
    before, pulled = subject.scan(), subject.registry.blob("app", name)
    subject.registry.collect_garbage(check=False)

    assert A == pulled
    assert () == before.unusable
    assert (1, len(A)) == tag(before)[2:]
    assert len(A) == before.blob_bytes["nothing"]
    assert not data(subject.registry.storage, digest_of(A)).exists()


def test_a_pull_through_cache(subject: Subject, tmp_path: Path) -> None:
    """What a pull-through cache lacks is no error."""
    subject.registry.push("app", image(A), A, CONFIG)
    subject.registry.push("app", image(B), B, CONFIG)
    subject.registry.push("app", index(image(A), image(B)), tag="latest")
    subject.registry.push("app", image(C), C, CONFIG, tag="alone")
    address, version = subject.registry.address, subject.registry.version
    with registry(tmp_path / "cache", version, upstream=address) as cache:
        for reference in ("latest", digest_of(text_of(image(A))), "alone"):
            assert cache.manifest("app", reference)
        assert A == cache.blob("app", digest_of(A))
        scheduled = cache.storage.parents[2] / "scheduler-state.json"
        wait_for(scheduled.exists, what="the cache to write its state", seconds=60)
        wait_for(
            lambda: (
                {"latest", "alone"}
                == {each.name for each in repository(Storage(str(cache.storage)).scan()).tags}
            ),
            what="the cache to keep the tags",
        )
        contents = Storage(str(cache.storage)).scan()

    assert contents.is_cache
    assert () == contents.unusable
    assert not subject.scan().is_cache


def test_a_tag_that_moves(subject: Subject) -> None:
    """When a tag moves, its old manifest becomes untagged; a repeated push updates the tag's time."""
    subject.registry.push("app", image(A), A, CONFIG, tag="latest")
    first = tag(subject.scan())
    subject.registry.push("app", image(B), B, CONFIG, tag="latest")
    moved = subject.scan()
    subject.registry.push("app", image(B), tag="latest")
    again = subject.scan()

    assert (1, len(B)) == tag(moved)[2:]
    assert len(A) + len(text_of(image(A))) == moved.blob_bytes["untagged"]
    assert (first.pushed or 0) < (tag(moved).pushed or 0) < (tag(again).pushed or 0)


def test_pushes_and_deletes_during_scans(subject: Subject) -> None:
    """Scans during pushes and deletes find nothing unusable; the last one equals that of a new scanner."""
    subject.registry.push("stays", image(A), A, CONFIG, tag="latest")
    ended = threading.Event()

    def push() -> None:
        for number in range(30):
            layer = b"%d" % number * 100
            pushed = subject.registry.push(
                "app", image(A, layer), A, layer, CONFIG, tag=f"{number % 7}"
            )
            if number % 3 == 0:
                subject.registry.delete("app", pushed)
        ended.set()

    pushing = threading.Thread(target=push)
    pushing.start()
    storage = Storage(str(subject.registry.storage))
    unusable: list[Unusable] = []
    while not ended.is_set():
        unusable += storage.scan().unusable
    pushing.join()

    assert [] == unusable
    assert Storage(str(subject.registry.storage)).scan() == storage.scan() == subject.scan()


def test_promtool_finds_no_fault_but_inherited_names(subject: Subject) -> None:
    """`promtool check metrics` objects only to the names inherited from docker-registry-exporter."""
    subject.registry.push("app", image(A), A, CONFIG, tag="latest")
    exposition = Exposition()
    Scanner(str(subject.registry.storage), 60, exposition.publish, threading.Event()).scan()
    faults = faults_of(exposition.render().body)

    assert {
        "repository_tags_total",
        "repository_revisions_total",
        "repository_tag_layers_total",
    } == {fault.split()[0] for fault in faults}


def test_random_mutations(tmp_path: Path) -> None:
    """After each of 30 random changes and damages, every metric is what an oracle finds."""
    assert 30 == mutate(tmp_path, "3.1.2", seed=1, steps=30)
