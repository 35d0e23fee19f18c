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
from urllib.parse import parse_qs, urlsplit

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
_PATH: Final = re.compile(
    r"(?:/v[\d.]+)?/(?:(?P<fixed>version|_ping|containers/json)|containers/(?P<id>[^/]+)/json)"
)
_ENDPOINTS: Final = {"version": "version", "_ping": "ping", "containers/json": "list"}


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
    restart_policy: str = "no"
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
    def image_id(self) -> str:
        """Return the id of its image."""
        return f"sha256:{hashlib.sha256(self.image.encode()).hexdigest()}"

    @property
    def _listed_health(self) -> str | None:
        """Return what moby says: a container with a healthcheck that doesn't run is unhealthy to it."""
        return self.health if self.health is None or self.state == "running" else "unhealthy"

    def row(self, now: float) -> dict[str, Any]:
        """Return its row of `/containers/json` at the Unix time `now`, as moby words it from API 1.52 on."""
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "Image": self.image,
            "ImageID": self.image_id,
            "Created": int(self.created),
            "Labels": dict(self.labels),
            "State": self.state,
            "Status": self._status(now),
            "Health": {"Status": self._listed_health or "none", "FailingStreak": self.failing_streak},
        }

    def inspect(self) -> dict[str, Any]:
        """Return the answer of `/containers/{id}/json`."""
        state: dict[str, Any] = {
            "Status": self.state,
            "Running": self.state in ("running", "paused", "restarting"),
            "OOMKilled": self.oom_killed,
            "ExitCode": self.exit_code,
            "StartedAt": _rfc3339(self.started),
            "FinishedAt": _rfc3339(self.finished),
        }
        if self._listed_health is not None:
            state["Health"] = {"Status": self._listed_health, "FailingStreak": self.failing_streak}
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Image": self.image_id,
            "Driver": "overlay2",
            "Created": _rfc3339(self.created),
            "RestartCount": self.restarts,
            "State": state,
            "Config": {"Image": self.image, "Labels": dict(self.labels)},
            "HostConfig": {"RestartPolicy": {"Name": self.restart_policy}},
        }

    def _status(self, now: float) -> str:
        """Word it as moby's `State.String` does, container/state.go."""
        if self.state in ("running", "paused"):
            health = {"starting": " (health: starting)", None: ""}.get(self.health, f" ({self.health})")
            return (
                f"Up {human_duration(now - self.started)}{' (Paused)' if self.state == 'paused' else health}"
            )
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

    Tests add what only they need in a subclass: `respond` gets each request, `answer` what is said to it.
    """

    api_version = "1.52"
    server_name = f"Docker/{VERSION} (linux)"

    def __init__(self, path: Path, containers: Callable[[], Iterable[SimulatedContainer]]) -> None:
        self.path = path
        self.containers = containers
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Return its address as `DOCKER_HOST` takes it."""
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        """Listen on the socket."""
        self._server = _Server(self)
        Thread(target=self._server.serve_forever, args=(0.005,), name="simulated engine", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket, every connection, and remove the file."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self.path.unlink(missing_ok=True)

    def respond(self, request: Request) -> None:
        """Answer one request; anything but the four endpoints is refused, as a socket proxy would."""
        url = urlsplit(request.path)
        endpoint, container_id = endpoint_of(url.path)
        if endpoint == "ping":
            request.send(200, "text/plain; charset=utf-8", b"OK")
            return
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        status, answer = self.answer(endpoint, container_id, query)
        request.send(status, "application/json", json.dumps(answer).encode())

    def answer(self, endpoint: str, container_id: str, query: Mapping[str, str]) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        if endpoint == "version":
            return 200, {
                "Version": VERSION,
                "ApiVersion": self.api_version,
                "Os": "linux",
                "Arch": "amd64",
                "Components": [{"Name": "Engine", "Version": VERSION}],
            }
        if endpoint == "list":
            return self.listed(query)
        if endpoint == "inspect":
            found = next((c for c in self.containers() if c.id == container_id), None)
            return (404, _no_such(container_id)) if found is None else (200, found.inspect())
        return 403, {"message": "the simulated engine has four endpoints"}

    def listed(self, query: Mapping[str, str]) -> tuple[int, Any]:
        """Return the rows that the filters let through, the newest first (moby, daemon/list.go)."""
        filters = {name: [*values] for name, values in json.loads(query.get("filters") or "{}").items()}
        containers = sorted(self.containers(), key=lambda container: container.created, reverse=True)
        ids = [container.id for container in containers]
        for anchor in (*filters.get("since", ()), *filters.get("before", ())):
            if anchor not in ids:
                return 404, _no_such(anchor)
        first = max((ids.index(anchor) + 1 for anchor in filters.get("before", ())), default=0)
        last = min((ids.index(anchor) for anchor in filters.get("since", ())), default=len(ids))
        wanted = [container for container in containers[first:last] if _passes(container, filters)]
        limit = int(query.get("limit", -1))
        return 200, self.rows(wanted[:limit] if limit > 0 else wanted)

    def rows(self, containers: list[SimulatedContainer]) -> Any:
        """Return what the list says of these containers."""
        now = self.now()
        return [container.row(now) for container in containers]

    def now(self) -> float:
        """Return the engine's clock, in Unix seconds."""
        return time.time()


def _no_such(container_id: str) -> dict[str, str]:
    return {"message": f"No such container: {container_id}"}


def _passes(container: SimulatedContainer, filters: Mapping[str, list[str]]) -> bool:
    ids, labels = filters.get("id"), filters.get("label", ())
    return (ids is None or container.id in ids) and all(label in container.labels for label in labels)


def endpoint_of(path: str) -> tuple[str, str]:
    """Return the endpoint a path leads to (`snapshot.ENDPOINTS`, or empty) and the container's id, if any."""
    match = _PATH.fullmatch(path)
    if match is None:
        return "", ""
    return _ENDPOINTS.get(match["fixed"], "inspect"), match["id"] or ""


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self._connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        path: Any = str(engine.path)  # no address to the server that stands in on Windows
        super().__init__(path, Request)

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


class Request(BaseHTTPRequestHandler):
    """One request to a simulated engine."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Have the engine answer."""
        self.server.engine.respond(self)

    def send(self, status: int, content_type: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Api-Version", self.server.engine.api_version)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return what goes out as `Date`."""
        return super().date_time_string(self.server.engine.now() if timestamp is None else timestamp)

    def version_string(self) -> str:
        """Return what goes out as `Server`."""
        return self.server.engine.server_name

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
