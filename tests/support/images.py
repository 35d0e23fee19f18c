"""Stand-ins for the images in the Compose files, made of installed programs: no image can be pulled."""

import functools
import io
import re
import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import docker_prom_exporter
from support.archives import add
from support.processes import Command
from support.real import (
    SYSTEM_PATH,
    Engine,
    EngineUnavailableError,
    require_programs,
    toolbox,
)

SAMPLE = "busybox:1.37"
CALUM4 = "ghcr.io/calum4/docker-socket-proxy:latest"
LINUXSERVER = "lscr.io/linuxserver/socket-proxy:3.4.4-r0-ls97"
TECNATIVA = "tecnativa/docker-socket-proxy:v0.4.2"
WOLLOMATIC = "wollomatic/socket-proxy:1.13.1"

_EXPORTER_NEEDS = (
    "certifi",
    "charset-normalizer",
    "docker",
    "idna",
    "prometheus-client",
    "requests",
    "structlog",
    "tenacity",
    "urllib3",
)

# The rules of all socket proxies based on HAProxy: an endpoint is open if its variable is a true boolean.
_RULES_OF_ALL = {
    "PING": "/_ping",
    "VERSION": "/version",
    "CONTAINERS": "/containers",
    "EVENTS": "/events",
    "IMAGES": "/images",
    "INFO": "/info",
    "NETWORKS": "/networks",
    "NODES": "/nodes",
    "SERVICES": "/services",
    "TASKS": "/tasks",
}
_CLOSED_BY_LINUXSERVER = "/containers/[^/]+/(archive|changes|export|logs|top)$"
_RULES_OF_CALUM4 = {
    **_RULES_OF_ALL,
    "CONTAINER_LIST": "/containers/json$",
    "CONTAINER_INSPECT": "/containers/[a-zA-Z0-9_.-]+/json$",
}


@dataclass(frozen=True)
class Image:
    """The content of an image, and the instructions of its Dockerfile.

    `programs` and `data` are copied from the system. `folders` are created empty, owned by the user `nobody`.
    """

    programs: Sequence[str]
    instructions: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Sequence[str] = ()
    data: Sequence[str] = ()


def _proxy(rules: Mapping[str, str], closed: str = "") -> Image:
    defaults = " ".join(
        f"{name}={int(name in ('PING', 'VERSION', 'EVENTS'))}" for name in rules
    )
    return Image(
        ("haproxy",),
        (
            f"ENV LOG_LEVEL=info {defaults}",
            'ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/etc/haproxy.cfg"]',
        ),
        {"/etc/haproxy.cfg": _haproxy_settings(rules, closed)},
    )


def _haproxy_settings(rules: Mapping[str, str], closed: str) -> str:
    allowed = [
        f"http-request allow if {{ path,url_dec -m reg -i ^(/v[\\d\\.]+)?{path} }} {{ env({name}) -m bool }}"
        for name, path in rules.items()
    ]
    return "\n    ".join(
        (
            "global\n    log stdout format raw daemon info\n    pidfile /run/haproxy.pid",
            "\ndefaults\n    mode http\n    log global\n    option httplog\n    timeout http-keep-alive 10s",
            "timeout connect 10s\n    timeout client 10m\n    timeout server 10m",
            "\nbackend docker\n    server socket /var/run/docker.sock",
            "\nfrontend proxy\n    bind :2375\n    http-request deny unless METH_GET",
            *(
                [f"http-request deny if {{ path,url_dec -m reg -i {closed} }}"]
                if closed
                else []
            ),
            *allowed,
            "http-request deny\n    default_backend docker\n",
        )
    )


# HAProxy in place of a proxy that is configured by flags. Where the rest is read-only, /dev/shm is writable.
_FLAGS_TO_SETTINGS = """#!/bin/sh
for flag; do
    case $flag in
        -listenip=*) bind=${flag#*=}:2375 ;;
        -proxysocketendpoint=*) bind=unix@${flag#*=} ;;
        -proxysocketendpointfilemode=*) mode="mode ${flag#*=}" ;;
        -allowGET=*) rule=${flag#*=} ;;
    esac
done
cat >/dev/shm/haproxy.cfg <<END
global
    log stdout format raw daemon info
defaults
    mode http
    log global
    option httplog
    timeout connect 10s
    timeout client 10m
    timeout server 10m
backend docker
    server socket /var/run/docker.sock
frontend proxy
    bind $bind $mode
    http-request deny unless METH_GET { path -m reg ^$rule\\$ }
    default_backend docker
END
exec haproxy -W -db -f /dev/shm/haproxy.cfg
"""

_REGISTRY = Image(
    ("docker-registry",),
    ('ENTRYPOINT ["docker-registry", "serve", "/etc/registry.yml"]',),
    {
        "/etc/registry.yml": "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\n"
        "http: {addr: ':5000'}\n"
    },
)

_IMAGES = {
    CALUM4: _proxy(_RULES_OF_CALUM4),
    LINUXSERVER: _proxy(_RULES_OF_ALL, _CLOSED_BY_LINUXSERVER),
    TECNATIVA: _proxy(_RULES_OF_ALL),
    WOLLOMATIC: Image(
        ("haproxy",), ('ENTRYPOINT ["sh", "/entry.sh"]',), {"/entry.sh": _FLAGS_TO_SETTINGS}
    ),
    "prom/prometheus:v3.5.0": Image(
        ("prometheus",), ('ENTRYPOINT ["prometheus"]',), folders=("/prometheus",)
    ),
    "prom/pushgateway:v1.11.1": Image(
        ("prometheus-pushgateway",),
        ('ENTRYPOINT ["prometheus-pushgateway"]',),
        folders=("/pushgateway",),
    ),
    "prom/alertmanager:v0.28.1": Image(
        ("prometheus-alertmanager",),
        ('ENTRYPOINT ["prometheus-alertmanager"]',),
        folders=("/alertmanager",),
        data=("/usr/share/prometheus/alertmanager",),
    ),
    # Debian packages one generation of the registry. It stands in for both: their storage is the same.
    **dict.fromkeys(("registry:2", "registry:3"), _REGISTRY),
    # Debian has no Grafana. Its stand-in answers the healthcheck and nothing else.
    "grafana/grafana:12.1.1": Image(
        (),
        ('ENTRYPOINT ["httpd", "-f", "-p", "3000", "-h", "/www"]',),
        {"/www/api/health": "{}"},
    ),
    SAMPLE: Image((), ()),
}
EXPORTER = "docker-prom-exporter:latest"


def provide(engine: Engine, *names: str) -> None:
    """Import each image that the engine lacks; raise EngineUnavailableError if a program is missing."""
    present = engine.cli("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for name in names:
        if name not in present:
            archive, instructions = _exporter() if name == EXPORTER else _standin(name)
            changes = [f"--change={instruction}" for instruction in instructions]
            engine.cli("import", *changes, "-", name, stdin=archive)


def _standin(name: str) -> tuple[bytes, Sequence[str]]:
    image = _IMAGES[name]
    archive = io.BytesIO(toolbox())
    with tarfile.open(fileobj=archive, mode="a") as tar:
        for program in image.programs:
            _add_program(tar, program)
        for path in image.data:
            tar.add(path)
        for path, text in image.files.items():
            add(tar, path, text.encode())
        for path in image.folders:
            add(tar, path, kind=tarfile.DIRTYPE, mode=0o755, owner=65534)
    return archive.getvalue(), image.instructions


@functools.cache
def _exporter() -> tuple[bytes, Sequence[str]]:
    """Return an image with the running Python, its standard library, the exporter and its dependencies."""
    python = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    extensions = standard.glob("lib-dynload/*.so")
    archive = io.BytesIO(toolbox())
    with tarfile.open(fileobj=archive, mode="a") as tar:
        for path in {python, *_libraries(python, *extensions)}:
            tar.add(path.resolve(), str(path))
        tar.add(standard, str(standard), filter=_without_ballast)
        for path, inside in _installed(_EXPORTER_NEEDS):
            tar.add(path, f"/opt/packages/{inside}", filter=_without_ballast)
        own = Path(docker_prom_exporter.__path__[0])
        tar.add(own, f"/opt/packages/{own.name}", filter=_without_ballast)
        command = "#!/usr/bin/python3\nimport sys\nfrom docker_prom_exporter.cli import main\nsys.exit(main())\n"
        add(tar, "/usr/bin/docker-prom-exporter", command.encode(), mode=0o755)
        add(tar, "/usr/bin/python3", kind=tarfile.SYMTYPE, target=str(python))
    return archive.getvalue(), (
        "ENV PYTHONPATH=/opt/packages PYTHONDONTWRITEBYTECODE=1",
        "USER 65534:65534",
        'ENTRYPOINT ["python3", "-m", "docker_prom_exporter"]',
    )


def _installed(distributions: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Yield each file of the distributions, and its path below site-packages."""
    for name in distributions:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError as error:
            raise EngineUnavailableError(
                f"{name} is not installed: tests/run installs it"
            ) from error
        for file in files:
            if ".." not in file.parts:
                yield Path(str(file.locate())), str(file)


def _without_ballast(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    ballast = {
        "__pycache__",
        "site-packages",
        "dist-packages",
        "idlelib",
        "ensurepip",
        "lib2to3",
    }
    return None if ballast & {*Path(member.name).parts} else member


def _add_program(tar: tarfile.TarFile, name: str) -> None:
    require_programs((name,), SYSTEM_PATH)
    program = Path(str(shutil.which(name, path=SYSTEM_PATH)))
    tar.add(program.resolve(), f"/bin/{name}")
    for library in _libraries(program):
        tar.add(library.resolve(), str(library))


def _libraries(*programs: Path) -> set[Path]:
    """Return the shared libraries and the loader that the programs need, according to `ldd`."""
    return {library for program in programs for library in _needed(program)}


def _needed(program: Path) -> Iterable[Path]:
    return _paths(Command(["ldd", str(program)], {"PATH": SYSTEM_PATH}).run(check=False))


def _paths(listing: str) -> Iterator[Path]:
    for match in re.finditer(r"(?:=> |^\s*)(/\S+) \(0x", listing, re.MULTILINE):
        yield Path(match[1])
