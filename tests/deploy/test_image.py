"""The image, built on substitutes for its bases: its content, how it runs, and that it is reproducible."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from docker_prom_exporter import __version__
from docker_prom_exporter.demo import WATCH
from support.bases import (
    BUILDAH,
    LOCK,
    ROOT,
    Image,
    Workshop,
    bare_base,
    checkout,
    first_difference,
    locked,
    normalized,
    package_index,
    python_base,
)
from support.documents import ON_THE_IMAGE, blocks
from support.missing import give_up, require_program
from support.processes import output_of
from support.real import DOCKER_26, Engine, EngineUnavailableError
from support.waiting import wait_for

PACKAGES = "opt/docker-prom-exporter/packages"
COMMANDS = "opt/docker-prom-exporter/bin/"
SBOM = "opt/docker-prom-exporter/sbom.cdx.json"
DISTRIBUTION = "distribution:python3.13"
WITHOUT_SHELL = "gcr.io/distroless/python3-debian13:nonroot"
HARDENED_BASE = "dhi.io/python:3.13"
BASES = ("python:3.13-alpine", DISTRIBUTION, WITHOUT_SHELL, HARDENED_BASE)
HARDENED = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
)
GROUP = 4242
NOBODY = 65534

# These bases hold no program: a build that ran one in the base of another platform would fail.
PLATFORMS = {
    "linux/amd64": "bare:amd64",
    "linux/arm64": "bare:arm64",
    "linux/arm/v7": "bare:armv7",
}

# The README's reader has a route to the registries and to the package index; this machine has neither.
PRELUDE = r"""
set -euo pipefail
docker() {
    local options=()
    if [[ $1 == build ]]; then options=(--network host --build-arg PIP_INDEX_URL="$INDEX"); fi
    case "$*" in
        *linux/arm64*) options+=(--build-arg BASE=bare:arm64) ;;
        *linux/arm/v7*) options+=(--build-arg BASE=bare:armv7) ;;
    esac
    command docker "$1" "${options[@]}" "${@:2}"
}
buildah pull docker-archive:"$STORE/base.tar"
"""
EPILOGUE = r"""
buildah push docker-prom-exporter:buildah docker-archive:"$STORE/buildah.tar":docker-prom-exporter:buildah
docker load --input "$STORE/buildah.tar"
"""


@pytest.fixture(scope="module")
def workshop(pool: Any) -> Iterator[Workshop]:
    """Yield an engine that has the bases under the names that the README and the Dockerfile use."""
    for engine in pool.lend(DOCKER_26):
        try:
            with package_index() as index:
                workshop = Workshop(engine, index)
                import_bases(workshop)
                yield workshop
        except EngineUnavailableError as error:
            give_up(str(error))


def import_bases(workshop: Workshop) -> None:
    engine = workshop.engine
    pip = workshop.wheel("pip")
    with_shell = python_base(pip)
    for name in ("python:3.13-alpine", "python:3.13-slim"):
        engine.cli("import", "-", name, stdin=with_shell)
    engine.cli("import", "-", "python:3.14-alpine", stdin=python_base(pip, version="3.14"))
    engine.cli("import", "-", DISTRIBUTION, stdin=python_base(pip, prefix="usr"))
    engine.cli("import", "-", WITHOUT_SHELL, stdin=python_base(prefix="usr"))
    hardened = python_base(prefix="opt/python")
    engine.cli(
        "import",
        "--change=ENV PATH=/opt/python/bin:/usr/bin",
        "-",
        HARDENED_BASE,
        stdin=hardened,
    )
    for platform, name in PLATFORMS.items():
        engine.cli("import", f"--platform={platform}", "-", name, stdin=bare_base())
    os.chown(engine.listen, -1, GROUP)


@pytest.fixture(scope="module")
def image(workshop: Workshop) -> Image:
    """Build the image as `docker build .` does, and return it."""
    workshop.build("exporter")
    return workshop.image("exporter")


@pytest.fixture
def engine(workshop: Workshop) -> Iterator[Engine]:
    """Yield the workshop's engine; remove its containers afterwards."""
    yield workshop.engine
    workshop.engine.remove_containers()


def test_holds_what_is_locked(image: Image) -> None:
    """The image holds the exporter and its dependencies in the locked versions, and no other package."""
    packages = image.packages()
    own = packages.pop("docker-prom-exporter")
    top = {name.split("/")[3] for name in image.files if name.startswith(f"{PACKAGES}/")}
    others = {name for name in top if not name.endswith(".dist-info")}

    assert __version__ == own
    assert {name: locked().get(name) for name in packages} == packages
    assert {"docker", "prometheus-client", "structlog", "tenacity", "requests", "urllib3"} <= {
        *packages
    }
    assert {normalized(name) for name in others} == {*packages, "docker-prom-exporter"}


def test_holds_no_more_than_python(image: Image) -> None:
    """Each module has byte code that Python does not check; there is no binary and no test."""
    modules = {name for name in image.files if name.endswith(".py")}
    codes = {name: file.content for name, file in image.files.items() if name.endswith(".pyc")}
    foreign = [
        name
        for name in image.files
        if re.search(rf"\.(so|pyd|exe)$|{PACKAGES}/bin/|/tests/", name)
    ]

    assert {
        re.sub(r"([^/]+)\.py$", r"__pycache__/\1.cpython-313.pyc", name) for name in modules
    } == {*codes}
    assert {1} == {int.from_bytes(code[4:8], "little") for code in codes.values()}
    assert [] == foreign


def test_holds_the_whole_exporter(image: Image) -> None:
    """The image holds every file of the package in git, data files too: `.dockerignore` excludes none."""
    listed = output_of(["git", "ls-files", "docker_prom_exporter"], cwd=ROOT)

    assert [] == [name for name in listed.split() if f"{PACKAGES}/{name}" not in image.files]


def test_takes_another_python(workshop: Workshop, engine: Engine) -> None:
    """The argument PYTHON changes base and builder; the byte code is for that version, and `once` works."""
    workshop.build("exporter:next", "--build-arg=PYTHON=3.14")
    codes = [name for name in workshop.image("exporter:next").files if name.endswith(".pyc")]
    versions = {name.split(".")[-2] for name in codes}

    assert {"cpython-314"} == versions
    assert "\ndocker_up 1.0\n" in engine.cli(
        "run", "--rm", *HARDENED, *socket_options(engine), "exporter:next", "once"
    )


def test_takes_a_distributions_python_as_builder(workshop: Workshop, image: Image) -> None:
    """A distribution's Python, with packages that pip can't replace, builds the same layers."""
    workshop.build("exporter:distribution", f"--build-arg=BUILDER={DISTRIBUTION}")

    other = workshop.image("exporter:distribution")

    assert image.layers == other.layers, first_difference(image, other)


def test_belongs_to_root(image: Image) -> None:
    """All files belong to root and everyone may read them, so the exporter's user can't change them."""
    infos = [file.info for file in image.files.values()]
    programs = {info.name for info in infos if info.isfile() and info.mode & 0o7777 == 0o755}
    links = {info.name for info in infos if info.issym()}

    assert {(0, 0)} == {(info.uid, info.gid) for info in infos}
    assert {0o755} == {info.mode & 0o7777 for info in infos if info.isdir()}
    assert {0o644, 0o755} == {info.mode & 0o7777 for info in infos if info.isfile()}
    assert [] == [each for each in programs if not each.startswith(COMMANDS)]
    assert [] == [each for each in links if not each.startswith((COMMANDS, "app/"))]
    assert {True} == {info.isdir() or info.isfile() or info.issym() for info in infos}


@pytest.mark.parametrize("base", BASES)
def test_the_command_is_on_the_path(workshop: Workshop, engine: Engine, base: str) -> None:
    """`docker exec NAME docker-prom-exporter check` works in each base, also without a shell."""
    workshop.build("exporter:command", f"--build-arg=BASE={base}")
    named = ("--name=exporter", *HARDENED, *socket_options(engine))
    engine.cli("run", "--detach", *named, "exporter:command")

    assert "result    good" in engine.exec("exporter", "docker-prom-exporter", "check")
    assert f"docker-prom-exporter {__version__}" == engine.cli(
        "run", "--rm", "--entrypoint=docker-prom-exporter", "exporter:command", "--version"
    )


@pytest.mark.usefixtures("image")
def test_starts_by_the_rust_exporters_path(engine: Engine) -> None:
    """`entrypoint: [/app/docker-prometheus-exporter]` of a Compose file for the Rust exporter works."""
    options = ("--rm", "--entrypoint=/app/docker-prometheus-exporter")

    assert f"docker-prom-exporter {__version__}" == engine.cli(
        "run", *options, "exporter", "--version"
    )


def test_is_small(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """The image adds one layer of at most 6.5 MB to the base."""
    with capsys.disabled():
        sys.stdout.write(f"[{image.size / 1e6:.2f} MB on top of the base] ")

    assert 2 == len(image.layers)
    assert image.size <= 6_500_000


def test_defaults(workshop: Workshop, image: Image) -> None:
    """The image runs as nobody, stops at SIGTERM, and runs exporter and healthcheck without a shell."""
    del image
    config = workshop.inspect("exporter", ".Config")
    exporter = ["python3", "-m", "docker_prom_exporter"]

    assert "65534:65534" == config["User"]
    assert {"9000/tcp": {}} == config["ExposedPorts"]
    assert "LISTEN_ADDR=0.0.0.0" in config["Env"]
    assert (exporter, []) == (config["Entrypoint"], config["Cmd"] or [])
    assert ["CMD", *exporter, "healthcheck"] == config["Healthcheck"]["Test"]
    assert "SIGTERM" == config["StopSignal"]


def test_labels(workshop: Workshop) -> None:
    """The labels hold version, licence, creation time, commit, source, base and builder of the image."""
    created, commit, source = "2023-11-14T22:13:20Z", "0123abc", "https://example.org/exporter"
    arguments = {"CREATED": created, "REVISION": commit, "SOURCE": source}
    workshop.build(
        "labelled", *(f"--build-arg={name}={value}" for name, value in arguments.items())
    )
    labels = workshop.inspect("labelled", ".Config.Labels")
    ours = {
        name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()
    }

    assert (created, commit, source) == (ours["created"], ours["revision"], ours["source"])
    assert (__version__, "MIT OR Apache-2.0") == (ours["version"], ours["licenses"])
    assert ("python:3.13-alpine",) * 2 == (
        ours["base.name"],
        ours["docker-prom-exporter.builder"],
    )
    assert created.removesuffix("Z") in workshop.inspect("labelled", ".Created")


@pytest.mark.parametrize(
    "base", ["python:3.13-alpine", WITHOUT_SHELL], ids=["shell", "no-shell"]
)
def test_serves_an_engine(workshop: Workshop, engine: Engine, base: str) -> None:
    """The container serves metrics with the socket's group as its only right, is healthy and stops in 1 s."""
    workshop.build("exporter:served", f"--build-arg=BASE={base}")
    engine.run("web", labels=WATCH, health="healthy")
    engine.cli(
        "run",
        "--detach",
        "--name=exporter",
        *HARDENED,
        *socket_options(engine),
        "exporter:served",
    )
    wait_for(
        lambda: engine.health("exporter") == "healthy",
        what="the image's own healthcheck to pass",
    )
    exposition = scrape(engine, "exporter")
    engine.cli("stop", "exporter")

    assert "\ndocker_up 1.0\n" in exposition
    assert re.search(
        r'^container_health\{[^}]*name="web"[^}]*\} 4\.0$', exposition, re.MULTILINE
    )
    assert 0 == workshop.inspect("exporter", ".State.ExitCode")


def scrape(engine: Engine, container: str) -> str:
    """Scrape from inside the container, because it has no network."""
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9000/metrics').read().decode())"
    return engine.exec(container, "python3", "-c", ask)


def socket_options(engine: Engine) -> list[str]:
    return [f"--volume={engine.listen}:/var/run/docker.sock:ro", f"--group-add={GROUP}"]


def test_there_is_no_shell(workshop: Workshop, engine: Engine) -> None:
    """The base without a shell has none, so the test above proves that the exporter needs none."""
    workshop.build("exporter:no-shell", f"--build-arg=BASE={WITHOUT_SHELL}")
    listing = "import os; print([p for p in ('/bin/sh', '/usr/bin/sh', '/bin/busybox') if os.path.exists(p)])"

    assert "[]" == engine.cli(
        "run", "--rm", "--entrypoint=python3", "exporter:no-shell", "-c", listing
    )


def test_has_an_sbom(image: Image) -> None:
    """The SBOM is valid CycloneDX, lists exactly the image's packages, and has no random number or time."""
    text = image.files[SBOM].content.decode()
    document = json.loads(text)
    components = {normalized(each["name"]): each for each in document["components"]}
    versions = {name: each["version"] for name, each in components.items()}

    assert None is JsonStrictValidator(
        SchemaVersion.from_version(document["specVersion"])
    ).validate_str(text)
    assert image.packages() == versions
    assert [] == [name for name, each in components.items() if not each.get("licenses")]
    assert not {"serialNumber", "timestamp"} & {*document, *document["metadata"]}


def test_the_lock_is_up_to_date(tmp_path: Path) -> None:
    """The documented uv command changes no version in the lock, and the lock names no registry."""
    for path in (LOCK, ROOT / "pyproject.toml"):
        shutil.copy(path, tmp_path)
    before = locked()
    command = next(line for line in commands().splitlines() if line.startswith("uv "))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    output_of(["bash", "-c", command], cwd=tmp_path, env=env)

    assert before == locked(tmp_path / LOCK.name)
    assert "://" not in LOCK.read_text()
    assert {*before} == {
        *re.findall(
            r"^([a-z0-9-]+)==.* \\\n    --hash=sha256:", LOCK.read_text(), re.MULTILINE
        )
    }


def commands() -> str:
    """Return every command of the documents' sections about the image."""
    deploying = [
        b.text for b in blocks(ROOT / "compose/README.md", "sh") if b.section in ON_THE_IMAGE
    ]
    return "".join([quick_start(), *deploying])


def quick_start() -> str:
    """Return the README's commands that get and run the image."""
    section = "Get it and run it, with Docker"
    return "".join(
        block.text for block in blocks(ROOT / "README.md", "sh") if block.section == section
    )


@pytest.fixture(scope="module")
def readme(workshop: Workshop) -> None:
    """Run the documented commands in order in a checkout."""
    require_program("buildah")
    with TemporaryDirectory() as folder:
        checkout(Path(folder, "checkout"))
        workshop.docker("save", "--output", f"{folder}/base.tar", "python:3.13-alpine")
        path = f"{Path(sys.executable).parent}:{DOCKER_26.path}"
        env = {
            **os.environ,
            **workshop.environment(),
            "PATH": path,
            "INDEX": workshop.index,
            "STORE": folder,
        }
        script = commands().replace("/var/run/docker.sock:/", f"{workshop.engine.listen}:/")
        script = script.replace("%g /var/run/docker.sock", f"%g {workshop.engine.listen}")
        command = ["bash", "-xc", BUILDAH + PRELUDE + script + EPILOGUE]
        output_of(command, cwd=f"{folder}/checkout", env=env)


@pytest.mark.usefixtures("readme")
def test_the_readme_is_right(workshop: Workshop) -> None:
    """Each documented command works, and adds the same layer to each base and platform."""
    first = workshop.image("docker-prom-exporter")
    tags = ["slim", "distroless", "arm64", "armv7", "classic"]

    assert dict.fromkeys(tags, first.layers[-1]) == {
        tag: workshop.image(f"docker-prom-exporter:{tag}").layers[-1] for tag in tags
    }


@pytest.mark.usefixtures("readme")
def test_the_readmes_container_is_healthy(engine: Engine) -> None:
    """The container of the README's `docker run` becomes healthy, and reports Docker and itself."""
    wait_for(lambda: engine.health("docker-prom-exporter") == "healthy", what="its health")

    metrics = scrape(engine, "docker-prom-exporter")
    assert "\ndocker_up 1.0\n" in metrics
    assert re.search(r'\ncontainer_health\{.*name="docker-prom-exporter"\}', metrics)


@pytest.mark.usefixtures("readme")
def test_buildah_builds_the_same(workshop: Workshop, engine: Engine) -> None:
    """The image that buildah builds has the same files and the same configuration, and runs."""
    ours, theirs = (
        workshop.image(f"docker-prom-exporter:{tag}") for tag in ("classic", "buildah")
    )
    contents = {name: file.content for name, file in ours.files.items()}
    names = ("User", "Entrypoint", "Healthcheck", "ExposedPorts", "StopSignal")

    assert {*contents} <= {*theirs.files}
    assert [] == [
        name for name, content in contents.items() if content != theirs.files[name].content
    ]
    assert [ours.config["config"][name] for name in names] == [
        theirs.config["config"][name] for name in names
    ]
    assert __version__ in engine.cli(
        "run", "--rm", "docker-prom-exporter:buildah", "--version"
    )


@pytest.mark.usefixtures("readme")
def test_the_published_image_is_run_where_there_is_an_owner(
    workshop: Workshop, engine: Engine
) -> None:
    """With OWNER set, the README's commands build nothing and run the image of that owner."""
    engine.cli("tag", "docker-prom-exporter", "ghcr.io/example/docker-prom-exporter")
    script = quick_start().replace("OWNER=\n", "OWNER=example\n")
    script = script.replace("/var/run/docker.sock:/", f"{engine.listen}:/")
    script = script.replace("%g /var/run/docker.sock", f"%g {engine.listen}")
    engine.remove_containers()
    output_of(["bash", "-ec", script], env=workshop.environment(), cwd="/")

    assert "ghcr.io/example/docker-prom-exporter" == workshop.inspect(
        "docker-prom-exporter", ".Config.Image"
    )
