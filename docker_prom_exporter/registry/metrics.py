"""Names, HELP and labels of the metrics of a registry's storage, and their families from `Contents`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily

from docker_prom_exporter.metrics import build_info
from docker_prom_exporter.registry.manifests import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from docker_prom_exporter.registry.storage import Contents

UP: Final = (
    "docker_registry_up",
    "Whether the last scan read the storage (1), or did not or is too old to trust (0).",
)
SCAN_DURATION: Final = (
    "docker_registry_scan_duration_seconds",
    "How long the last scan took.",
)
LAST_SCAN: Final = (
    "docker_registry_last_scan_timestamp_seconds",
    "When the last scan that read the storage ended; 0 before the first.",
)
TAGS: Final = ("repository_tags_total", "Tags of the repository.")
REVISIONS: Final = (
    "repository_revisions_total",
    "Manifests that the repository links, tagged or not.",
)
SIZE: Final = (
    "repository_size_bytes",
    "Bytes on disk that the repository's usable tags hold: manifests, configs and layers, each blob once.",
)
TAG_LAYERS: Final = (
    "repository_tag_layers_total",
    "Different layers of the tag; of an index those of all that it names.",
)
TAG_SIZE: Final = (
    "repository_tag_size_bytes",
    "Size of the tag's layers as the manifest says, each counted once.",
)
TAG_PUSHED: Final = (
    "repository_tag_pushed_timestamp_seconds",
    "When the tag was last pushed: the modification time of its link.",
)
BLOB_BYTES: Final = (
    "docker_registry_blob_bytes",
    (
        "Bytes of blobs by what holds them: a tag, only untagged manifests, or nothing, "
        "which garbage-collect removes."
    ),
)
UPLOAD_BYTES: Final = (
    "docker_registry_upload_bytes",
    "Bytes of uploads that were begun and not finished.",
)
SCAN_ERRORS: Final = (
    "docker_registry_scan_errors",
    "Tags, and manifests that no tag leads to, which the last scan could not use, by reason.",
)


def up_family(*, up: bool) -> Metric:
    """Return the family for whether the storage could be read."""
    return GaugeMetricFamily(*UP, up)


def scan_families(duration: float, last_scan: float) -> list[Metric]:
    """Return the families about the exporter; `duration` is in seconds, `last_scan` a Unix time."""
    return [
        build_info(),
        GaugeMetricFamily(*SCAN_DURATION, duration),
        GaugeMetricFamily(*LAST_SCAN, last_scan),
    ]


def contents_families(contents: Contents) -> list[Metric]:
    """Return the families about a storage."""
    repositories = contents.repositories
    tags = [(each.name, tag) for each in repositories for tag in each.tags]
    errors = Counter(unusable.defect.reason for unusable in contents.unusable)
    by_repository, by_tag = ("repository",), ("repository", "tag")
    return [
        _gauge(TAGS, by_repository, ((each.name, len(each.tags)) for each in repositories)),
        _gauge(
            REVISIONS, by_repository, ((each.name, each.revisions) for each in repositories)
        ),
        _gauge(SIZE, by_repository, ((each.name, each.size) for each in repositories)),
        _gauge(TAG_LAYERS, by_tag, ((name, tag.name, tag.layers) for name, tag in tags)),
        _gauge(TAG_SIZE, by_tag, ((name, tag.name, tag.size) for name, tag in tags)),
        _gauge(TAG_PUSHED, by_tag, ((name, tag.name, tag.pushed) for name, tag in tags)),
        _gauge(BLOB_BYTES, ("referenced_by",), contents.blob_bytes.items()),
        GaugeMetricFamily(*UPLOAD_BYTES, contents.upload_bytes),
        _gauge(SCAN_ERRORS, ("reason",), ((reason, errors[reason]) for reason in REASONS)),
    ]


def _gauge(
    family: tuple[str, str],
    labels: tuple[str, ...],
    samples: Iterable[tuple[*tuple[str, ...], float | None]],
) -> Metric:
    """Return a family. A sample is its label values and a value; it is left out if the value is None."""
    gauge = GaugeMetricFamily(*family, labels=labels)
    for *values, value in samples:
        if value is not None:
            gauge.add_metric(values, value)
    return gauge
