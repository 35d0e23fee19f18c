"""The simulated engine: Docker's four endpoints on a real unix socket."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from threading import Thread
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from docker_prom_exporter.snapshot import SIMULATED

if sys.platform == "win32":
    from socketserver import ThreadingTCPServer as ThreadingUnixStreamServer
else:
    from socketserver import ThreadingUnixStreamServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Self

VERSION: Final = f"29.0.0{SIMULATED}"
_ZERO_TIME: Final = "0001-01-01T00:00:00Z"
_ENDPOINTS: Final = (
    ("version", re.compile(r"(?:/v[\d.]+)?/version")),
    ("ping", re.compile(r"(?:/v[\d.]+)?/_ping")),
    ("list", re.compile(r"(?:/v[\d.]+)?/containers/json")),
    ("inspect", re.compile(r"(?:/v[\d.]+)?/containers/(?P<id>[^/]+)/json")),
)


@dataclass(frozen=True, slots=True)
class SimulatedContainer:
    """A container as the simulated engine has it; times are Unix seconds.

    `health` is the verdict while it runs, `None` without a healthcheck.
    """

    name: str
    state: str = "running"
    health: str | None = None
    failing_streak: int = 0
    image: str = "demo:1"
    labels: Mapping[str, str] = field(default_factory=dict)
    created: float = 0
    started: float = 0
    finished: float = 0
    restarts: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    generation: int = 0

    @property
    def id(self) -> str:
        """Return its id: 64 hexadecimal digits, others after it was created anew."""
        return hashlib.sha256(f"{self.name} {self.generation}".encode()).hexdigest()

    @property
    def _told_health(self) -> str | None:
        """Return what moby tells: a container with a healthcheck that doesn't run is unhealthy to it."""
        return self.health if self.health is None or self.state == "running" else "unhealthy"

    def row(self, now: float, *, health_in_status: bool = True, health_in_row: bool = True) -> dict[str, Any]:
        """Return its row of `/containers/json`, as moby words it; with `Health` as from API 1.52 on."""
        row: dict[str, Any] = {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "Image": self.image,
            "Created": int(self.created),
            "Labels": dict(self.labels),
            "State": self.state,
            "Status": self._status(now, health_in_status=health_in_status),
        }
        if health_in_row:
            row["Health"] = {"Status": self._told_health or "none", "FailingStreak": self.failing_streak}
        return row

    def inspect(self) -> dict[str, Any]:
        """Return the answer of `/containers/{id}/json`, with the environment that must never get out."""
        state: dict[str, Any] = {
            "Status": self.state,
            "Running": self.state in ("running", "paused", "restarting"),
            "OOMKilled": self.oom_killed,
            "ExitCode": self.exit_code,
            "StartedAt": _rfc3339(self.started),
            "FinishedAt": _rfc3339(self.finished),
        }
        if self._told_health is not None:
            state["Health"] = {
                "Status": self._told_health,
                "FailingStreak": self.failing_streak,
                "Log": [{"Output": "SECRET-HEALTH-OUTPUT"}],
            }
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Created": _rfc3339(self.created),
            "RestartCount": self.restarts,
            "State": state,
            "Config": {
                "Image": self.image,
                "Labels": dict(self.labels),
                "Env": ["PASSWORD=SECRET-ENVIRONMENT"],
            },
        }

    def _status(self, now: float, *, health_in_status: bool) -> str:
        """Word it as moby's `State.String` does, container/state.go."""
        if self.state in ("running", "paused"):
            health = {"starting": " (health: starting)", None: ""}.get(self.health, f" ({self.health})")
            suffix = " (Paused)" if self.state == "paused" else health if health_in_status else ""
            return f"Up {human_duration(now - self.started)}{suffix}"
        ago = human_duration(now - self.finished)
        return {
            "created": "Created",
            "removing": "Removal In Progress",
            "dead": "Dead",
            "restarting": f"Restarting ({self.exit_code}) {ago} ago",
            "exited": f"Exited ({self.exit_code}) {ago} ago",
        }.get(self.state, "")


class SimulatedEngine:
    """Answers as a Docker engine does, from `containers()` at each request; listens while it is a context.

    `requests` grows by the method and path of each request. `faults` replaces an endpoint's answer by a
    function that gets the connection, on which it may send what it likes. Another `api_version` before 1.52
    leaves `Health` out of the list; `podman` makes it answer as Podman does, which never lists health.
    """

    def __init__(
        self,
        path: Path,
        containers: Callable[[], Iterable[SimulatedContainer]],
        *,
        api_version: str = "1.52",
        podman: bool = False,
    ) -> None:
        self.path = path
        self.containers = containers
        self.api_version = api_version
        self.podman = podman
        self.requests: list[str] = []
        self.faults: dict[str, Callable[[socket.socket], object]] = {}
        self.rows: Callable[[list[dict[str, Any]]], Any] = lambda rows: rows
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Return its address as `DOCKER_HOST` takes it."""
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        """Listen on the socket."""
        self._server = _Server(self)
        Thread(target=self._server.serve_forever, args=(0.05,), name="simulated engine", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket, every connection, and remove the file."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self.path.unlink(missing_ok=True)

    def asked(self, endpoint: str) -> int:
        """Count the requests so far for `version`, `ping`, `list` or `inspect`."""
        pattern = dict(_ENDPOINTS)[endpoint]
        return sum(bool(pattern.fullmatch(urlsplit(request.split(" ")[1]).path)) for request in self.requests)

    def answer(self, endpoint: str, container_id: str | None) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        if endpoint == "version":
            name = "Podman Engine" if self.podman else "Engine"
            return 200, {
                "Version": VERSION,
                "ApiVersion": self.api_version,
                "Os": "linux",
                "Arch": "amd64",
                "Components": [{"Name": name, "Version": VERSION}],
            }
        if endpoint == "list":
            new = tuple(map(int, self.api_version.split("."))) >= (1, 52) and not self.podman
            now = time.time()
            rows = [
                c.row(now, health_in_status=not self.podman, health_in_row=new) for c in self.containers()
            ]
            return 200, self.rows(rows)
        found = next((c for c in self.containers() if c.id == container_id), None)
        if found is None:
            return 404, {"message": f"No such container: {container_id}"}
        return 200, found.inspect()


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self._connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        path: Any = str(engine.path)  # no address to the server that stands in on Windows
        super().__init__(path, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer one of the four endpoints; anything else is refused, as a socket proxy would."""
        engine = self.server.engine
        engine.requests.append(f"{self.command} {self.path}")
        path = urlsplit(self.path).path
        for endpoint, pattern in _ENDPOINTS:
            match = pattern.fullmatch(path)
            if match and (fault := engine.faults.get(endpoint)):
                self.close_connection = True
                fault(self.connection)
                return
            if match and endpoint == "ping":
                self._send(200, "text/plain; charset=utf-8", b"OK")
                return
            if match:
                status, answer = engine.answer(endpoint, match.groupdict().get("id"))
                self._send(status, "application/json", json.dumps(answer).encode())
                return
        self._send(403, "application/json", b'{"message": "the simulated engine has four endpoints"}')

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Api-Version", self.server.engine.api_version)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Return what goes out as `Server`."""
        return f"{'Libpod' if self.server.engine.podman else 'Docker'}/{VERSION} (linux)"

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def human_duration(seconds: float) -> str:
    """Word a duration as moby does in `Status` (go-units, duration.go): cut off, but for hours, rounded."""
    whole = int(max(seconds, 0))
    hours = int(whole / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    for fits, count, unit in (
        (whole < 60, whole, "second"),
        (whole < 3600, whole // 60, "minute"),
        (hours < 48, hours, "hour"),
        (hours < 24 * 14, hours // 24, "day"),
        (hours < 24 * 60, hours // 24 // 7, "week"),
        (hours < 24 * 730, hours // 24 // 30, "month"),
    ):
        if fits:
            return _counted(count, unit)
    return f"{whole // 86400 // 365} years"


def _counted(count: int, unit: str) -> str:
    if count == 1 and unit in ("minute", "hour"):
        return f"About a{'n' * (unit == 'hour')} {unit}"
    return f"{count} {unit}{'s' * (count != 1)}"


def _rfc3339(seconds: float) -> str:
    if not seconds:
        return _ZERO_TIME
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "123Z")
