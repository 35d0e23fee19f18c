"""Names, HELP and labels of every metric of a registry's storage; `Contents` to families."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import GaugeMetricFamily

from docker_prom_exporter.metrics import build_info
from docker_prom_exporter.registry.manifests import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from docker_prom_exporter.registry.storage import Contents

    Sample = tuple[tuple[str, ...], float]


class _Gauge(NamedTuple):
    """A metric family: its name, its HELP, and its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def of(self, samples: Iterable[Sample]) -> Metric:
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family


TAGS = _Gauge("repository_tags_total", "Tags of the repository.", ("repository",))
REVISIONS = _Gauge(
    "repository_revisions_total", "Manifests that the repository links, tagged or not.", ("repository",)
)
TAG_LAYERS = _Gauge(
    "repository_tag_layers_total",
    "Different layers of the tag; of an index those of all that it names.",
    ("repository", "tag"),
)
TAG_SIZE = _Gauge(
    "repository_tag_size_bytes",
    "Size of the tag's layers as the manifest says, each counted once.",
    ("repository", "tag"),
)
TAG_PUSHED = _Gauge(
    "repository_tag_pushed_timestamp_seconds",
    "When the tag was last pushed: the modification time of its link.",
    ("repository", "tag"),
)
SIZE = _Gauge(
    "repository_size_bytes",
    "Bytes on disk that the repository's usable tags hold: manifests, configs and layers, each blob once.",
    ("repository",),
)
BLOB_BYTES = _Gauge(
    "docker_registry_blob_bytes",
    "Bytes of blobs by what holds them: a tag, only untagged manifests, or nothing, "
    "which garbage-collect removes.",
    ("referenced_by",),
)
UPLOAD_BYTES = _Gauge("docker_registry_upload_bytes", "Bytes of uploads that were begun and not finished.")
SCAN_ERRORS = _Gauge(
    "docker_registry_scan_errors",
    "Tags, and manifests that no tag leads to, which the last scan could not use, by reason.",
    ("reason",),
)
UP = _Gauge(
    "docker_registry_up",
    "Whether the last scan read the storage (1), or did not or is too old to trust (0).",
)
SCAN_DURATION = _Gauge("docker_registry_scan_duration_seconds", "How long the last scan took.")
LAST_SCAN = _Gauge(
    "docker_registry_last_scan_timestamp_seconds",
    "When the last scan that read the storage ended; 0 before the first.",
)


def up_family(*, up: bool) -> Metric:
    """Return whether the storage could be read."""
    return UP.of([((), up)])


def scan_families(duration: float, last_scan: float) -> list[Metric]:
    """Return what there is to say of the exporter: seconds, and a Unix time."""
    return [
        build_info(),
        SCAN_DURATION.of([((), duration)]),
        LAST_SCAN.of([((), last_scan)]),
    ]


def contents_families(contents: Contents) -> list[Metric]:
    """Return what there is to say of a storage."""
    repositories = contents.repositories
    tags = [((each.name, tag.name), tag) for each in repositories for tag in each.tags]
    errors = dict.fromkeys(REASONS, 0)
    for unusable in contents.unusable:
        errors[unusable.defect.reason] += 1
    return [
        TAGS.of(((each.name,), len(each.tags)) for each in repositories),
        REVISIONS.of(((each.name,), each.revisions) for each in repositories),
        SIZE.of(((each.name,), each.size) for each in repositories),
        TAG_LAYERS.of((labels, tag.layers) for labels, tag in tags if tag.layers is not None),
        TAG_SIZE.of((labels, tag.size) for labels, tag in tags if tag.size is not None),
        TAG_PUSHED.of((labels, tag.pushed) for labels, tag in tags if tag.pushed is not None),
        BLOB_BYTES.of(((holder,), size) for holder, size in contents.blob_bytes.items()),
        UPLOAD_BYTES.of([((), contents.upload_bytes)]),
        SCAN_ERRORS.of(((reason,), count) for reason, count in errors.items()),
    ]
