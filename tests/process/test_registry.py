"""The `registry` command as a process: its scans and its end."""

import signal
from pathlib import Path

from support.exporters import exporter
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
