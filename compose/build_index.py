#!/usr/bin/env python3
"""Build the image for all platforms as one index, and print its digests and how long it took.

    compose/build_index.py [FOLDER]                 build the commit that is checked out
    compose/build_index.py --like IMAGE [FOLDER]    build IMAGE again and compare the digests
    compose/build_index.py --with buildah [FOLDER]
    compose/build_index.py -- --network=host        the builder's own options come last

FOLDER (default: index) becomes an OCI layout. The same commit, bases and version of the
builder give the same digests. "The image" in compose/README.md has more.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7")
BASE = "python:3.13-alpine"

_LABEL = "org.opencontainers.image."
_BUILDER_LABEL = "docker-prom-exporter.builder"


def main(argv: Sequence[str]) -> int:
    """Build and print; return 1 if a command failed or the digests differ."""
    own, builders = _split(argv)
    options = _parser().parse_args(own)
    began = time.monotonic()
    tool = Buildah() if options.tool == "buildah" else Buildx()
    try:
        arguments = _arguments(tool, options)
        layout = Path(options.folder).absolute()
        tool.build(arguments, layout, builders)
        digests = digests_of(layout)
        published = tool.digest(options.like) if options.like else ""
    except BuildError as error:
        print(f"build_index.py: {error}", file=sys.stderr)
        return 1
    for name, digest in digests.items():
        print(f"{name:13} {digest}")
    print(f"{'built in':13} {time.monotonic() - began:.0f} s with {tool.version()}")
    if not options.like:
        return 0
    same = published == digests["index"]
    print(f"{'published':13} {published} {'the same' if same else 'DIFFERENT'}")
    return 0 if same else 1


class BuildError(Exception):
    """The reason why the index can't be built."""


class Buildx:
    """Docker with the containerd image store, or with a builder of `docker buildx`."""

    def build(
        self, arguments: Mapping[str, str], layout: Path, options: Sequence[str]
    ) -> None:
        """Build all platforms at once into an OCI layout."""
        command = ["docker", "buildx", "build", f"--platform={','.join(PLATFORMS)}"]
        command += ["--provenance=false", f"--output=type=oci,tar=false,dest={layout}"]
        # BuildKit takes the creation time of the images from this variable.
        env = os.environ | {"SOURCE_DATE_EPOCH": _commit_time()}
        run(*command, *_build_args(arguments), *options, str(ROOT), env=env)

    def digest(self, image: str) -> str:
        """Return the digest of an image in a registry."""
        return str(self._inspect(image, "{{json .Manifest}}")["digest"])

    def labels(self, image: str) -> dict[str, str]:
        """Return the labels of an image in a registry, the same for each platform."""
        configurations = self._inspect(image, "{{json .Image}}")
        return dict(next(iter(configurations.values()))["config"]["Labels"])

    def version(self) -> str:
        """Return the version of the tool."""
        return " ".join(run("docker", "buildx", "version").split()[:2])

    def _inspect(self, image: str, template: str) -> dict[str, Any]:
        command = ("docker", "buildx", "imagetools", "inspect", "--format", template, image)
        return dict(json.loads(run(*command)))


class Buildah:
    """buildah, with skopeo to read from registries."""

    def build(
        self, arguments: Mapping[str, str], layout: Path, options: Sequence[str]
    ) -> None:
        """Build one platform after the other, as `--platform a,b` orders them at random."""
        native = run("buildah", "info", "--format={{.host.os}}/{{.host.arch}}")
        name = f"localhost/docker-prom-exporter:index-{os.getpid()}"
        # Of a base that is already in its storage buildah 1.28 makes another manifest.
        command = ["buildah", "build", "--pull-always", f"--manifest={name}"]
        command += [f"--timestamp={_commit_time()}"]
        command += _build_args({**arguments, "BUILDPLATFORM": native})
        # From 1.41 on buildah reads this variable, but not together with --timestamp.
        env = {key: os.environ[key] for key in os.environ if key != "SOURCE_DATE_EPOCH"}
        try:
            for platform in PLATFORMS:
                run(*command, f"--platform={platform}", *options, str(ROOT), env=env)
            run("buildah", "manifest", "push", "--all", name, f"oci:{layout}")
        finally:
            subprocess.run(
                ["buildah", "manifest", "rm", name], capture_output=True, check=False
            )

    def digest(self, image: str) -> str:
        """Return the digest of an image in a registry."""
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", f"docker://{image}"],
            capture_output=True,
            check=False,
        )
        if raw.returncode:
            raise BuildError(raw.stderr.decode().strip())
        return f"sha256:{hashlib.sha256(raw.stdout).hexdigest()}"

    def labels(self, image: str) -> dict[str, str]:
        """Return the labels of an image in a registry."""
        configuration = json.loads(run("skopeo", "inspect", "--config", f"docker://{image}"))
        return dict(configuration["config"]["Labels"])

    def version(self) -> str:
        """Return the version of the tool."""
        return run("buildah", "--version")


def digests_of(layout: Path) -> dict[str, str]:
    """Return the digest of the index in an OCI layout, and of the image of each platform."""
    (index,) = json.loads((layout / "index.json").read_text())["manifests"]
    blob = layout / "blobs" / index["digest"].replace(":", "/")
    digests = {"index": str(index["digest"])}
    for each in json.loads(blob.read_text())["manifests"]:
        platform = each["platform"]
        parts = [platform["os"], platform["architecture"], platform.get("variant", "")]
        digests["/".join(filter(None, parts))] = each["digest"]
    return digests


def run(*command: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output, or raise BuildError with what it printed."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not installed") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr.strip()}")
    return done.stdout.strip()


def _arguments(tool: Buildx | Buildah, options: argparse.Namespace) -> dict[str, str]:
    """Return the build arguments that an image's labels record, with bases named by digest."""
    commit = run("git", "rev-parse", "HEAD")
    created = datetime.fromtimestamp(int(_commit_time()), UTC)
    labels = tool.labels(options.like) if options.like else {}
    if labels and commit != labels[f"{_LABEL}revision"]:
        revision = labels[f"{_LABEL}revision"]
        raise BuildError(f"{options.like} is of another commit: git checkout {revision}")
    base = labels.get(f"{_LABEL}base.name", options.base)
    builder = labels.get(_BUILDER_LABEL, options.builder)
    return {
        "BASE": _pinned(tool, base),
        "BUILDER": _pinned(tool, builder),
        "CREATED": f"{created:%Y-%m-%dT%H:%M:%SZ}",
        "REVISION": commit,
        "SOURCE": labels.get(f"{_LABEL}source", options.source),
    }


def _pinned(tool: Buildx | Buildah, image: str) -> str:
    """Return the name with its digest: a tag can move between two builds."""
    return image if "@" in image else f"{image}@{tool.digest(image)}"


def _commit_time() -> str:
    return run("git", "log", "-1", "--format=%ct")


def _build_args(arguments: Mapping[str, str]) -> list[str]:
    return [f"--build-arg={name}={value}" for name, value in arguments.items()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="index", metavar="FOLDER")
    parser.add_argument("--with", dest="tool", choices=("buildx", "buildah"), default="buildx")
    parser.add_argument(
        "--like", metavar="IMAGE", help="take the arguments of a published image"
    )
    parser.add_argument("--base", default=BASE, help="the image to add the exporter to")
    parser.add_argument("--builder", default=BASE, help="the image that runs the build")
    parser.add_argument("--source", default="", help="address of the sources, for a label")
    return parser


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the arguments at `--`."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
