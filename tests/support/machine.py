"""A Docker engine with Compose, and with its own networks, localhost and /run, like a separate machine."""

import ctypes
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from ruamel.yaml import YAML

from support.expositions import Scrape, parse
from support.processes import Command, Sandbox
from support.real import DOCKER_26, Docker, Engine, require_programs

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "compose"
PROMETHEUS = "http://127.0.0.1:9090/api/v1"

# The programs that the engine needs to start, and those that the images contain.
_PROGRAMS = ("ip", "unshare", "haproxy", "prometheus", "prometheus-alertmanager")

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, sched.h

# Bridges, published ports and firewall rules vanish with the namespace's last process. Compose files expect
# the socket in /run. Whatever --data-root says, dockerd writes a Swarm's files to /var/lib/docker.
_ENTER = """
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work
mount -t overlay overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work /var/lib
ip link set lo up
exec "$@" --host=unix:///run/docker.sock
"""


@dataclass(frozen=True)
class _Isolated(Docker):
    """A Docker engine in its own network and mount namespaces."""

    def require(self) -> None:
        super().require()
        require_programs(_PROGRAMS, self.path)

    def daemon(self, sandbox: Sandbox, listen: Path) -> Command:
        inner = super().daemon(sandbox, listen)
        return Command(
            ["unshare", "--net", "--mount", "sh", "-ec", _ENTER, "sh", *inner.argv], inner.env
        )


class Machine(Engine):
    """An engine with networks and Compose; `get` requests URLs on its localhost."""

    def __init__(self) -> None:
        super().__init__(_Isolated(DOCKER_26.version, options=(), run_options=()))

    def compose(self, *args: str, files: tuple[Path, ...]) -> str:
        """Run `docker compose` on the files and return its output."""
        expanded = [each for file in files for each in self.with_local_images(file)]
        return self.cli("compose", *(f"--file={file}" for file in expanded), *args)

    @contextmanager
    def deployed(self, *files: Path) -> Iterator[None]:
        """Start the services of the files; remove them and their volumes afterwards."""
        self.compose("up", "--detach", "--no-build", "--pull=never", files=files)
        try:
            yield
        finally:
            self.compose("down", "--volumes", "--timeout=1", files=files)

    @property
    def images(self) -> Path:
        """Return the folder of the files that `with_local_images` adds."""
        return self.sandbox.state / "images"

    def with_local_images(self, file: Path) -> list[Path]:
        """Return a Compose file and, where it pins images by digest, one that names them by tag.

        The stand-ins for images have other digests.
        """
        override = self.images / file.name
        services = {}
        for name, service in YAML(typ="safe").load(file)["services"].items():
            image, pinned, _ = str(service.get("image", "")).partition("@")
            if pinned:
                services[name] = {"image": image}
        if not services:
            return [file]
        self.images.mkdir(exist_ok=True)
        override.write_text(json.dumps({"services": services}))
        return [file, override]

    def get(self, url: str, post: Any = None) -> tuple[int, str]:
        """Return the status and body of a URL requested inside the machine.

        `post` is sent as it is if it is bytes, else as JSON.
        """
        return self._inside(lambda: _fetch(url, post))

    def scrape(self) -> Scrape:
        """Return a scrape of the exporter; an empty one while it does not answer."""
        try:
            return parse(self.get("http://127.0.0.1:9000/metrics")[1])
        except OSError:
            return Scrape({})

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query; an empty one while Prometheus is not ready."""
        try:
            status, text = self.get(f"{PROMETHEUS}/query?query={quote(expression)}")
        except OSError:
            return []
        assert status in (200, 503), text
        return json.loads(text)["data"]["result"] if status == 200 else []

    def _inside(self, action: Callable[[], T]) -> T:
        """Call `action` in a new thread that has joined the machine's network namespace."""
        pid = (self.sandbox.state / "pid").read_text()

        def move_and_act() -> T:
            with Path(f"/proc/{pid}/ns/net").open() as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _NEW_NETWORK):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            return action()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(move_and_act).result()


def _fetch(url: str, post: Any) -> tuple[int, str]:
    data = post if post is None or isinstance(post, bytes) else json.dumps(post).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
