"""The simulated engine: Docker's four endpoints on a real socket."""

from __future__ import annotations

import hashlib
import json
import math
import re
import socket
import sys
import time
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
_NANOSECONDS: Final = 10**9
_LOGGED_PROBES: Final = 5
_ENDPOINT: Final = re.compile(
    r"(?:/v[\d.]+)?/(?:(?P<version>version)|(?P<ping>_ping)|(?P<list>containers/json)"
    r"|containers/(?P<inspect>[^/]+)/json)"
)


def _age(seconds: float) -> str:
    for length, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{int(seconds)} seconds"


@dataclass(frozen=True, slots=True)
class SimulatedContainer:
    """A container of the simulated engine; times are Unix seconds, durations seconds.

    With a healthcheck a probe ends once an `interval`, counted from its start or from the
    end of its last pause.
    """

    name: str
    state: str = "running"
    # The health status while it runs, `None` without a healthcheck.
    health: str | None = None
    # The last probes that failed; the ones before passed.
    failing_streak: int = 0
    # The settings of the healthcheck; an interval of 0 is one of Podman that is disabled.
    interval: float = 5
    timeout: float = 5
    retries: int = 3
    # The exit code of the probes that failed, and how long each probe takes.
    probe_exit_code: int = 1
    probe_duration: float = 0.05
    # When the engine stopped probing: as Docker before 23 after a restart with `live-restore`.
    probes_end: float = math.inf
    image: str = "demo:1"
    restart_policy: str = "no"
    labels: Mapping[str, str] = field(default_factory=dict)
    created: float = 0
    started: float = 0
    finished: float = 0
    # The beginning and the end of its last pause.
    paused: float = 0
    unpaused: float = 0
    restarts: int = 0
    exit_code: int = 0
    # Why its last start failed, empty if it did not.
    error: str = ""
    oom_killed: bool = False
    # Limits in bytes, cores and processes; 0 without a limit.
    memory: int = 0
    cpus: float = 0
    pids: int = 0
    generation: int = 0

    @property
    def id(self) -> str:
        """Return its id: 64 hexadecimal digits, different for each generation."""
        return hashlib.sha256(f"{self.name} {self.generation}".encode()).hexdigest()

    @property
    def image_id(self) -> str:
        """Return the id of its image."""
        return f"sha256:{hashlib.sha256(self.image.encode()).hexdigest()}"

    def _health(self, now: float) -> str | None:
        """Return moby's health status: `unhealthy` from a pause on until the next probe.

        moby also sets a container that ends to `unhealthy`, and keeps the failing streak.
        """
        if self.health is None or (self.state == "running" and not self._awaits_probe(now)):
            return self.health
        return "unhealthy"

    def _awaits_probe(self, now: float) -> bool:
        """Return whether no probe has ended since its last pause."""
        return self.unpaused > max(self.started, min(now, self.probes_end) - self.interval)

    def _log(self, now: float) -> list[dict[str, Any]]:
        """Return the probes since its start, at most five, the newest last."""
        if not self.started or not self.interval:
            return []
        # Probes are counted from `since`; a pause and an end stop them.
        since, until = max(self.started, self.unpaused), min(now, self.probes_end)
        if self._awaits_probe(now) or self.state == "paused":
            since, until = self.started, min(self.paused or until, until)
        elif self.state != "running":
            until = min(self.finished, until)
        count = max(0, int((until - since) / self.interval))
        log = []
        for number in range(max(0, count - _LOGGED_PROBES) + 1, count + 1):
            failed = self.health == "starting" or number > count - self.failing_streak
            exit_code = self.probe_exit_code if failed else 0
            ended = since + number * self.interval
            log.append(_log_entry(ended, self.probe_duration, exit_code))
        return log

    def row(self, now: float) -> dict[str, Any]:
        """Return its row of `/containers/json` at the Unix time `now`, as of API 1.52."""
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "Image": self.image,
            "ImageID": self.image_id,
            "Created": int(self.created),
            "Labels": dict(self.labels),
            "State": self.state,
            "Status": self.status(now),
            "Health": {
                "Status": self._health(now) or "none",
                "FailingStreak": self.failing_streak,
            },
        }

    def inspect(self, now: float | None = None) -> dict[str, Any]:
        """Return the answer of `/containers/{id}/json` at the Unix time `now`."""
        now = time.time() if now is None else now
        health, healthcheck = self._health(now), {}
        state: dict[str, Any] = {
            "Status": self.state,
            "Running": self.state in ("running", "paused", "restarting"),
            "OOMKilled": self.oom_killed,
            "ExitCode": self.exit_code,
            "Error": self.error,
            "StartedAt": _rfc3339(self.started),
            "FinishedAt": _rfc3339(self.finished),
        }
        if health is not None:
            state["Health"] = {
                "Status": health,
                "FailingStreak": self.failing_streak,
                "Log": self._log(now),
            }
            healthcheck = {"Healthcheck": self._healthcheck()}
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Image": self.image_id,
            "Driver": "overlay2",
            "Created": _rfc3339(self.created),
            "RestartCount": self.restarts,
            "State": state,
            "Config": {"Image": self.image, "Labels": dict(self.labels), **healthcheck},
            "HostConfig": {
                "RestartPolicy": {"Name": self.restart_policy},
                "Memory": self.memory,
                "NanoCpus": int(self.cpus * _NANOSECONDS),
                "PidsLimit": self.pids or None,
            },
        }

    def _healthcheck(self) -> dict[str, Any]:
        """Return `Config.Healthcheck`; Go leaves out what is 0."""
        settings = {
            "Test": ["CMD", "probe"],
            "Interval": int(self.interval * _NANOSECONDS),
            "Timeout": int(self.timeout * _NANOSECONDS),
            "Retries": self.retries,
        }
        return {name: value for name, value in settings.items() if value}

    def status(self, now: float, age: Callable[[float], str] = _age) -> str:
        """Return `Status` as moby's `State.String` does (container/state.go)."""
        up, ago = age(now - self.started), age(now - self.finished)
        status = self._health(now)
        health = {"starting": " (health: starting)", None: ""}.get(status, f" ({status})")
        return {
            "running": f"Up {up}{health}",
            "paused": f"Up {up} (Paused)",
            "restarting": f"Restarting ({self.exit_code}) {ago} ago",
            "exited": f"Exited ({self.exit_code}) {ago} ago",
            "created": "Created",
            "removing": "Removal In Progress",
            "dead": "Dead",
        }.get(self.state, "")


class Request(BaseHTTPRequestHandler):
    """One request; other endpoints than the four are refused, as by a socket proxy."""

    protocol_version = "HTTP/1.1"
    server_version = f"Docker/{VERSION} (linux)"
    sys_version = ""
    server: SimulatedEngine

    def setup(self) -> None:
        """Send without delay: TCP would wait between head and body."""
        if self.server.path is None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_GET(self) -> None:
        """Pass the request to the engine."""
        url = urlsplit(self.path)
        endpoint = container_id = ""
        if match := _ENDPOINT.fullmatch(url.path):
            endpoint, container_id = match.lastgroup or "", match["inspect"] or ""
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.server.respond(self, endpoint, container_id, query)

    def send(self, status: int, content_type: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Api-Version", self.server.api_version)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class SimulatedEngine(ThreadingUnixStreamServer):
    """Answers as a Docker engine does, from `containers()`; listens inside `with`.

    It listens on a unix socket at `path`, or, without one, on a port of 127.0.0.1, which
    needs no file. Subclasses in tests override `respond`, which gets each request, and
    `answer`, which returns its JSON.
    """

    daemon_threads = True
    handler = Request
    api_version = "1.52"

    def __init__(
        self, path: Path | None, containers: Callable[[], Iterable[SimulatedContainer]]
    ) -> None:
        self.path = path
        self.containers = containers

    @property
    def url(self) -> str:
        """Return its address in the form of `DOCKER_HOST`."""
        if self.path is None:
            return f"tcp://127.0.0.1:{self.socket.getsockname()[1]}"
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        """Listen on the socket."""
        address: Any = str(self.path)  # Any: the server's class takes addresses of one kind
        if self.path is None:
            self.address_family, address = socket.AF_INET, ("127.0.0.1", 0)
        super().__init__(address, self.handler)
        Thread(
            target=self.serve_forever, args=(0.005,), name="simulated engine", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket, and remove its file."""
        self.shutdown()
        self.server_close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def respond(
        self, request: Request, endpoint: str, container_id: str, query: Mapping[str, str]
    ) -> None:
        """Answer one request."""
        if endpoint == "ping":
            request.send(200, "text/plain; charset=utf-8", b"OK")
        else:
            status, answer = self.answer(endpoint, container_id, query)
            request.send(status, "application/json", json.dumps(answer).encode())

    def answer(
        self, endpoint: str, container_id: str, query: Mapping[str, str]
    ) -> tuple[int, Any]:
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
            for container in self.containers():
                if container.id == container_id:
                    return 200, container.inspect(self.now())
            return 404, no_such(container_id)
        return 403, {"message": "the simulated engine has four endpoints"}

    def now(self) -> float:
        """Return the engine's time in Unix seconds."""
        return time.time()

    def listed(self, query: Mapping[str, str]) -> tuple[int, Any]:
        """Return the status and the rows that match the filters."""
        filters = json.loads(query.get("filters") or "{}")
        now = self.now()
        return 200, [each.row(now) for each in self.containers() if passes(each, filters)]

    def handle_error(self, *_: object) -> None:
        """Log nothing about clients that disconnected."""


def no_such(container_id: str) -> dict[str, str]:
    """Return moby's error for a container that does not exist."""
    return {"message": f"No such container: {container_id}"}


def passes(container: SimulatedContainer, filters: Mapping[str, Any]) -> bool:
    """Return whether the container matches the filters of a list."""
    ids, labels = filters.get("id"), filters.get("label", ())
    return (ids is None or container.id in ids) and all(
        label in container.labels for label in labels
    )


def _log_entry(ended: float, duration: float, exit_code: int) -> dict[str, Any]:
    """Return an entry of `State.Health.Log`."""
    return {
        "Start": _rfc3339(ended - duration),
        "End": _rfc3339(ended),
        "ExitCode": exit_code,
        "Output": "connection refused" if exit_code else "",
    }


def _rfc3339(seconds: float) -> str:
    if not seconds:
        return "0001-01-01T00:00:00Z"
    # An engine's times have nanoseconds.
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "123Z")
    )
