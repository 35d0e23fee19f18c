"""The image for several platforms: a reproducible index, the base of each platform, a push to a registry."""

import json
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from docker_prom_exporter import __version__
from support.bases import (
    EPOCH,
    Workshop,
    bare_base,
    checkout,
    normalized,
    package_index,
    python_base,
    strange_checkout,
)
from support.missing import give_up, require_program
from support.processes import Command, output_of
from support.real import DOCKER_26, EngineUnavailableError
from support.registries import Registry, registry

PLATFORMS = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
BUILDERS = ("buildx", "buildah")

# buildah builds each platform from the start, twice, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(1200)

# What buildah and skopeo need as root without all capabilities, and for a registry without TLS.
STORAGE = """
[storage]
driver = "vfs"
graphroot = "{folder}/root"
runroot = "{folder}/run"
"""
INSECURE = """
[[registry]]
location = "{address}"
insecure = true
"""
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


@dataclass(frozen=True)
class Press:
    """A workshop, and a registry that has the bases and gets the image."""

    workshop: Workshop
    registry: Registry
    folder: Path

    @property
    def image(self) -> str:
        """Return the repository to which the image is pushed."""
        return f"{self.registry.address}/docker-prom-exporter"

    def build(self, checkout: Path, builder: str, *options: str, **how: Any) -> str:
        """Run the script that builds the index, and return what it prints.

        `how` are the options of `subprocess.run` but the environment, and variables for it.
        """
        script = [
            sys.executable,
            f"{checkout}/compose/build_index.py",
            f"--with={builder}",
            *options,
        ]
        own = ["--network=host", f"--build-arg=PIP_INDEX_URL={self.workshop.index}"]
        if builder == "buildah":
            own += LIMITS
        return self._run([*script, f"{checkout}/index", "--", *own], **how)

    def push(self, checkout: Path) -> str:
        """Run the release's script that pushes the index, and return what it prints."""
        script = f"{checkout}/.github/release.py"
        self._run([script, "sbom", f"{checkout}/index", f"{checkout}/sbom.cdx.json"])
        return self._run([script, "push", f"{checkout}/index", self.image])

    def _run(self, command: list[str], umask: int = -1, **variables: str) -> str:
        env = {
            **self.workshop.environment(),
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf",
            "HOME": str(self.folder),
            **variables,
        }
        return output_of(command, env=env, umask=umask)


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
def press(pool: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Press]:
    """Yield a workshop whose registry has the Dockerfile's default base for all platforms."""
    for program in ("buildah", "skopeo"):
        require_program(program)
    folder = tmp_path_factory.mktemp("press")
    with registry(folder) as running:
        insecure = INSECURE.format(address=running.address)
        (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
        (folder / ".config/containers").mkdir(parents=True)
        (folder / ".config/containers/registries.conf").write_text(insecure)
        for engine in pool.lend(replace(DOCKER_26, containerd_store=True)):
            try:
                with package_index() as index:
                    workshop = Workshop(engine, index)
                    push_bases(workshop, f"{running.address}/python")
                    yield Press(workshop, running, folder)
            except EngineUnavailableError as error:
                give_up(str(error))


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


@dataclass(frozen=True)
class Published:
    """The first index, and what the scripts printed."""

    layout: Layout
    built: str
    pushed: str
    rebuilt: str
    sbom: str


@pytest.fixture(scope="module", params=BUILDERS)
def published(press: Press, request: pytest.FixtureRequest) -> Iterator[Published]:
    """Build and push as a release does; then build again as its last job does.

    The second build is in another folder, with another umask, time zone and locale, and its files
    have other times and modes.
    """
    builder, base = request.param, f"{press.registry.address}/python:3.13-alpine"
    with TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second/elsewhere")
        checkout(first)
        strange_checkout(second)
        built = press.build(first, builder, f"--base={base}", f"--builder={base}")
        pushed = press.push(first)
        press.workshop.engine.cli("builder", "prune", "--all", "--force")
        elsewhere = {"umask": 0o077, "TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8"}
        like = f"--like={press.image}:{__version__}"
        rebuilt = press.build(second, builder, like, **elsewhere)
        sbom = (first / "sbom.cdx.json").read_text()
        yield Published(Layout(first / "index"), built, pushed, rebuilt, sbom)


def test_is_the_same_each_time(published: Published) -> None:
    """Both builds have the same index digest, which covers everything in the index."""
    digest = published.layout.digest

    assert re.search(rf"^index +{digest}$", published.built, re.MULTILINE)
    assert re.search(rf"^published +{digest} the same$", published.rebuilt, re.MULTILINE)


def test_says_digests_and_time(published: Published) -> None:
    """The script prints a digest for the index and each platform, the time, and the tool's version."""
    lines = [line.split()[0] for line in published.built.splitlines()]

    assert ["index", *PLATFORMS, "built"] == lines
    assert re.search(r"^built in +\d+ s with \S+ ", published.built, re.MULTILINE)


def test_has_no_build_time(published: Published) -> None:
    """No time in the images is the time of the build, so a build on another day gives the same."""
    assert published.layout.times() <= {0, EPOCH, "2023-11-14T22:13:20Z"}


def test_has_each_platforms_base(published: Published) -> None:
    """Each image has its own platform's base, not the builder's, and the same exporter layer on top."""
    layers = [
        [layer["digest"] for layer in manifest["layers"]]
        for manifest in published.layout.manifests()
    ]
    (amd64, ours), (arm64, *same), (armv7, *other) = layers

    assert [ours] == same == other
    assert amd64 != arm64 == armv7


def test_its_sbom_is_at_hand(published: Published) -> None:
    """The release's script finds the SBOM in the index, to attest it."""
    components = {
        normalized(each["name"]) for each in json.loads(published.sbom)["components"]
    }

    assert {"docker", "prometheus-client", "structlog", "tenacity"} <= components


def test_names_its_bases_by_digest(press: Press, published: Published) -> None:
    """The labels name both bases with their digests, so that another build takes the same ones."""
    config = published.layout.json(published.layout.manifests()[0]["config"]["digest"])
    labels = config["config"]["Labels"]
    base = rf"{press.registry.address}/python:3\.13-alpine@sha256:[0-9a-f]{{64}}"

    assert re.fullmatch(base, labels["org.opencontainers.image.base.name"])
    assert re.fullmatch(base, labels["docker-prom-exporter.builder"])


def test_comes_back_from_a_registry(press: Press, published: Published) -> None:
    """The registry returns the index by each of its tags, and an engine runs it on its own platform."""
    major, minor, _ = __version__.split(".")
    tags = [__version__, f"{major}.{minor}", major, "latest"]
    pushed = [f"{press.image}:{tag} {published.layout.digest}" for tag in tags]
    skopeo = Command(["skopeo", "inspect", "--raw", "--tls-verify=false"], dict(os.environ))
    indexes = [json.loads(skopeo.run(f"docker://{press.image}:{tag}")) for tag in tags]

    assert pushed == published.pushed.splitlines()
    assert [published.layout.json(published.layout.digest)] * 4 == indexes
    assert "application/vnd.oci.image.index.v1+json" == indexes[0]["mediaType"]
    assert f"docker-prom-exporter {__version__}" == press.workshop.engine.cli(
        "run",
        "--rm",
        "--network=none",
        f"{press.image}@{published.layout.digest}",
        "--version",
    )
