"""Parsed expositions: samples by name and labels, or all samples of one container."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from support.simulated import poller_for

Sample = tuple[str, frozenset[tuple[str, str]]]

_PROBES = "docker_container_health_"
_OF_PROBES = re.compile(f"{_PROBES}(last_probe_.*|interval_seconds|timeout_seconds|retries)")

# Families whose value is a label: the sample with the current value is 1.
_VALUE_LABELS = {
    "docker_container_state": "state",
    "docker_container_health_status": "status",
    "docker_container_restart_policy": "policy",
}

_LEFT_OUT = ("_info", "_timestamp_seconds")


@dataclass(frozen=True)
class Scrape:
    """One exposition: the value of each sample, by its name and labels."""

    samples: Mapping[Sample, float]

    def value(self, name: str, /, **labels: str) -> float | None:
        """Return the value of the only sample that has these labels; None if there is no such sample."""
        wanted = labels.items()
        values = [
            value
            for (found, its), value in self.samples.items()
            if found == name and wanted <= its
        ]
        if len(values) > 1:
            raise ValueError(f"{len(values)} samples {name} have the labels {labels}")
        return values[0] if values else None

    def by(self, label: str, name: str) -> dict[str, float]:
        """Return the values of all samples with this name, by the value of one label."""
        return {
            dict(labels)[label]: value
            for (found, labels), value in self.samples.items()
            if found == name
        }

    def container(self, name: str) -> dict[str, float | str | None]:
        """Return the values of a container's samples, by family name without `docker_container_`.

        For state, health status and restart policy it is the label whose sample is 1; None if
        all are 0. `info`, timestamps, and what `probes` returns are left out.
        """
        said: dict[str, float | str | None] = {}
        for (family, labels), value in self.samples.items():
            mine = dict(labels)
            if mine.get("name") != name or family.endswith(_LEFT_OUT):
                continue
            if _OF_PROBES.fullmatch(family):
                continue
            key = family.removeprefix("docker_container_")
            if label := _VALUE_LABELS.get(family):
                said[key] = mine[label] if value == 1 else said.get(key)
            else:
                said[key] = value
        return said

    def probes(self, name: str) -> dict[str, float]:
        """Return a container's last probe and settings of the healthcheck.

        By family name without `docker_container_health_`.
        """
        said = {}
        for (family, labels), value in self.samples.items():
            if dict(labels).get("name") == name and _OF_PROBES.fullmatch(family):
                said[family.removeprefix(_PROBES)] = value
        return said


def parse(exposition: str) -> Scrape:
    """Parse an exposition in Prometheus's text format; raise ValueError for a duplicate sample."""
    samples: dict[Sample, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            if key in samples:
                raise ValueError(f"duplicate sample: {key}")
            samples[key] = sample.value
    return Scrape(samples)


def without_process(exposition: str) -> str:
    """Remove prometheus-client's process metrics, which change from one scrape to the next."""
    of_the_process = re.compile(r"(# (HELP|TYPE) )?(process_|python_info)")
    lines = exposition.split("\n")
    return "\n".join(line for line in lines if not of_the_process.match(line))


def scraper(url: str, **options: Any) -> Callable[[], Scrape]:
    """Return a function that polls the engine at this address and returns a scrape of the result."""
    poller = poller_for(url, **options)
    exposition, metrics = Exposition(), SnapshotMetrics(poller.settings.container_labels)

    def scrape() -> Scrape:
        exposition.publish(metrics.families_of(poller.poll()))
        return parse(b"".join(exposition.render().body).decode())

    return scrape
