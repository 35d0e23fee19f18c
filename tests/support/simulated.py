"""The simulated engine for tests, whose containers, answers and faults a test can change at any time."""

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any
from weakref import WeakSet

from docker_prom_exporter.demo import WATCH, SimulatedContainer, SimulatedEngine
from docker_prom_exporter.demo.engine import VERSION, Request, no_such, passes
from docker_prom_exporter.engine import Engine, find_target
from docker_prom_exporter.poller import Poller
from docker_prom_exporter.settings import Settings, read_settings
from support.wordings import human_duration

Fault = Callable[[socket.socket], object]

SECRET_ENVIRONMENT = "PASSWORD=SECRET-ENVIRONMENT"
SECRET_OUTPUT = "SECRET-HEALTH-OUTPUT"


class Stage:
    """The containers of a simulated engine, by name."""

    def __init__(self) -> None:
        self.containers: dict[str, SimulatedContainer] = {}

    def add(self, name: str, **what: Any) -> SimulatedContainer:
        """Add a watched container that started a minute ago; `what` overrides its fields."""
        began = time.time() - 60
        container = SimulatedContainer(
            name, **{"labels": WATCH, "created": began, "started": began, **what}
        )
        self.containers[name] = container
        return container

    def change(self, name: str, **what: Any) -> None:
        """Change fields of a container."""
        self.containers[name] = replace(self.containers[name], **what)


class _Request(Request):
    server: "Simulation"

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return what goes out as `Date`."""
        return super().date_time_string(self.server.now() if timestamp is None else timestamp)

    def version_string(self) -> str:
        """Return what goes out as `Server`."""
        return self.server.server_name


class Simulation(SimulatedEngine):
    """A simulated engine that records its requests, and whose answers a test can replace by faults.

    `requests` has every request so far, `listed_rows` the rows of each list. `faults`
    replaces an endpoint's answer by a function that gets the connection and may send any
    bytes on it. `before_list` is called with the filters of each list, and may return a
    status of failure. `change_rows` changes the rows of a list. An `api_version` before 1.52
    leaves `Health` out of them. `podman` has it answer as Podman 4 does, and `containerd`
    as Docker with the containerd image store. When it is closed, it closes every
    connection, as a stopped engine does.
    """

    handler = _Request
    request_queue_size = 128

    def __init__(
        self,
        path: Path,
        *,
        api_version: str = "1.52",
        podman: bool = False,
        containerd: bool = False,
    ) -> None:
        self.stage = Stage()
        super().__init__(path, lambda: list(self.stage.containers.values()))
        self.api_version = api_version
        self.server_name = f"{'Libpod' if podman else 'Docker'}/{VERSION} (linux)"
        self.podman = podman
        self.containerd = containerd
        self.clock_offset = 0.0
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.lines: list[str] = []
        self.listed_rows: list[int] = []
        self.faults: dict[str, Fault] = {}
        self.inspect_faults: dict[str, Fault] = {}
        self.before_list: Callable[[dict[str, Any]], int | None] = lambda _: None
        self.change_rows: Callable[[list[dict[str, Any]]], Any] = lambda rows: rows
        self._connections: WeakSet[socket.socket] = WeakSet()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        """Close the socket and every connection."""
        super().server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def respond(
        self, request: Request, endpoint: str, container_id: str, query: Mapping[str, str]
    ) -> None:
        """Record the request, then answer it or apply a fault to its connection."""
        self.lines.append(f"{request.command} {request.path}")
        self.requests.append((endpoint, _filters_and_limit(query)))
        fault = self.faults.get(endpoint) or self.inspect_faults.get(container_id)
        if fault:
            request.close_connection = True
            fault(request.connection)
        else:
            super().respond(request, endpoint, container_id, query)

    def now(self) -> float:
        """Return the engine's time in Unix seconds; a test can set its `clock_offset`."""
        return time.time() + self.clock_offset

    def asked(self, endpoint: str) -> int:
        """Count the requests so far to the endpoint `version`, `ping`, `list` or `inspect`."""
        return sum(found == endpoint for found, _ in self.requests)

    def lists(self) -> list[dict[str, Any]]:
        """Return the filters and limits of all list requests so far."""
        return [query for endpoint, query in self.requests if endpoint == "list"]

    def answer(
        self, endpoint: str, container_id: str, query: Mapping[str, str]
    ) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        status, answer = super().answer(endpoint, container_id, query)
        if endpoint == "version" and self.podman:
            answer["Components"] = [{"Name": "Podman Engine", "Version": VERSION}]
        if endpoint == "inspect" and status == 200:
            answer["Config"]["Env"] = [SECRET_ENVIRONMENT]
            answer["Driver"] = "overlayfs" if self.containerd else "overlay2"
            for entry in answer["State"].get("Health", {}).get("Log", []):
                entry["Output"] = SECRET_OUTPUT
        return status, answer

    def listed(self, query: Mapping[str, str]) -> tuple[int, Any]:
        """Return a page of the rows that the filters let through, newest first (moby, daemon/list.go)."""
        filters = json.loads(query.get("filters") or "{}")
        if status := self.before_list(filters):
            return status, {"message": "failed"}
        containers = sorted(
            self.containers(), key=lambda container: container.created, reverse=True
        )
        ids = [container.id for container in containers]
        for anchor in (*filters.get("since", ()), *filters.get("before", ())):
            if anchor not in ids:
                return 404, no_such(anchor)
        first = max((ids.index(anchor) + 1 for anchor in filters.get("before", ())), default=0)
        last = min(
            (ids.index(anchor) for anchor in filters.get("since", ())), default=len(ids)
        )
        wanted = [
            container for container in containers[first:last] if passes(container, filters)
        ]
        limit = int(query.get("limit", -1))
        return 200, self.rows(wanted[:limit] if limit > 0 else wanted)

    def rows(self, containers: list[SimulatedContainer]) -> Any:
        """Return the list's rows for these containers."""
        rows = self.change_rows([self._row(container) for container in containers])
        self.listed_rows.append(len(rows))
        return rows

    def _row(self, container: SimulatedContainer) -> dict[str, Any]:
        row = container.row(self.now())
        row["Status"] = container.status(self.now(), human_duration)
        if self.podman or tuple(map(int, self.api_version.split("."))) < (1, 52):
            del row["Health"]
        if self.podman and row["Status"].startswith("Up "):
            row["Status"] = row["Status"].partition(" (")[0]
        if self.containerd:
            row["ImageManifestDescriptor"] = {"digest": row["ImageID"]}
        return row


def _filters_and_limit(query: Mapping[str, str]) -> dict[str, Any]:
    """Return the filters of a list request, and its limit if it has one."""
    limit = {"limit": int(query["limit"])} if int(query.get("limit", -1)) > 0 else {}
    return {**json.loads(query.get("filters") or "{}"), **limit}


@contextmanager
def simulation(**options: Any) -> Iterator[Simulation]:
    """Yield a simulated engine that listens on its own socket."""
    with (
        TemporaryDirectory() as folder,
        Simulation(Path(folder, "docker.sock"), **options) as engine,
    ):
        yield engine


def settings_for(url: str, **options: Any) -> Settings:
    """Return the default settings with a longer timeout; `options` override them."""
    texts = {name: str(value) for name, value in options.items()}
    return read_settings({"docker_host": url, "docker_timeout": "10", **texts}, {})


def poller_for(url: str, stop: Event | None = None, **options: Any) -> Poller:
    """Return a poller of the engine at this address."""
    settings = settings_for(url, **options)
    engine = Engine(find_target(settings.docker_host, {}), settings.docker_timeout)
    return Poller(engine, settings, stop or Event())


def polled(url: str, **options: Any) -> Poller:
    """Return a poller that has polled the engine at this address once."""
    poller = poller_for(url, **options)
    poller.poll()
    return poller


def answers(status: str, body: bytes | str, *headers: str) -> Fault:
    """Return a fault: the engine answers with this status, body and headers."""
    raw = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(raw)}",
        "Connection: close",
        *headers,
        "",
        "",
    ]
    return says("\r\n".join(lines).encode() + raw)


def answers_json(value: Any) -> Fault:
    """Return a fault: the engine answers 200 with this value as JSON."""
    return answers("200 OK", json.dumps(value), "Content-Type: application/json")


def says(raw: bytes) -> Fault:
    """Return a fault: the engine sends these bytes and closes the connection."""
    return lambda connection: connection.sendall(raw)


def hangs(first: bytes = b"") -> Fault:
    """Return a fault: the engine sends these bytes, then nothing until the client closes the connection."""

    def fault(connection: socket.socket) -> None:
        connection.sendall(first)
        with suppress(OSError):
            connection.recv(1)

    return fault


def drips(raw: bytes, every: float = 0.1) -> Fault:
    """Return a fault: the engine sends these bytes one by one, then repeats the last one."""

    def fault(connection: socket.socket) -> None:
        with suppress(OSError):
            for byte in raw:
                connection.sendall(bytes([byte]))
                time.sleep(every)
            while True:
                connection.sendall(raw[-1:])
                time.sleep(every)

    return fault


def resets(connection: socket.socket) -> None:
    """Close the connection without an answer. The function itself is a fault."""
    connection.shutdown(socket.SHUT_RDWR)


DENIED = answers("403 Forbidden", "<html>Forbidden</html>")
"""A fault: a proxy denies a request."""
