"""The image for several platforms: a reproducible index, the base of each platform, a push to a registry."""

import json
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from docker_prom_exporter import __version__
from support.bases import (
    BUILDAH,
    EPOCH,
    Workshop,
    bare_base,
    checkout,
    package_index,
    python_base,
    strange_checkout,
)
from support.documents import blocks
from support.machine import REPOSITORY
from support.missing import give_up, require_program
from support.ports import free_port
from support.processes import Command, Daemon, Sandbox
from support.real import DOCKER_26, Docker, EngineUnavailableError
from support.waiting import wait_for

PLATFORMS = ["linux/amd64", "linux/arm64", "linux/arm/v7"]

# The section's blocks in order: the commands for both tools, for buildx, for buildah, and the push.
COMMIT, BUILDX, BUILDAH_INDEX, PUSH = (
    block.text for block in blocks(REPOSITORY / "compose/README.md", "bash")
)
BUILDERS = {"buildx": BUILDX, "buildah": BUILDAH_INDEX}

# The document's reader has a registry with TLS and a route to the package index; this machine has neither.
PRELUDE = r"""
set -euo pipefail
docker() { command docker "$@" --network host --build-arg PIP_INDEX_URL="$INDEX"; }
skopeo() { command skopeo "$1" --dest-tls-verify=false "${@:2}"; }
"""
MIRROR = """
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "{}"
insecure = true
"""


@dataclass(frozen=True)
class MirroredDocker(Docker):
    """A Docker with the containerd image store, which multi-platform builds need, and a registry mirror."""

    mirror: str = ""

    def daemon(self, sandbox: Sandbox, listen: Path) -> Command:
        """Write dockerd's settings and return its command."""
        command = super().daemon(sandbox, listen)
        settings = {
            "features": {"containerd-snapshotter": True},
            "registry-mirrors": [f"http://{self.mirror}"],
        }
        (sandbox.state / "daemon.json").write_text(json.dumps(settings))
        return command


@dataclass(frozen=True)
class Press:
    """A workshop with a registry: builds pull their bases from it, and the image is pushed to it."""

    workshop: Workshop
    registry: str

    @property
    def image(self) -> str:
        """Return the repository to which the image is pushed."""
        return f"{self.registry}/docker-prom-exporter"

    def publish(self, builder: str, folder: Path, umask: int) -> "Layout":
        """Run the document's commands in a checkout, with an empty build cache."""
        self.workshop.engine.cli("builder", "prune", "--all", "--force")
        with TemporaryDirectory() as storage:
            mirror = Path(storage, "registries.conf")
            mirror.write_text(MIRROR.format(self.registry))
            env = {
                **self.workshop.environment(),
                "CONTAINERS_REGISTRIES_CONF": str(mirror),
                "IMAGE": self.image,
                "HOME": storage,
                "INDEX": self.workshop.index,
                "STORE": storage,
            }
            script = BUILDAH + PRELUDE + COMMIT + BUILDERS[builder] + PUSH
            options: dict[str, Any] = {"cwd": folder, "env": env, "umask": umask}
            done = subprocess.run(
                ["bash", "-xc", script], capture_output=True, text=True, check=False, **options
            )
        assert 0 == done.returncode, done.stdout + done.stderr
        return Layout(folder / "index")


@dataclass(frozen=True)
class Layout:
    """An OCI image layout in a folder, with one index."""

    folder: Path

    @property
    def digest(self) -> str:
        """Return the digest of the index."""
        (index,) = json.loads((self.folder / "index.json").read_text())["manifests"]
        digest: str = index["digest"]
        return digest

    def blob(self, digest: str) -> Path:
        """Return the path of a blob."""
        return self.folder / "blobs" / digest.replace(":", "/")

    def json(self, digest: str) -> Any:
        """Return the parsed content of a JSON blob."""
        return json.loads(self.blob(digest).read_bytes())

    def manifests(self) -> list[Any]:
        """Return the manifest of each platform, in the order of the index."""
        return [self.json(each["digest"]) for each in self.json(self.digest)["manifests"]]

    def times(self) -> set[str | float]:
        """Return every time in the configurations and in the layers on top of the bases."""
        times: set[str | float] = set()
        for manifest in self.manifests():
            config = self.json(manifest["config"]["digest"])
            times |= {config["created"], *(each["created"] for each in config["history"][1:])}
            with tarfile.open(self.blob(manifest["layers"][-1]["digest"])) as layer:
                times |= {member.mtime for member in layer}
        return times


@pytest.fixture(scope="module")
def press(pool: Any) -> Iterator[Press]:
    """Yield a workshop whose registry has the Dockerfile's default base for all platforms."""
    for program in ("buildah", "skopeo"):
        require_program(program)
    with registry() as address:
        for engine in pool.lend(MirroredDocker(**vars(DOCKER_26), mirror=address)):
            try:
                with package_index() as index:
                    workshop = Workshop(engine, index)
                    push_bases(workshop, f"{address}/library/python")
                    yield Press(workshop, address)
            except EngineUnavailableError as error:
                give_up(str(error))


@contextmanager
def registry() -> Iterator[str]:
    """Yield the host and port of an empty registry."""
    program = require_program("docker-registry")
    address = f"127.0.0.1:{free_port()}"
    with TemporaryDirectory() as folder:
        settings = {"version": "0.1", "http": {"addr": address}}
        settings["storage"] = {"filesystem": {"rootdirectory": f"{folder}/storage"}}
        (Path(folder) / "config.yml").write_text(json.dumps(settings))
        daemon = Daemon(Path(folder, "log"))
        daemon.start(Command([program, "serve", f"{folder}/config.yml"], {}))
        try:
            wait_for(lambda: accepts(address), what="the registry to listen")
            yield address
        finally:
            daemon.terminate()


def accepts(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as connection:
        return connection.connect_ex((host, int(port))) == 0


def push_bases(workshop: Workshop, repository: str) -> None:
    """Push a base with Python for one platform, and bases without any program for the others."""
    cli = workshop.engine.cli
    names = [f"{repository}:{platform.replace('/', '-')}" for platform in PLATFORMS]
    bases = [python_base(workshop.wheel("pip")), bare_base(), bare_base()]
    for platform, name, base in zip(PLATFORMS, names, bases, strict=True):
        cli("import", f"--platform={platform}", "-", name, stdin=base)
        cli("push", name)
    cli("manifest", "create", "--insecure", f"{repository}:3.13-alpine", *names)
    cli("manifest", "push", "--insecure", f"{repository}:3.13-alpine")


@pytest.fixture(scope="module", params=[*BUILDERS])
def published(press: Press, request: pytest.FixtureRequest) -> Iterator[tuple[Layout, Layout]]:
    """Publish twice: the second time from another folder, with another umask and other file times."""
    with TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second/elsewhere")
        checkout(first)
        strange_checkout(second)
        yield (
            press.publish(request.param, first, 0o022),
            press.publish(request.param, second, 0o077),
        )


def test_is_the_same_each_time(published: tuple[Layout, Layout]) -> None:
    """Both builds have the same index digest, which covers everything in the index."""
    first, second = published

    assert first.digest == second.digest


def test_has_no_build_time(published: tuple[Layout, Layout]) -> None:
    """No time in the images is the time of the build, so a build on another day gives the same."""
    assert published[0].times() <= {0, EPOCH, "2023-11-14T22:13:20Z"}


def test_has_each_platforms_base(published: tuple[Layout, Layout]) -> None:
    """Each image has its own platform's base, not the builder's, and the same exporter layer on top."""
    layers = [
        [layer["digest"] for layer in manifest["layers"]]
        for manifest in published[0].manifests()
    ]
    (amd64, ours), (arm64, *same), (armv7, *other) = layers

    assert [ours] == same == other
    assert amd64 != arm64 == armv7


def test_comes_back_from_a_registry(press: Press, published: tuple[Layout, Layout]) -> None:
    """The registry returns the index by its digest, and an engine runs the image for its own platform."""
    layout = published[0]
    name = f"{press.image}@{layout.digest}"
    skopeo = Command(["skopeo", "inspect", "--raw", "--tls-verify=false"], dict(os.environ))
    index = json.loads(skopeo.run(f"docker://{name}"))
    platforms = [
        "/".join(
            each["platform"].get(key, "") for key in ("os", "architecture", "variant")
        ).rstrip("/")
        for each in index["manifests"]
    ]

    assert layout.json(layout.digest) == index
    assert "application/vnd.oci.image.index.v1+json" == index["mediaType"]
    assert PLATFORMS == platforms
    assert f"docker-prom-exporter {__version__}" == press.workshop.engine.cli(
        "run", "--rm", "--network=none", name, "--version"
    )
