#!/usr/bin/env python3
"""The steps of a release: workflows/release.yml calls them, tests/deploy runs them.

.github/release.py check TAG             fail unless the tag agrees with version and CHANGELOG
.github/release.py packages FOLDER       build the wheel and the sdist with the locked tools
.github/release.py push LAYOUT IMAGE     push an index as X.Y.Z, X.Y, X and latest
.github/release.py sbom LAYOUT FILE      write the SBOM that the images contain
.github/release.py announce TAG FOLDER   create the release with its CHANGELOG and packages
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
SBOM = "opt/docker-prom-exporter/sbom.cdx.json"

Version = tuple[int, int, int]


class ReleaseError(Exception):
    """The reason why this can't be released."""


def main(argv: Sequence[str]) -> int:
    """Run a step; return 1 if it failed, 2 if there is no such step."""
    name, *arguments = argv or ("",)
    step = STEPS.get(name)
    if step is None:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        step(*arguments)
    except ReleaseError as error:
        print(f"release.py: {error}", file=sys.stderr)
        return 1
    return 0


def check(tag: str) -> None:
    """Compare a tag with the package's and the Dockerfile's version, and the CHANGELOG."""
    version = version_of(tag)
    for file, pattern in (
        ("docker_prom_exporter/__init__.py", r'^__version__ = "(.+)"$'),
        ("Dockerfile", r"^ARG VERSION=(.+)$"),
    ):
        found = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
        if found is None or found[1] != version:
            raise ReleaseError(
                f"tag {tag}: {file} has version {found[1] if found else 'none'}"
            )
    print(f"{tag}: {len(notes(version).splitlines())} lines of CHANGELOG")


def notes(version: str) -> str:
    """Return the CHANGELOG's section of a version, without its heading."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n"
    found = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ReleaseError(f"CHANGELOG.md has no section ## [{version}] - DATE with entries")
    return found[1].strip()


def packages(folder: str) -> None:
    """Build wheel and sdist of the commit, with the tools in requirements.lock."""
    target = Path(folder).absolute()
    with TemporaryDirectory() as tools, TemporaryDirectory() as sources:
        venv.create(tools)
        python = f"{tools}/bin/python"
        pip = (
            sys.executable,
            "-m",
            "pip",
            f"--python={python}",
            "--disable-pip-version-check",
        )
        lock = ("--require-hashes", "--no-deps", "--requirement=requirements.lock")
        run(*pip, "install", "--quiet", *lock)
        # Only what is committed, with its modes, whatever else is in the folder.
        archive = f"{sources}/archive.tar"
        run("git", "archive", f"--output={archive}", "HEAD")
        with tarfile.open(archive) as tar:
            tar.extractall(f"{sources}/tree", filter="data")
        # The times in the packages are the commit's, so that another build gives the same
        # files.
        env = os.environ | {"SOURCE_DATE_EPOCH": run("git", "log", "-1", "--format=%ct")}
        build = (python, "-m", "hatchling", "build", f"--directory={target}")
        run(*build, "--target=sdist", "--target=wheel", env=env, cwd=Path(sources, "tree"))
    print("\n".join(sorted(path.name for path in target.iterdir())))


def push(layout: str, image: str) -> None:
    """Push an index under all tags of this version; the workflow gets its name and digest."""
    image = image.lower()  # a repository's owner may have capitals, an image's name may not
    source = Path(layout).absolute()
    digest = index_digest(source)
    for tag in tags_of(current_version(), released_versions()):
        target = f"docker://{image}:{tag}"
        run("skopeo", "copy", "--all", "--preserve-digests", f"oci:{source}", target)
        print(f"{image}:{tag} {digest}")
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a") as file:
            file.write(f"digest={digest}\nimage={image}\n")


def sbom(layout: str, file: str) -> None:
    """Write the SBOM from the exporter's layer, which is the same on each platform."""
    index = _json(Path(layout), index_digest(Path(layout)))
    manifest = _json(Path(layout), index["manifests"][0]["digest"])
    with tarfile.open(_blob(Path(layout), manifest["layers"][-1]["digest"])) as layer:
        content = layer.extractfile(SBOM)
        if content is None:
            raise ReleaseError(f"the last layer has no {SBOM}")
        Path(file).write_bytes(content.read())


def sign(image: str, digest: str) -> None:
    """Sign a digest, so a tag that moves can't be taken for it."""
    run("cosign", "sign", "--yes", f"{image}@{digest}")


def announce(tag: str, folder: str) -> None:
    """Create the release on GitHub: the CHANGELOG's section, and the packages."""
    text = notes(version_of(tag))
    files = sorted(str(path.absolute()) for path in Path(folder).iterdir())
    run(
        "gh",
        "release",
        "create",
        tag,
        *files,
        "--verify-tag",
        f"--title={tag}",
        f"--notes={text}",
    )


def owner(name: str) -> None:
    """Write the owner to pyproject.toml, and to the README's variable."""
    project, readme = ROOT / "pyproject.toml", ROOT / "README.md"
    urls = re.search(
        r"^# \[project\.urls\]\n(# \w+ = .*\n)+", project.read_text(), re.MULTILINE
    )
    if urls is None:
        raise ReleaseError("pyproject.toml already has an owner")
    uncommented = urls[0].replace("# ", "")
    text = project.read_text().replace(urls[0], uncommented).replace("/OWNER/", f"/{name}/")
    project.write_text(text)
    readme.write_text(
        re.sub(r"^OWNER=.*$", f"OWNER={name.lower()}", readme.read_text(), flags=re.MULTILINE)
    )


STEPS: Mapping[str, Callable[..., None]] = {
    step.__name__: step for step in (check, packages, push, sbom, sign, announce, owner)
}


def version_of(tag: str) -> str:
    """Return the version in a tag; raise ReleaseError if it is not of the form vX.Y.Z."""
    found = re.fullmatch(r"v(\d+\.\d+\.\d+)", tag)
    if found is None:
        raise ReleaseError(f"tag {tag}: must be vX.Y.Z")
    return found[1]


def current_version() -> Version:
    """Return the version of the package."""
    text = (ROOT / "docker_prom_exporter/__init__.py").read_text()
    found = re.search(r'^__version__ = "(\d+)\.(\d+)\.(\d+)"$', text, re.MULTILINE)
    if found is None:
        raise ReleaseError("__version__ must be X.Y.Z")
    return int(found[1]), int(found[2]), int(found[3])


def released_versions() -> list[Version]:
    """Return the versions in the repository's tags."""
    tags = re.findall(r"^v(\d+)\.(\d+)\.(\d+)$", run("git", "tag", "--list"), re.MULTILINE)
    return [(int(major), int(minor), int(patch)) for major, minor, patch in tags]


def tags_of(version: Version, released: Sequence[Version]) -> list[str]:
    """Return the tags that an image of this version gets.

    `X.Y`, `X` and `latest` go to the highest version only: a fix for an old release moves none
    of a newer one.
    """
    tags = [".".join(map(str, version))]
    for parts in (2, 1, 0):
        rivals = [other for other in released if other[:parts] == version[:parts]]
        if version == max([version, *rivals]):
            tags.append(".".join(map(str, version[:parts])) or "latest")
    return tags


def index_digest(layout: Path) -> str:
    """Return the digest of the index in an OCI layout."""
    (index,) = json.loads((layout / "index.json").read_text())["manifests"]
    return str(index["digest"])


def run(*command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a command in the repository and return its output, or raise ReleaseError."""
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[:4])} …\n{done.stderr.strip()}")
    return done.stdout.strip()


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _json(layout: Path, digest: str) -> dict[str, list[dict[str, str]]]:
    return dict(json.loads(_blob(layout, digest).read_text()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
