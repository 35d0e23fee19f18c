"""A real Prometheus stores the exporter's samples."""

import json
from pathlib import Path

from docker_prom_exporter.demo import WATCH
from support.exporters import exporter
from support.expositions import Sample, Scrape
from support.prometheus import Server, scraping
from support.real import Engine

AWKWARD = 'a "quoted" \\ back\\nslash,\nsecond line {} = 🐳 ümläut'


def ask(server: Server, query: str) -> dict[Sample, float]:
    """Return the samples of an instant query, without the labels that Prometheus adds."""
    found: dict[Sample, float] = {}
    for series in server.query(query):
        labels = series["metric"]
        kept = {name: labels[name] for name in labels.keys() - {"__name__", "instance", "job"}}
        found[labels.get("__name__", ""), frozenset(kept.items())] = float(series["value"][1])
    return found


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
        scraping(tmp_path, running.url) as server,
    ):
        said = stored_form(running.metrics())
        stored = ask(
            server, '{__name__=~"docker_.*|container_.*",__name__!~"docker_exporter_.*"}'
        )
        healths = ask(server, "max by (name) (container_health)")
        awkward = ask(
            server,
            f"docker_container_info{{compose_project={json.dumps(AWKWARD, ensure_ascii=False)}}}",
        )

    assert said == stored
    assert {"healthy": 4, "unhealthy": 3, "ended": 1} == {
        dict(labels)["name"]: value for (_, labels), value in healths.items()
    }
    assert [("healthy", AWKWARD, '"\\')] == [
        tuple(dict(labels)[key] for key in ("name", "compose_project", "compose_service"))
        for _, labels in awkward
    ]
