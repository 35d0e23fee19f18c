"""Prometheus, Pushgateway and node_exporter as servers on free ports of this machine."""

import json
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError

from support.expositions import Scrape, parse
from support.missing import require_program
from support.ports import free_port
from support.processes import Command, Daemon
from support.real import cache
from support.waiting import wait_for


class Server:
    """One of the programs. A test may kill it, pause it and start it again on the same port."""

    def __init__(
        self, program: str, folder: Path, *options: str, scheme: str = "http"
    ) -> None:
        port = free_port()
        self.url = f"{scheme}://127.0.0.1:{port}"
        path = require_program(program)
        self.command = Command([path, f"--web.listen-address=127.0.0.1:{port}", *options], {})
        self.daemon = Daemon(folder / f"{Path(program).name}.log")

    def start(self) -> None:
        """Start the program and return once it is ready; with TLS, once it accepts connections."""
        self.daemon.start(self.command)
        wait_for(self._listens, what=f"{self.url} to listen")
        if self.url.startswith("http:"):
            wait_for(self._is_ready, what=f"{self.url} to be ready")

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, ca_file: Path | None = None
    ) -> str:
        """Return the body of a response."""
        request = urllib.request.Request(f"{self.url}{path}", headers=dict(headers or {}))
        context = ssl.create_default_context(cafile=ca_file) if ca_file else None
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            body: bytes = response.read()
        return body.decode()

    def metrics(
        self, headers: Mapping[str, str] | None = None, ca_file: Path | None = None
    ) -> Scrape:
        """Return a scrape of the program's `/metrics`."""
        return parse(self.get("/metrics", headers, ca_file))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query; only Prometheus answers queries."""
        answer = self.get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        result: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
        return result

    def _is_ready(self) -> bool:
        """Whether `/-/ready` answers anything but 503, such as 404 if a program has no such path."""
        try:
            self.get("/-/ready")
        except HTTPError as error:
            with error:
                return error.code != 503
        return True

    def _listens(self) -> bool:
        if not self.daemon.running:
            raise ChildProcessError(f"{self.command.argv[0]} ended: {self.daemon.log_tail()}")
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", int(self.url.rpartition(":")[2]))) == 0


AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Start the server and yield it; kill it afterwards."""
    server.start()
    try:
        yield server
    finally:
        server.daemon.kill()


# The Pushgateways that `tests/run` unpacks.
OLDER_PUSHGATEWAY = str(cache() / "pushgateway-1.5/usr/bin/prometheus-pushgateway")
NEWER_PUSHGATEWAY = str(cache() / "pushgateway/usr/bin/prometheus-pushgateway")


def pushgateway(
    folder: Path, *options: str, scheme: str = "http", program: str = OLDER_PUSHGATEWAY
) -> Server:
    """Return a Pushgateway that keeps its groups in memory only."""
    return Server(program, folder, "--persistence.file=", *options, scheme=scheme)


def node_exporter(folder: Path, textfiles: Path) -> Server:
    """Return a node_exporter that exports nothing but the text files."""
    only = ("--collector.disable-defaults", "--collector.textfile")
    return Server(
        "prometheus-node-exporter",
        folder,
        *only,
        f"--collector.textfile.directory={textfiles}",
    )


def prometheus(folder: Path, config: str) -> Server:
    """Return a Prometheus with this configuration."""
    file = folder / "prometheus.yml"
    file.write_text(config)
    storage = f"--storage.tsdb.path={folder / 'data'}"
    return Server("prometheus", folder, f"--config.file={file}", storage, "--log.level=warn")


@contextmanager
def scraping(folder: Path, url: str, **options: Any) -> Iterator[Server]:
    """Yield a Prometheus that has scraped this exporter; `options` are those of the scrape job."""
    target = {"targets": [urllib.parse.urlsplit(url).netloc]}
    job = {
        "job_name": "docker",
        "scrape_interval": "1s",
        "static_configs": [target],
        **options,
    }
    with running(prometheus(folder, json.dumps({"scrape_configs": [job]}))) as server:
        wait_for(lambda: server.query("up == 1"), what="Prometheus to scrape the exporter")
        yield server
