"""Base images made of Debian's Python, an index of the locked wheels, and the content of built images."""

import functools
import io
import json
import os
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
from urllib.request import urlopen

from support.archives import add
from support.processes import Command, completed, output_of
from support.real import DOCKER_26, Engine, EngineUnavailableError, cache, toolbox

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"

EPOCH = 1700000000
"""The creation time of images and the commit time of a `checkout`, in seconds since 1970."""

BUILDAH = r"""
buildah() {
    local options=() storage=(--root "$STORE/root" --runroot "$STORE/run" --storage-driver vfs)
    if [[ $1 == build ]]; then
        options=(--isolation chroot --network host --build-arg PIP_INDEX_URL="$INDEX"
            --ulimit nofile=1024:1024 --ulimit nproc=1024:1024)
    fi
    command buildah "${storage[@]}" "$1" "${options[@]}" "${@:2}"
}
"""
"""A Bash function: buildah that keeps images in the folder STORE and builds with the package index INDEX.

It raises no limit, which even root may not where CAP_SYS_RESOURCE is missing.
"""

_PYTHONS = {"3.13": cache() / "python", "3.14": cache() / "python-3.14"}
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
    """Yield the address of a local package index that has every locked package, and pip.

    This machine's pip fills the index, with this machine's configuration. The builds need no configuration.
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
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        *_PIP_OPTIONS,
        f"--dest={target}",
    ]
    done = completed([*pip, *what])
    if done.returncode:
        raise EngineUnavailableError(
            f"pip can't download what the image needs: {done.stderr.strip()}"
        )


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


def python_base(
    pip: bytes | None = None, *, version: str = "3.13", prefix: str = "usr/local"
) -> bytes:
    """Return a tar archive of a root file system with Python and, given pip's wheel, a shell and pip.

    Like every base, it has the folder `/opt`. Python is below `prefix`: `usr/local` as in official images,
    `opt/python` as in Docker's hardened ones, or `usr` as in distributions. With a shell the last one has the
    file EXTERNALLY-MANAGED, and `packaging` without the list of files that pip needs to uninstall it.
    Raises EngineUnavailableError if Debian's packages are missing.
    """
    distribution = pip is not None and prefix == "usr"
    python = _PYTHONS[version]
    if not (python / "usr").exists():
        raise EngineUnavailableError(
            f"no Python for images: tests/run, as root on Debian, unpacks it in {python}"
        )

    def move(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not distribution and member.name.endswith("/EXTERNALLY-MANAGED"):
            return None
        member.name = re.sub(r"^usr/(bin|lib/python)", rf"{prefix}/\1", member.name)
        return member

    archive = io.BytesIO()
    packages = f"{prefix}/lib/python3/dist-packages"
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(python / "usr", "usr", filter=move)
        for name, target in (
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
            (f"{prefix}/bin/python3", f"python{version}"),
        ):
            add(tar, name, kind=tarfile.SYMTYPE, target=target)
        add(tar, "opt", kind=tarfile.DIRTYPE, mode=0o755)
        if pip:
            _add_tools(tar, pip, packages)
        if distribution:
            metadata = b"Metadata-Version: 2.1\nName: packaging\nVersion: 20.9\n"
            add(tar, f"{packages}/packaging-20.9.dist-info/METADATA", metadata)
    return archive.getvalue()


def bare_base() -> bytes:
    """Return a tar archive of a root file system without programs."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        add(tar, "opt", kind=tarfile.DIRTYPE, mode=0o755)
    return archive.getvalue()


def _add_tools(tar: tarfile.TarFile, pip: bytes, packages: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(toolbox())) as tools:
        for member in tools:
            tar.addfile(member, tools.extractfile(member) if member.isfile() else None)
    with zipfile.ZipFile(io.BytesIO(pip)) as wheel:
        for name in wheel.namelist():
            add(tar, f"{packages}/{name}", wheel.read(name))


@dataclass(frozen=True)
class File:
    """One entry of a layer."""

    info: tarfile.TarInfo
    content: bytes


@dataclass(frozen=True)
class Image:
    """An exported image: its configuration, and the one layer on top of its base."""

    config: Mapping[str, Any]
    layers: Sequence[str]
    size: int
    files: Mapping[str, File]

    @classmethod
    def read(cls, archive: bytes) -> "Image":
        """Read an archive written by `docker save`."""
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
        return "/".join(
            self.config[key]
            for key in ("os", "architecture", "variant")
            if self.config.get(key)
        )

    def packages(self) -> dict[str, str]:
        """Return the version of each Python package in the layer."""
        found = (
            re.search(r"/([^/]+)-([^/-]+)\.dist-info/METADATA$", name) for name in self.files
        )
        return {normalized(match[1]): match[2] for match in found if match}


@dataclass(frozen=True)
class Workshop:
    """An engine that has the base images, and the package index that its builds use."""

    engine: Engine
    index: str

    def build(self, tag: str, *arguments: str, folder: Path = ROOT, **options: Any) -> str:
        """Build the folder with BuildKit and return the image's id.

        `options` are those of `subprocess.run`.
        """
        return self.docker(
            *("build", "--quiet", "--network=host", "--provenance=false", f"--tag={tag}"),
            *(
                f"--build-arg=PIP_INDEX_URL={self.index}",
                f"--build-arg=SOURCE_DATE_EPOCH={EPOCH}",
            ),
            *(*arguments, str(folder)),
            **options,
        ).decode()

    def docker(self, *arguments: str, **options: Any) -> bytes:
        """Run the engine's client, which may take minutes, and return its output."""
        everything = {"env": self.environment(), "capture_output": True, **options}
        done = subprocess.run(["docker", *arguments], check=False, **everything)
        assert 0 == done.returncode, done.stderr.decode()
        output: bytes = done.stdout
        return output.strip()

    def image(self, tag: str) -> Image:
        """Return an exported image; it is saved by its id, since a name without a tag would save all tags."""
        return Image.read(
            self.docker("save", self.engine.cli("image", "inspect", "--format={{.Id}}", tag))
        )

    def inspect(self, tag: str, what: str) -> Any:
        """Return one field of the inspect of an image or a container."""
        return json.loads(self.engine.cli("inspect", "--format", f"{{{{json {what}}}}}", tag))

    def environment(self) -> dict[str, str]:
        """Return the environment in which `docker` is this engine's client."""
        config = f"{self.engine.sandbox.state}/client"
        return {
            "PATH": DOCKER_26.path,
            "DOCKER_HOST": self.engine.url,
            "DOCKER_CONFIG": config,
        }

    def wheel(self, name: str) -> bytes:
        """Return the one wheel of a package in the index."""
        with urlopen(f"{self.index}/{name}/") as page:
            found = re.search(r'href="([^"]+\.whl)"', page.read().decode())
        assert found
        with urlopen(f"{self.index}/{name}/{found[1]}") as wheel:
            content: bytes = wheel.read()
        return content


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name) if tar.getmember(name).isfile() else None
    return file.read() if file else b""


def first_difference(one: Image, other: Image) -> str:
    """Return a description of the first difference, or an empty string if there is none."""
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
    at = next(
        (at for at, (a, b) in pairs if a != b), min(len(one.content), len(other.content))
    )
    return "" if one.content == other.content else f"its bytes differ from number {at} on"


def checkout(folder: Path) -> None:
    """Copy all files that git does not ignore into a new repository with one commit of a fixed date."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, output_of(command, cwd=ROOT).split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    who = {
        f"GIT_{role}_{what}": "tests"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    when = {f"GIT_{role}_DATE": f"{EPOCH} +0000" for role in ("AUTHOR", "COMMITTER")}
    git = Command(["git", "-C", str(folder)], {"PATH": "/usr/bin:/bin", **who, **when})
    git.run("init", "--quiet")
    git.run("add", "--all")
    git.run("commit", "--quiet", "--message=All there is")


def strange_checkout(folder: Path) -> None:
    """Make a checkout with other times, modes and owners of files, and with files that no build may use."""
    checkout(folder)
    package = folder / "docker_prom_exporter"
    (folder / ".env").write_text("SECRET=1")
    (package / "cli.py~").write_text("an editor's")
    (package / "__pycache__").mkdir()
    (package / "__pycache__/cli.cpython-313.pyc").write_bytes(b"stale")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1, 1))
    if os.geteuid() == 0:
        for path in package.rglob("*"):
            os.chown(path, 65534, 65534)
