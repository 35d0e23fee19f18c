"""A real Prometheus stores the exporter's samples, and promtool accepts the exposition."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docker_prom_exporter.demo import WATCH
from support.exporters import exporter
from support.expositions import Sample, Scrape
from support.missing import require_program
from support.prometheus import Server, running
from support.real import Engine
from support.waiting import wait_for

AWKWARD = 'a "quoted" \\ back\\nslash,\nsecond line {} = 🐳 ümläut'


class Prometheus(Server):
    """A Prometheus that scrapes one exporter each second."""

    def ask(self, query: str) -> dict[Sample, float]:
        """Return the samples of an instant query, without the labels that Prometheus adds."""
        found: dict[Sample, float] = {}
        for series in self.query(query):
            labels = series["metric"]
            kept = {
                name: labels[name] for name in labels.keys() - {"__name__", "instance", "job"}
            }
            found[labels.get("__name__", ""), frozenset(kept.items())] = float(
                series["value"][1]
            )
        return found

    def last_error(self) -> str:
        """Return the error of Prometheus's last scrape; empty if it succeeded."""
        (target,) = json.loads(self.get("/api/v1/targets"))["data"]["activeTargets"]
        return str(target["lastError"])


@contextmanager
def prometheus(folder: Path, exporter_url: str) -> Iterator[Prometheus]:
    """Yield a Prometheus that has scraped this exporter."""
    target = {"targets": [urlsplit(exporter_url).netloc]}
    job = {"job_name": "docker", "scrape_interval": "1s", "static_configs": [target]}
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"scrape_configs": [job]}))
    options = f"--config.file={config}", f"--storage.tsdb.path={folder}/data"
    with running(Prometheus("prometheus", folder, *options)) as server:
        wait_for(
            lambda: 1 in server.ask("up").values(), what="Prometheus to scrape the exporter"
        )
        yield server


def stored_form(scrape: Scrape) -> dict[Sample, float]:
    """Return the samples about Docker as Prometheus stores them, without empty labels."""
    return {
        (name, frozenset(label for label in labels if label[1])): value
        for (name, labels), value in scrape.samples.items()
        if name.startswith(("docker_", "container_"))
        and not name.startswith("docker_exporter_")
    }


def test_prometheus_has_what_the_exporter_says(docker_26: Engine, tmp_path: Path) -> None:
    """Prometheus stores every sample that the exporter serves, and a query finds any label value."""
    compose = {"com.docker.compose.project": AWKWARD, "com.docker.compose.service": '"\\'}
    docker_26.run("healthy", health="healthy", labels=WATCH | compose)
    docker_26.run("unhealthy", health="unhealthy", labels=WATCH)
    docker_26.run("ended", command=["sh", "-c", "exit 3"], labels=WATCH)
    docker_26.await_state("ended", "exited")
    with (
        exporter(f"--docker-host={docker_26.url}", "--poll-interval=3600") as running,
        prometheus(tmp_path, running.url) as server,
    ):
        said = stored_form(running.metrics())
        stored = server.ask(
            '{__name__=~"docker_.*|container_.*",__name__!~"docker_exporter_.*"}'
        )
        healths = server.ask("max by (name) (container_health)")
        awkward = server.ask(
            f"docker_container_info{{compose_project={json.dumps(AWKWARD, ensure_ascii=False)}}}"
        )
        last_error = server.last_error()

    assert said == stored
    assert {"healthy": 4, "unhealthy": 3, "ended": 1} == {
        dict(labels)["name"]: value for (_, labels), value in healths.items()
    }
    assert [("healthy", AWKWARD, '"\\')] == [
        tuple(dict(labels)[key] for key in ("name", "compose_project", "compose_service"))
        for _, labels in awkward
    ]
    assert "" == last_error


@pytest.mark.parametrize("lost", [False, True], ids=["up", "lost"])
def test_promtool_is_silent_on_what_is_served(docker_26: Engine, *, lost: bool) -> None:
    """`promtool check metrics` reports nothing about the served exposition, with Docker up or lost."""
    promtool = require_program("promtool")
    docker_26.run(
        "web", health="healthy", labels=WATCH | {"com.docker.compose.project": AWKWARD}
    )
    with exporter(f"--docker-host={docker_26.url}") as running:
        if lost:
            docker_26.kill()
            wait_for(lambda: running.metrics().value("docker_up") == 0, what="docker_up 0")
        _, body = running.get("/metrics")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=body.encode(),
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
