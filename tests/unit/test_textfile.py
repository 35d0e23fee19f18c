"""The text file: its content, when it is written, and the protection of other files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from docker_prom_exporter.exposition import Exposition, Publication
from docker_prom_exporter.outlets.errors import OutletError
from docker_prom_exporter.outlets.textfile import TextFile
from support.expositions import parse
from support.gateway import exposition, publish


def textfile(path: Path) -> TextFile:
    return TextFile(path, check_interval=15)


def test_the_file(tmp_path: Path) -> None:
    """The file is complete and readable by all, and no temporary file remains."""
    path = tmp_path / "docker.prom"
    umask = os.umask(0o077)
    try:
        textfile(path).deliver(exposition(web=4))
    finally:
        os.umask(umask)

    assert 4 == parse(path.read_text()).value("container_health", name="web")
    assert 0o644 == path.stat().st_mode & 0o777
    assert [path] == [*tmp_path.iterdir()]


def test_due_after_a_change(tmp_path: Path) -> None:
    """A write is due after a change of what was found, not of the exporter's own metrics."""
    file, held = textfile(tmp_path / "docker.prom"), exposition(web=4)
    at_first = file.is_due(held)
    file.deliver(held)
    written = file.is_due(held)
    held.publish(Publication(families=held.current_families(), own=[]))
    polled = file.is_due(held)
    publish(held, web=3)
    changed = file.is_due(held)

    assert [True, False, False, True] == [at_first, written, polled, changed]


def test_due_when_the_publication_is_too_old(tmp_path: Path) -> None:
    """A write is due when the publication is no longer trusted, which is checked once per poll interval."""
    now = 0.0
    held = Exposition(clock=lambda: now)
    held.publish(Publication(exposition(web=4).current_families(), trusted_until=20))
    file = textfile(tmp_path / "docker.prom")
    file.deliver(held)
    before = file.is_due(held)
    now = 21

    assert not before
    assert file.is_due(held)
    assert 15 == file.pause()


def test_due_each_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write is due each minute, so that the file's mtime shows whether the exporter still runs."""
    file, held = textfile(tmp_path / "docker.prom"), exposition(web=4)
    monkeypatch.setattr("docker_prom_exporter.outlets.textfile.time.monotonic", lambda: 1000.0)
    file.deliver(held)
    monkeypatch.setattr("docker_prom_exporter.outlets.textfile.time.monotonic", lambda: 1059.0)
    soon, pause = file.is_due(held), file.pause()
    monkeypatch.setattr("docker_prom_exporter.outlets.textfile.time.monotonic", lambda: 1060.0)

    assert (False, 1) == (soon, pause)
    assert file.is_due(held)


def test_a_failed_write_is_repeated(tmp_path: Path) -> None:
    """A failed write is repeated even if nothing has changed."""
    folder = tmp_path / "textfiles"
    folder.mkdir()
    file, held = textfile(folder / "docker.prom"), exposition(web=4)
    folder.rmdir()
    with pytest.raises(
        OutletError, match="No such file or directory: the file stays as it was"
    ):
        file.deliver(held)
    due, pause = file.is_due(held), file.pause()
    folder.mkdir()
    file.deliver(held)

    assert (True, 15) == (due, pause)
    assert (folder / "docker.prom").is_file()


@pytest.mark.parametrize(
    "make",
    [Path.symlink_to, Path.hardlink_to, lambda path, _: os.mkfifo(path)],
    ids=["symbolic link", "hard link", "FIFO"],
)
def test_nothing_at_the_temporary_name_is_opened(
    tmp_path: Path, make: Callable[[Path, Path], object]
) -> None:
    """What exists at the temporary name is replaced: no other file is written, and no FIFO blocks."""
    temporary, precious = tmp_path / ".docker.prom.tmp", tmp_path / "precious"
    precious.write_text("mine")
    make(temporary, precious)
    file = textfile(tmp_path / "docker.prom")
    make(temporary, precious)
    file.deliver(exposition(web=4))

    assert "mine" == precious.read_text()
    assert {"docker.prom", "precious"} == {path.name for path in tmp_path.iterdir()}


def test_a_folder_at_the_temporary_name(tmp_path: Path) -> None:
    """A folder at the temporary name is an error; the exporter removes no folders."""
    (tmp_path / ".docker.prom.tmp").mkdir()

    with pytest.raises(
        OutletError, match=r"can't write --textfile .*docker.prom: Is a directory"
    ):
        textfile(tmp_path / "docker.prom")


@pytest.mark.parametrize("path", ["/", ".", "..", "/tmp"])
def test_a_folder_in_place_of_the_file(path: str) -> None:
    """A folder in place of the file is an error, also one whose path has no name."""
    with pytest.raises(OutletError, match=r"can't write --textfile .*: it is a directory"):
        textfile(Path(path))


def test_the_file_is_removed_at_the_end(tmp_path: Path) -> None:
    """`withdraw` removes the file if it exists."""
    file = textfile(tmp_path / "docker.prom")
    file.withdraw()
    file.deliver(exposition())
    file.withdraw()

    assert [] == [*tmp_path.iterdir()]
