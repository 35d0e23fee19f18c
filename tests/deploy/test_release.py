"""The release's scripts, run as the workflow runs them: tag, packages, announcement, owner."""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

from docker_prom_exporter import __version__
from support.bases import checkout, strange_checkout
from support.documents import blocks
from support.machine import REPOSITORY
from support.processes import completed, output_of
from support.promtool import takes_queries

TAG = f"v{__version__}"


def release(folder: Path, *arguments: str, umask: int = -1, **env: str) -> tuple[int, str]:
    """Run the script in a checkout; return its exit code and what it prints."""
    command = [sys.executable, f"{folder}/.github/release.py", *arguments]
    done = completed(command, env={**os.environ, **env}, umask=umask)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a checkout that a test may change."""
    checkout(tmp_path / "copy")
    return tmp_path / "copy"


def test_the_tag_of_this_version_passes(copy: Path) -> None:
    """The tag agrees with the package, the Dockerfile and the CHANGELOG."""
    code, said = release(copy, "check", TAG)

    assert 0 == code, said


@pytest.mark.parametrize(
    ("tag", "file", "change", "says"),
    [
        ("v9.9.9", "", ("", ""), "docker_prom_exporter/__init__.py has version"),
        (__version__, "", ("", ""), "must be vX.Y.Z"),
        (f"{TAG}rc1", "", ("", ""), "must be vX.Y.Z"),
        (
            TAG,
            "Dockerfile",
            (f"VERSION={__version__}", "VERSION=0.1"),
            "Dockerfile has version",
        ),
        (
            TAG,
            "CHANGELOG.md",
            (f"## [{__version__}]", "## [0.1]"),
            "CHANGELOG.md has no section",
        ),
    ],
)
def test_a_tag_that_disagrees_fails(
    copy: Path, tag: str, file: str, change: tuple[str, str], says: str
) -> None:
    """One line names what disagrees."""
    if file:
        text = (copy / file).read_text()
        (copy / file).write_text(text.replace(*change))
    code, said = release(copy, "check", tag)

    assert 1 == code
    assert says in said
    assert 1 == len(said.splitlines())


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build wheel and sdist twice, the second time from a strange checkout in a strange environment."""
    folder = tmp_path_factory.mktemp("packages")
    checkout(folder / "first")
    strange_checkout(folder / "second")
    elsewhere = {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8"}
    one = release(folder / "first", "packages", f"{folder}/dist")
    other = release(folder / "second", "packages", f"{folder}/again", umask=0o077, **elsewhere)
    assert (0, 0) == (one[0], other[0]), one[1] + other[1]
    return folder / "dist", folder / "again"


def test_the_packages_are_the_same_each_time(packages: tuple[Path, Path]) -> None:
    """Both builds give the same files, byte by byte."""
    first, second = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in packages
    )

    assert 2 == len(first)
    assert first == second


def test_twine_takes_the_packages(packages: tuple[Path, Path]) -> None:
    """`twine check --strict` has nothing to say, so PyPI shows the README."""
    files = sorted(map(str, packages[0].iterdir()))
    twine = [sys.executable, "-m", "twine", "check", "--strict", *files]
    output_of(twine)


def test_the_sdist_passes_its_unit_tests(packages: tuple[Path, Path], tmp_path: Path) -> None:
    """`tests/run tests/unit` passes in an unpacked sdist, and the image's files are there.

    It gets a virtual environment that counts as up to date and has this one's pytest.
    """
    (sdist,) = packages[0].glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/pytest").symlink_to(Path(sys.executable).with_name("pytest"))
    stamp = ["bash", "-c", "python3 --version && sha256sum pyproject.toml"]
    with (folder / ".venv/made-from").open("w") as made_from:
        subprocess.run(stamp, cwd=folder, stdout=made_from, check=True)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    env = {key: value for key, value in env.items() if not key.startswith(("PYTEST", "COV"))}
    # pytest keeps the folders of these tests, too, in the machine's own.
    env["PYTEST_DEBUG_TEMPROOT"] = os.environ["PYTEST_DEBUG_TEMPROOT"]
    output_of(["tests/run", "tests/unit"], cwd=folder, env=env)

    for name in ("Dockerfile", ".dockerignore", "requirements.lock", "compose/monitoring.yml"):
        assert (folder / name).is_file(), name


def metadata(folder: Path, target: Path) -> str:
    """Build the wheel of a checkout, and return its metadata, which includes the README."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    output_of(command, cwd=folder)
    (wheel,) = target.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/METADATA")]
        return archive.read(name).decode()


def test_the_owner_is_written_once(copy: Path, tmp_path: Path) -> None:
    """Without an owner the package names no address; afterwards each link and address has the owner."""
    before = metadata(copy, tmp_path / "before")
    code, said = release(copy, "owner", "Example")
    after = metadata(copy, tmp_path / "after")
    again = release(copy, "owner", "other")
    links = re.findall(r"\]\(([^)]+)\)", after)
    home = "https://github.com/Example/docker-prom-exporter"

    assert 0 == code, said
    assert "Project-URL" not in before
    assert f"Project-URL: Repository, {home}\n" in after
    assert "/OWNER/" not in after
    assert f"{home}/blob/{TAG}/compose/README.md" in links
    raw = f"https://raw.githubusercontent.com/Example/docker-prom-exporter/{TAG}"
    assert f"{raw}/tests/deploy/status-page.png" in links
    assert [] == [link for link in links if not link.startswith(("https://", "#"))]
    assert (1, True) == (again[0], "already has an owner" in again[1])
    assert "\nOWNER=example\n" in (copy / "README.md").read_text()  # an image has no capitals


def test_the_release_has_the_changelog(copy: Path, tmp_path: Path) -> None:
    """`gh` gets the tag, the CHANGELOG's section of this version, and the packages."""
    gh = tmp_path / "bin/gh"
    gh.parent.mkdir()
    gh.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$SAID"\n')
    gh.chmod(0o755)
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "a.whl").touch()
    path = f"{gh.parent}:{os.environ['PATH']}"
    code, said = release(copy, "announce", TAG, str(dist), PATH=path, SAID=f"{tmp_path}/said")
    asked = (tmp_path / "said").read_text()

    assert 0 == code, said
    assert asked.startswith(f"release\ncreate\n{TAG}\n{dist}/a.whl\n--verify-tag\n")
    assert "### Added\n" in asked
    assert "## [" not in asked


def test_the_commands_that_verify_match_the_workflow(tmp_path: Path) -> None:
    """The documented identity is that of release.yml at the tag, and `gh` and `cosign` get the image."""
    (block,) = [
        block.text
        for block in blocks(REPOSITORY / "compose/README.md", "bash")
        if "cosign verify" in block.text
    ]
    for name in ("gh", "cosign"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "${0##*/} $*"\n')
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "OWNER": "Example", "VERSION": "1.2.3"}
    gh, sbom, cosign = output_of(["bash", "-euc", block], env=env).splitlines()
    home = "https://github.com/Example/docker-prom-exporter"
    identity = f"{home}/.github/workflows/release.yml@refs/tags/v1.2.3"

    image = "ghcr.io/example/docker-prom-exporter:1.2.3"
    assert gh == f"gh attestation verify oci://{image} --owner Example"
    assert sbom.startswith(gh)
    assert cosign.startswith(f"cosign verify {image} ")
    assert cosign.endswith(f"--certificate-identity {identity}")
    assert (REPOSITORY / ".github/workflows/release.yml").is_file()


def test_the_image_of_an_owner_with_capitals_is_audited(tmp_path: Path) -> None:
    """The audit pulls the image by the name in small letters, under which it was pushed."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$*"\n')
    docker.chmod(0o755)
    output = tmp_path / "output"
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GITHUB_OUTPUT": str(output)}
    audit = [f"{REPOSITORY}/.github/audit", "sbom", "ghcr.io/Example/exporter:latest", "sbom"]
    printed = output_of(audit, env=env)

    assert "pull --quiet ghcr.io/example/exporter:latest" == printed.splitlines()[0]
    assert "image=ghcr.io/example/exporter:latest\n" == output.read_text()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Import the script."""
    spec = importlib.util.spec_from_file_location("release", REPOSITORY / ".github/release.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("version", "released", "tags"),
    [
        ((1, 0, 0), [], ["1.0.0", "1.0", "1", "latest"]),
        ((1, 0, 1), [(1, 0, 0), (1, 0, 1)], ["1.0.1", "1.0", "1", "latest"]),
        ((1, 0, 2), [(1, 1, 0)], ["1.0.2", "1.0"]),
        ((1, 10, 0), [(1, 9, 0), (2, 0, 0)], ["1.10.0", "1.10", "1"]),
    ],
)
def test_a_fix_of_an_old_release_moves_no_newer_tag(
    script: ModuleType,
    version: tuple[int, int, int],
    released: list[tuple[int, int, int]],
    tags: list[str],
) -> None:
    """`X.Y`, `X` and `latest` belong to the highest version that they can name."""
    assert tags == script.tags_of(version, released)


def test_an_entry_for_awesome_prometheus_alerts_lies_ready(tmp_path: Path) -> None:
    """The entry has our alerts, Prometheus takes their queries, and none needs a recording rule."""
    script = REPOSITORY / ".github/awesome_alerts.py"
    (entry,) = YAML(typ="safe").load(output_of([sys.executable, script]))
    (exporter,) = entry["exporters"]
    queries = [rule["query"] for rule in exporter["rules"]]

    assert takes_queries(queries, tmp_path)
    assert {"Docker down", "Container unhealthy"} <= {
        rule["name"] for rule in exporter["rules"]
    }
    assert not [query for query in queries if "docker:" in query]
