"""A real Prometheus that scrapes an exporter in as many ways as it has jobs."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from support.missing import require_program
from support.processes import Command, Daemon
from support.waiting import wait_for

Job = Mapping[str, Any]


class Prometheus:
    """A running Prometheus, asked for what became of its scrapes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def last_errors(self) -> dict[str, str]:
        """Return what it has to say against the last scrape of each job; empty for one that went well."""
        return {target["scrapePool"]: target["lastError"] for target in self._targets()}

    def has_scraped(self) -> bool:
        """Whether it is there, and each job has been tried."""
        try:
            health = [target["health"] for target in self._targets()]
        except OSError:
            return False
        return health != [] and "unknown" not in health

    def _targets(self) -> list[dict[str, Any]]:
        with urlopen(f"{self._url}/api/v1/targets", timeout=10) as response:
            targets: list[dict[str, Any]] = json.load(response)["data"]["activeTargets"]
        return targets


@contextmanager
def prometheus(folder: Path, target: str, jobs: Mapping[str, Job]) -> Iterator[Prometheus]:
    """Yield a Prometheus that has scraped this address by each job, which has the job's own settings."""
    common = {"scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps({"scrape_configs": [{"job_name": name, **common, **job} for name, job in jobs.items()]})
    )
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = "127.0.0.1:{1}".format(*unused.getsockname())
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    daemon = Daemon(folder / "prometheus.log")
    argv = [require_program("prometheus"), *options, f"--web.listen-address={address}"]
    try:
        daemon.start(Command(argv, {}))
        server = Prometheus(f"http://{address}")
        wait_for(server.has_scraped, what="Prometheus to scrape the exporter", seconds=30)
        yield server
    finally:
        daemon.terminate()
