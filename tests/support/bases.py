"""Images in tests: bases made of Debian's Python, an index of the locked wheels, and what an image holds."""

import functools
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from support.processes import Command
from support.real import EngineUnavailableError, cache, toolbox

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"

_PYTHON = cache() / "python"
_PIP_OPTIONS = ("--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
_PURE = ("--platform=any", "--implementation=py", "--abi=none", "--python-version=3.13")


def locked(lock: Path = LOCK) -> dict[str, str]:
    """Return the version of each package in a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))


def normalized(name: str) -> str:
    """Return a package's name as the lock and an index spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@contextmanager
def package_index() -> Iterator[str]:
    """Yield the address of an index on this machine that has all that is locked, and pip.

    It is filled by this machine's pip, with whatever configuration that needs; the builds need none.
    """
    with TemporaryDirectory() as folder:
        wheels = Path(folder, "wheels")
        _pip_download(wheels, "--require-hashes", f"--requirement={LOCK}", *_PURE)
        _pip_download(wheels, "pip")
        for wheel in wheels.iterdir():
            package = Path(folder, "simple", normalized(wheel.name.partition("-")[0]))
            package.mkdir(parents=True)
            wheel.rename(package / wheel.name)
        with _serving(folder) as address:
            yield f"{address}/simple"


def _pip_download(target: Path, *what: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", *_PIP_OPTIONS, f"--dest={target}"]
    done = subprocess.run([*pip, *what], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineUnavailableError(f"pip can't download what the image needs: {done.stderr.strip()}")


class _Folder(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def _serving(folder: str) -> Iterator[str]:
    handler = functools.partial(_Folder, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def python_base(pip: bytes | None = None) -> bytes:
    """Return a tar archive of a root file system with Python 3.13 and, given pip's wheel, a shell and pip.

    It has the folder `/opt`, as every base has, and like official images no wish to keep pip out.
    Raises EngineUnavailableError where Debian's packages are not there.
    """
    if not (_PYTHON / "usr").exists():
        raise EngineUnavailableError(
            f"no Python for images: tests/run, as root on Debian, unpacks it in {_PYTHON}"
        )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(_PYTHON / "usr", "usr", filter=_welcoming)
        for name, target in (("lib", "usr/lib"), ("lib64", "usr/lib64"), ("usr/bin/python3", "python3.13")):
            _add(tar, name, kind=tarfile.SYMTYPE, target=target)
        _add(tar, "opt", kind=tarfile.DIRTYPE)
        if pip:
            _add_tools(tar, pip)
    return archive.getvalue()


def bare_base() -> bytes:
    """Return a tar archive of a root file system that has no program."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, "opt", kind=tarfile.DIRTYPE)
    return archive.getvalue()


def _welcoming(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith("/EXTERNALLY-MANAGED") else member


def _add_tools(tar: tarfile.TarFile, pip: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(toolbox())) as tools:
        for member in tools:
            tar.addfile(member, tools.extractfile(member) if member.isfile() else None)
    with zipfile.ZipFile(io.BytesIO(pip)) as wheel:
        for name in wheel.namelist():
            _add(tar, f"usr/lib/python3/dist-packages/{name}", content=wheel.read(name))


def _add(
    tar: tarfile.TarFile, name: str, *, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, len(content)
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    tar.addfile(member, io.BytesIO(content))


@dataclass(frozen=True)
class File:
    """One entry of a layer."""

    info: tarfile.TarInfo
    content: bytes


@dataclass(frozen=True)
class Image:
    """What an engine exports of an image: its configuration, and the one layer on top of its base."""

    config: Mapping[str, Any]
    layers: Sequence[str]
    size: int
    files: Mapping[str, File]

    @classmethod
    def read(cls, archive: bytes) -> "Image":
        """Read what `docker save` writes."""
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            manifest = json.loads(_content(tar, "manifest.json"))[0]
            config = json.loads(_content(tar, manifest["Config"]))
            layer = _content(tar, manifest["Layers"][-1])
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            files = {info.name: File(info, _content(tar, info.name)) for info in tar}
        return cls(config, config["rootfs"]["diff_ids"], len(layer), files)

    @property
    def platform(self) -> str:
        """Return the platform as `docker build --platform` takes it."""
        return "/".join(self.config[key] for key in ("os", "architecture", "variant") if self.config.get(key))

    def packages(self) -> dict[str, str]:
        """Return the version of each Python package in the layer."""
        found = (re.search(r"/([^/]+)-([^/-]+)\.dist-info/METADATA$", name) for name in self.files)
        return {normalized(match[1]): match[2] for match in found if match}


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name) if tar.getmember(name).isfile() else None
    return file.read() if file else b""


def first_difference(one: Image, other: Image) -> str:
    """Say what differs first, in words a person can act on; nothing where nothing does."""
    if one.layers[:-1] != other.layers[:-1]:
        return "the bases differ"
    for name in sorted({*one.files, *other.files}):
        if what := _difference(one.files.get(name), other.files.get(name)):
            return f"/{name}: {what}"
    for key in sorted({*one.config, *other.config} - {"rootfs"}):
        if one.config.get(key) != other.config.get(key):
            return f"{key} in the configuration: {one.config.get(key)!r} and {other.config.get(key)!r}"
    return "the order of the files in the layer" if one.layers != other.layers else ""


def _difference(one: File | None, other: File | None) -> str:
    if one is None or other is None:
        return "is only in one"
    for what in ("type", "mode", "uid", "gid", "uname", "gname", "mtime", "linkname"):
        a, b = getattr(one.info, what), getattr(other.info, what)
        if a != b:
            return f"its {what} is {a!r} and {b!r}"
    pairs = enumerate(zip(one.content, other.content, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(one.content), len(other.content)))
    return "" if one.content == other.content else f"its bytes differ from number {at} on"


def checkout(folder: Path) -> None:
    """Put there all that git does not ignore, as a repository with one commit of a fixed date."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    who = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": "1700000000 +0000" for role in ("AUTHOR", "COMMITTER")}
    git = Command(["git", "-C", str(folder)], {"PATH": "/usr/bin:/bin", **who, **when})
    git.run("init", "--quiet")
    git.run("add", "--all")
    git.run("commit", "--quiet", "--message=All there is")
