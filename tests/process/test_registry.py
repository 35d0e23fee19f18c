"""The `registry` command as a process: its scans, its end, and its messages about PATH."""

import signal
from pathlib import Path

from support.exporters import exporter, run
from support.storages import HandMade
from support.waiting import wait_for


def test_a_storage_is_served(tmp_path: Path) -> None:
    """`registry` scans repeatedly, serves the exposition on `/`, and ends within a second."""
    storage = HandMade(tmp_path / "v2")
    storage.push_image("app", b"a" * 10)
    with exporter("registry", str(storage.path), "--scan-interval=1") as running:
        wait_for(lambda: running.metrics().value("docker_registry_up") == 1, what="a scan")
        storage.push_image("app", b"b" * 20, tag="new")
        wait_for(
            lambda: running.metrics().value("repository_tags_total") == 2, what="the new tag"
        )
        root, ready = running.get("/"), running.get("/-/ready")[0]
        code, seconds = running.stop(signal.SIGTERM)

    assert "repository_tag_size_bytes" in root[1]
    assert 200 == ready
    assert 0 == code
    assert seconds < 1


def test_a_path_is_needed() -> None:
    """Without PATH, `registry` exits with 2 and prints one line that names PATH."""
    done = run("registry")

    assert 2 == done.returncode
    assert "PATH" in done.stderr
    assert 1 == done.stderr.count("\n")


def test_an_empty_path() -> None:
    """An empty PATH, such as an unset variable in Compose, exits with 2 and one line."""
    done = run("registry", "")

    assert 2 == done.returncode
    assert "PATH" in done.stderr
    assert 1 == done.stderr.count("\n")


def test_a_storage_before_its_first_push(tmp_path: Path) -> None:
    """An empty storage is up, and scanned once the first push has made it."""
    path = tmp_path / "docker/registry/v2"
    with exporter("registry", str(path), "--scan-interval=1") as running:
        wait_for(lambda: running.metrics().value("docker_registry_up") == 1, what="a scan")
        before = running.metrics().value("repository_tags_total")
        HandMade(path).push_image("app", b"a")
        wait_for(
            lambda: running.metrics().value("repository_tags_total") == 1, what="another scan"
        )

    assert before is None


def test_a_path_that_is_no_storage(tmp_path: Path) -> None:
    """`registry` logs which folders PATH lacks."""
    (tmp_path / "other").mkdir()
    with exporter("registry", str(tmp_path), "--scan-interval=1") as running:
        wait_for(lambda: running.metrics().value("docker_registry_up") == 0, what="a scan")
        log = running.stderr

    assert "event=registry.lost" in log
    assert "no folders repositories and blobs in" in log
