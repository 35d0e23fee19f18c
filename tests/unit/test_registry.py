"""The registry scanner: its publications, its log, and a storage that is missing or hangs."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter import registry
from docker_prom_exporter.exposition import Exposition, Publication
from docker_prom_exporter.registry import Scanner
from support.expositions import Scrape, parse
from support.storages import HandMade, digest_of
from support.waiting import wait_for

A, B = b"a" * 10, b"b" * 200


class Scanned:
    """A scanner of a storage, and its exposition, whose clock is `ahead` seconds ahead."""

    def __init__(self, path: Path, interval: float = 60) -> None:
        """Make an empty storage and a scanner that is not running."""
        self.storage = HandMade(path)
        self.ahead = 0.0
        self.stop = threading.Event()
        self.published = 0
        self.exposition = Exposition(clock=lambda: time.monotonic() + self.ahead)
        self.scanner = Scanner(str(path), interval, self._publish, self.stop)
        self.thread = threading.Thread(target=self.scanner.run, name="scanner", daemon=True)

    def scrape(self) -> Scrape:
        """Return what is served."""
        return parse(b"".join(self.exposition.render().body).decode())

    def unlabelled(self) -> dict[str, float]:
        """Return the values of the samples without labels."""
        return {
            name: value
            for (name, labels), value in self.scrape().samples.items()
            if not labels
        }

    def await_up(self, value: float) -> None:
        """Wait until `docker_registry_up` has this value."""
        wait_for(
            lambda: self.unlabelled().get("docker_registry_up") == value,
            what=f"docker_registry_up to be {value}",
        )

    def end(self) -> None:
        """Stop the scanner's thread, and wait for its end."""
        self.stop.set()
        self.thread.join(10)

    def _publish(self, publication: Publication) -> None:
        self.exposition.publish(publication)
        self.published += 1


@pytest.fixture
def scanned(tmp_path: Path) -> Iterator[Scanned]:
    """Yield a scanner, and stop it after the test."""
    scanned = Scanned(tmp_path / "v2")
    yield scanned
    scanned.stop.set()


def test_what_is_served(scanned: Scanned) -> None:
    """A scan serves all families, those with inherited names included."""
    scanned.storage.push_image("team/app", A, B, A, tag="1.0")
    scanned.storage.upload("team/app", A)
    os.utime(scanned.storage.tag_link("team/app", "1.0"), (1, 1.7e9))
    up = scanned.scanner.scan()
    scrape = scanned.scrape()
    of_repository, of_tag = (
        {"repository": "team/app"},
        {"repository": "team/app", "tag": "1.0"},
    )
    size = sum(file.stat().st_size for file in scanned.storage.path.glob("blobs/*/*/*/data"))

    assert up
    assert 1 == scrape.value("repository_tags_total", **of_repository)
    assert 1 == scrape.value("repository_revisions_total", **of_repository)
    assert 2 == scrape.value("repository_tag_layers_total", **of_tag)
    assert 210 == scrape.value("repository_tag_size_bytes", **of_tag)
    assert 1.7e9 == scrape.value("repository_tag_pushed_timestamp_seconds", **of_tag)
    assert size == scrape.value("repository_size_bytes", **of_repository)
    blob_bytes = {"tag": size, "untagged": 0, "nothing": 0}
    assert blob_bytes == scrape.by("referenced_by", "docker_registry_blob_bytes")
    reasons = ("missing", "partial", "corrupt", "unsupported", "denied", "link")
    assert dict.fromkeys(reasons, 0) == scrape.by("reason", "docker_registry_scan_errors")
    assert 10 == scrape.value("docker_registry_upload_bytes")
    assert 1 == scrape.value("docker_registry_up")
    assert 0 == scrape.value("docker_registry_is_cache")
    assert 1.7e9 < (scrape.value("docker_registry_last_scan_timestamp_seconds") or 0)
    assert 0 < (scrape.value("docker_registry_scan_duration_seconds") or 0)
    assert 1 == scrape.value("docker_exporter_build_info")


def test_a_tag_with_a_corrupt_manifest(scanned: Scanned) -> None:
    """A tag with a corrupt manifest has only the time of its link."""
    digest = scanned.storage.push_image("app", A)
    scanned.storage.data(digest).write_bytes(b"{")
    scanned.scanner.scan()
    scrape = scanned.scrape()

    assert scrape.value("repository_tag_size_bytes", tag="latest") is None
    assert scrape.value("repository_tag_layers_total", tag="latest") is None
    assert scrape.value("repository_tag_pushed_timestamp_seconds", tag="latest") is not None
    assert 1 == scrape.value("docker_registry_scan_errors", reason="corrupt")
    assert 1 == scrape.value("docker_registry_up")


def test_before_the_first_scan_has_ended(scanned: Scanned) -> None:
    """Before the first scan has ended, `docker_registry_up` is missing."""
    scanned.exposition.publish(scanned.scanner.publication())

    assert "docker_registry_up" not in scanned.unlabelled()
    assert 0 == scanned.unlabelled()["docker_registry_last_scan_timestamp_seconds"]
    assert not scanned.scanner.first_scan_ended.is_set()


def test_a_scan_that_is_too_old(scanned: Scanned) -> None:
    """After three intervals without a scan, `docker_registry_up` is 0 and repositories are missing."""
    scanned.storage.push_image("app", A)
    scanned.scanner.scan()
    scanned.ahead = 179
    recent = scanned.scrape()
    scanned.ahead = 181
    old = scanned.scrape()

    assert 1 == recent.value("docker_registry_up")
    assert 0 == old.value("docker_registry_up")
    assert recent.value("repository_tags_total") is not None
    assert old.value("repository_tags_total") is None
    assert old.value("docker_registry_last_scan_timestamp_seconds") is not None


def test_a_storage_that_is_gone_and_comes_back(scanned: Scanned) -> None:
    """The loss and the return of a storage are logged once; in between, repositories are missing."""
    scanned.storage.push_image("app", A)
    path, away = scanned.storage.path, scanned.storage.path.with_name("away")
    with capture_logs() as log:
        ups = [scanned.scanner.scan(), scanned.scanner.scan()]
        path.rename(away)
        ups += [scanned.scanner.scan(), scanned.scanner.scan()]
        gone = scanned.scrape()
        away.rename(path)
        ups += [scanned.scanner.scan()]

    assert [True, True, False, False, True] == ups
    assert ["registry.found", "registry.lost", "registry.found"] == [
        line["event"] for line in log
    ]
    cause = f"no folders repositories and blobs in {path}, which does not exist"
    assert cause == log[1]["cause"]
    assert 0 == gone.value("docker_registry_up")
    assert gone.value("repository_tags_total") is None
    assert gone.value("docker_registry_upload_bytes") is None
    assert 1 == scanned.unlabelled()["docker_registry_up"]


def test_an_unusable_tag_is_logged_once(scanned: Scanned) -> None:
    """An unusable tag is logged once, not in every scan."""
    digest = scanned.storage.push_image("app", A)
    kept = scanned.storage.data(digest).read_bytes()
    scanned.storage.data(digest).write_bytes(b"{}")
    with capture_logs() as log:
        scanned.scanner.scan()
        scanned.scanner.scan()
        scanned.storage.data(digest).write_bytes(kept[:-1])
        scanned.scanner.scan()

    unusable = [line for line in log if line["event"] == "registry.unusable"]
    expected = {
        "repository": "app",
        "tag": "latest",
        "detail": f"{scanned.storage.data(digest)} has a content of another digest",
    }
    assert ["corrupt"] == [line["reason"] for line in unusable]
    assert expected.items() <= unusable[0].items()


def test_an_untagged_manifest_is_logged(scanned: Scanned) -> None:
    """An unusable manifest without a tag is logged with its digest."""
    digest = scanned.storage.push_image("app", A, tag="")
    scanned.storage.data(digest).write_bytes(b"{")
    with capture_logs() as log:
        scanned.scanner.scan()

    assert {"manifest": digest, "reason": "corrupt"}.items() <= log[0].items()
    assert "tag" not in log[0]


def test_very_many_unusable_tags(scanned: Scanned) -> None:
    """Of each reason, a scan logs at most 100 lines and one with the number of the rest."""
    digest = scanned.storage.push_image("app", A)
    for number in range(250):
        scanned.storage.tag("app", f"{number}", digest)
    scanned.storage.tag("app", "other", "rubbish")
    scanned.storage.data(digest_of(A)).unlink()
    with capture_logs() as log:
        scanned.scanner.scan()
        scanned.scanner.scan()
    unusable = [line["reason"] for line in log if line["event"] == "registry.unusable"]
    more = [line for line in log if line["event"] == "registry.more_unusable"]

    assert {"missing": 100, "corrupt": 1} == Counter(unusable)
    assert [("missing", 151)] == [(line["reason"], line["count"]) for line in more]


def test_what_looks_like_a_cache(scanned: Scanned) -> None:
    """One line says that a storage may be a cache's, if most tags lack parts."""
    scanned.storage.push_image("app", A)
    scanned.storage.data(digest_of(A)).unlink()
    with capture_logs() as log:
        scanned.scanner.scan()
        scanned.scanner.scan()

    hints = [line for line in log if line["event"] == "registry.may_be_cache"]
    assert ["scheduler-state.json" in line["hint"] for line in hints] == [True]


def test_blobs_without_manifests(scanned: Scanned) -> None:
    """One warning says that nobody can know what holds the blobs."""
    scanned.storage.blob(A)
    with capture_logs() as log:
        scanned.scanner.scan()
        scanned.scanner.scan()

    assert 1 == [line["event"] for line in log].count("registry.no_manifests")
    assert (
        scanned.scrape().value("docker_registry_blob_bytes", referenced_by="nothing") is None
    )


def test_an_internal_error(scanned: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    """An internal error is logged with its traceback, and the next scan is made."""
    scans = iter([ZeroDivisionError(), None])
    real = scanned.scanner._storage.scan

    def scan() -> Any:
        if error := next(scans):
            raise error
        return real()

    monkeypatch.setattr(scanned.scanner._storage, "scan", scan)
    with capture_logs() as log:
        ups = [scanned.scanner.scan(), scanned.scanner.scan()]

    assert [False, True] == ups
    assert ["registry.lost", "registry.found"] == [line["event"] for line in log]
    assert isinstance(log[0]["exc_info"], ZeroDivisionError)


def test_progress_is_logged(scanned: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long scan logs its progress every ten seconds."""
    scanned.storage.push_image("app", A)
    steps = iter(range(0, 10**6, 6))
    monkeypatch.setattr(registry, "time", Clock(lambda: float(next(steps))))
    with capture_logs() as log:
        scanned.scanner.scan()
    progress = [line for line in log if line["event"] == "registry.scanning"]

    assert 3 < len(progress)
    assert all(
        later["seconds"] - earlier["seconds"] >= 10 for earlier, later in pairwise(progress)
    )
    assert {"blobs", "manifests_read"} <= progress[-1].keys()


class Clock:
    """Replaces the module `time`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Use this function for both clocks."""
        self.monotonic = monotonic
        self.time = monotonic


def test_only_changed_families_are_renewed(scanned: Scanned) -> None:
    """After a scan, unchanged families are the same objects and changed ones are new."""
    scanned.storage.push_image("app", A)
    scanned.scanner.scan()
    first = scanned.exposition.current_families()
    scanned.scanner.scan()
    second = scanned.exposition.current_families()
    scanned.storage.push_image("app", A, tag="")
    os.utime(scanned.storage.tag_link("app", "latest"), (1, 1))
    scanned.scanner.scan()
    third = scanned.exposition.current_families()
    changed = [new.name for old, new in zip(second, third, strict=True) if old is not new]

    assert [*map(id, first)] == [*map(id, second)]
    assert ["repository_tag_pushed_timestamp_seconds"] == changed


def test_the_loop_scans_until_it_is_stopped(tmp_path: Path) -> None:
    """The scanner scans once per interval until it is stopped."""
    scanned = Scanned(tmp_path / "v2", interval=0.01)
    scanned.storage.push_image("app", A)
    scanned.thread.start()
    wait_for(lambda: scanned.published > 3, what="three scans")
    scanned.storage.push_image("app", B, tag="new")
    wait_for(lambda: scanned.scrape().value("repository_tags_total") == 2, what="the new tag")
    running = scanned.thread.is_alive(), scanned.scanner.first_scan_ended.is_set()
    scanned.end()

    assert (True, True) == running
    assert not scanned.thread.is_alive()


class Hanging:
    """A file system that hangs while `hangs` is set, until `released` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace `os.lstat`."""
        self.hangs = threading.Event()
        self.released = threading.Event()
        self.hanging = threading.Event()
        self._lstat = os.lstat
        monkeypatch.setattr(os, "lstat", self)

    def __call__(self, *path: Any, **options: Any) -> os.stat_result:
        """Hang in the scanner's thread, or do what `os.lstat` does."""
        if self.hangs.is_set() and threading.current_thread().name == "scanner":
            self.hanging.set()
            self.released.wait(60)
        return self._lstat(*path, **options)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """Yield a file system that can hang, and release it after the test."""
    hanging = Hanging(monkeypatch)
    yield hanging
    hanging.released.set()


def test_a_file_system_that_hangs(tmp_path: Path, hanging: Hanging) -> None:
    """While the file system hangs, scrapes are answered; three intervals later the storage is down."""
    scanned = Scanned(tmp_path / "v2", interval=0.01)
    scanned.storage.push_image("app", A)
    scanned.thread.start()
    wait_for(scanned.scanner.first_scan_ended.is_set, what="the first scan")
    hanging.hangs.set()
    assert hanging.hanging.wait(10)
    scanned.await_up(0)
    down = scanned.scrape(), scanned.thread.is_alive()
    hanging.hangs.clear()
    hanging.released.set()
    scanned.await_up(1)
    scanned.end()

    assert down[0].value("repository_tags_total") is None
    assert down[1]


def test_a_file_system_that_hangs_from_the_start(tmp_path: Path, hanging: Hanging) -> None:
    """If the first scan hangs, the storage is down after three intervals."""
    scanned = Scanned(tmp_path / "v2", interval=0.01)
    hanging.hangs.set()
    scanned.thread.start()
    scanned.await_up(0)
    state = scanned.thread.is_alive(), scanned.scanner.first_scan_ended.is_set()
    hanging.released.set()
    scanned.end()

    assert (True, False) == state


def test_a_long_first_scan(scanned: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a first scan that makes progress, the storage is never down, however long the scan takes."""
    scanned.storage.push_image("app", A)
    now = [0.0]
    monkeypatch.setattr(registry, "time", Clock(lambda: now[0]))
    scanned.exposition._clock = lambda: now[0]
    seen: list[float | None] = []
    real = scanned.scanner._checkpoint

    def slow() -> None:
        now[0] += 100
        seen.append(scanned.unlabelled().get("docker_registry_up"))
        real()

    monkeypatch.setattr(scanned.scanner._storage._files, "_checkpoint", slow)
    scanned.exposition.publish(scanned.scanner.publication())
    scanned.scanner.scan()

    assert 10 < len(seen)
    assert {None} == {*seen}
    assert 1 == scanned.unlabelled()["docker_registry_up"]


def test_a_stop_ends_a_scan(scanned: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop ends a scan at the next file or folder, and nothing is published afterwards."""
    scanned.storage.push_image("app", A)
    looked: list[int] = []
    real = scanned.scanner._checkpoint

    def look() -> None:
        looked.append(scanned.published)
        if len(looked) == 3:
            scanned.stop.set()
        real()

    monkeypatch.setattr(scanned.scanner._storage._files, "_checkpoint", look)
    up = scanned.scanner.scan()

    assert not up
    assert 3 == len(looked)
    assert looked[-1] == scanned.published
    assert not scanned.scanner.first_scan_ended.is_set()


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    """A path to a file is not a storage."""
    (tmp_path / "file").write_text("x")
    exposition = Exposition()
    with capture_logs() as log:
        Scanner(str(tmp_path / "file"), 60, exposition.publish, threading.Event()).scan()

    assert [f"no folders repositories and blobs in {tmp_path}/file"] == [
        line["cause"] for line in log
    ]
    assert 0 == parse(b"".join(exposition.render().body).decode()).value("docker_registry_up")
