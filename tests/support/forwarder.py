"""A proxy in front of an engine's socket that records the requests to the engine."""

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingUnixStreamServer
from tempfile import TemporaryDirectory
from threading import Thread


class Forwarder(ThreadingUnixStreamServer):
    """Forwards every byte in both directions and records each request; requests must have no body."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, engine: Path, listen: Path) -> None:
        self.engine = engine
        self.url = f"unix://{listen}"
        self.requests: list[str] = []
        super().__init__(str(listen), _Connection)

    def asked(self, during: Callable[[], object]) -> dict[str, int]:
        """Count requests `during` a call, by method and path without API version, query and container id."""
        before = len(self.requests)
        during()
        return dict(Counter(map(_endpoint, self.requests[before:])))


@contextmanager
def forwarder(engine: Path) -> Iterator[Forwarder]:
    """Yield a forwarder to the engine that listens on this socket."""
    with (
        TemporaryDirectory() as folder,
        Forwarder(engine, Path(folder, "docker.sock")) as server,
    ):
        Thread(
            target=server.serve_forever, args=(0.05,), name="forwarder", daemon=True
        ).start()
        yield server
        server.shutdown()


class _Connection(BaseRequestHandler):
    server: Forwarder
    request: socket.socket

    def handle(self) -> None:
        self._unread = b""
        with socket.socket(socket.AF_UNIX) as engine, suppress(OSError):
            engine.connect(str(self.server.engine))
            back = Thread(
                target=_copy, args=(engine, self.request, lambda _: None), daemon=True
            )
            back.start()
            _copy(self.request, engine, self._note)
            back.join()

    def _note(self, data: bytes) -> None:
        *heads, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for head in heads:
            self.server.requests.append(head.partition(b" HTTP/1.1\r\n")[0].decode())


def _copy(
    source: socket.socket, target: socket.socket, note: Callable[[bytes], object]
) -> None:
    """Copy bytes until one side has closed, then shut down both."""
    with suppress(OSError):
        while data := source.recv(65536):
            note(data)
            target.sendall(data)
    for side in (source, target):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def _endpoint(request: str) -> str:
    method, _, target = request.partition(" ")
    path = re.sub(r"^/v[\d.]+", "", target.partition("?")[0])
    return f"{method} {re.sub('^/containers/[^/]+/', '/containers/{id}/', path)}"
