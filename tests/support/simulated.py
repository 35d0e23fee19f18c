"""The simulated engine, set up for tests: a stage whose containers a test can change at any time."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from docker_prom_exporter.demo import WATCH, SimulatedContainer, SimulatedEngine
from docker_prom_exporter.engine import Engine
from docker_prom_exporter.engine.client import find_target
from docker_prom_exporter.poller import Poller
from docker_prom_exporter.settings import Settings, read_settings

Fault = Callable[[socket.socket], object]


class Stage:
    """A simulated engine's containers by name."""

    def __init__(self) -> None:
        self.containers: dict[str, SimulatedContainer] = {}

    def add(self, name: str, **what: Any) -> SimulatedContainer:
        """Add a watched container that started a minute ago."""
        began = time.time() - 60
        container = SimulatedContainer(name, **{"labels": WATCH, "created": began, "started": began, **what})
        self.containers[name] = container
        return container

    def change(self, name: str, **what: Any) -> None:
        """Change a container."""
        self.containers[name] = replace(self.containers[name], **what)


class Simulation(SimulatedEngine):
    """A simulated engine with its stage."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.stage = Stage()
        super().__init__(path, lambda: list(self.stage.containers.values()), **options)


@contextmanager
def simulation(**options: Any) -> Iterator[Simulation]:
    """Yield a listening simulated engine on a socket of its own."""
    with TemporaryDirectory() as folder, Simulation(Path(folder, "docker.sock"), **options) as engine:
        yield engine


def settings_for(url: str, **options: Any) -> Settings:
    """Return the defaults but for a short timeout and what is given."""
    texts = {name: str(value) for name, value in options.items()}
    return read_settings({"docker_host": url, "docker_timeout": "2", "poll_interval": "0.5", **texts}, {})


def poller_for(url: str, stop: Event | None = None, **options: Any) -> Poller:
    """Return a poller of the engine at this address."""
    settings = settings_for(url, **options)
    engine = Engine(find_target(settings.docker_host, {}), settings.docker_timeout)
    return Poller(engine, settings, stop or Event())


def answers(status: str, body: bytes | str, *headers: str) -> Fault:
    """Return a fault: the engine answers just this."""
    raw = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(raw)}", "Connection: close", *headers, "", ""]
    return says("\r\n".join(lines).encode() + raw)


def answers_json(value: Any) -> Fault:
    """Return a fault: the engine answers 200 with this."""
    return answers("200 OK", json.dumps(value), "Content-Type: application/json")


def says(raw: bytes) -> Fault:
    """Return a fault: the engine sends these bytes and closes."""
    return lambda connection: connection.sendall(raw)


def hangs(first: bytes = b"") -> Fault:
    """Return a fault: the engine sends these bytes, then nothing until the client gives up."""

    def fault(connection: socket.socket) -> None:
        connection.sendall(first)
        with suppress(OSError):
            connection.recv(1)

    return fault


def drips(raw: bytes, every: float = 0.1) -> Fault:
    """Return a fault: the engine sends these bytes one by one, then the last again and again."""

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
    """Be a fault: the engine closes without a word."""
    connection.shutdown(socket.SHUT_RDWR)
