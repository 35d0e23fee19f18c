"""Tar archives that are made in memory."""

import io
import tarfile
from collections.abc import Mapping


def add(
    tar: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
    mode: int = 0o644,
    owner: int = 0,
) -> None:
    """Add a file, folder or link; `target` is that of a link."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, len(content)
    member.mode, member.uid, member.gid = mode, owner, owner
    tar.addfile(member, io.BytesIO(content))


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of these files."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    return written.getvalue()
