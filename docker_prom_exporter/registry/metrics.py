"""Metrics of a registry's storage: name, HELP and labels; families of `Contents`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily, Sample

from docker_prom_exporter.metrics import build_info
from docker_prom_exporter.registry.repositories import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from docker_prom_exporter.registry.storage import Contents, Repository

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
    "Bytes on disk that usable tags hold: manifests, configs and layers, each blob once.",
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
    "What the last scan could not use, by reason: tags, and what no tag leads to.",
)
IS_CACHE: Final = (
    "docker_registry_is_cache",
    "Whether the storage is that of a pull-through cache, from which anything may be absent.",
)


def up_family(*, up: bool) -> Metric:
    """Return the family for whether the storage could be read."""
    return GaugeMetricFamily(*UP, up)


def scan_families(duration: float, last_scan: float) -> list[Metric]:
    """Return the families of scans: `duration` in seconds, `last_scan` in Unix time."""
    return [
        build_info(),
        GaugeMetricFamily(*SCAN_DURATION, duration),
        GaugeMetricFamily(*LAST_SCAN, last_scan),
    ]


def contents_families(contents: Contents) -> list[Metric]:
    """Return the families about a storage."""
    tags = GaugeMetricFamily(*TAGS, labels=["repository"])
    revisions = GaugeMetricFamily(*REVISIONS, labels=["repository"])
    sizes = GaugeMetricFamily(*SIZE, labels=["repository"])
    for repository in contents.repositories:
        tags.add_metric([repository.name], len(repository.tags))
        revisions.add_metric([repository.name], repository.revisions)
        sizes.add_metric([repository.name], repository.size)
    blob_bytes = GaugeMetricFamily(*BLOB_BYTES, labels=["referenced_by"])
    for holder, size in contents.blob_bytes.items():
        blob_bytes.add_metric([holder], size)
    scan_errors = GaugeMetricFamily(*SCAN_ERRORS, labels=["reason"])
    counts = Counter(unusable.defect.reason for unusable in contents.unusable)
    for reason in REASONS:
        scan_errors.add_metric([reason], counts[reason])
    return [
        tags,
        revisions,
        sizes,
        *_tag_families(contents.repositories),
        blob_bytes,
        GaugeMetricFamily(*UPLOAD_BYTES, contents.upload_bytes),
        scan_errors,
        GaugeMetricFamily(*IS_CACHE, contents.is_cache),
    ]


def _tag_families(repositories: Iterable[Repository]) -> list[Metric]:
    """Return the families with a sample for each tag; unknown values have none.

    The samples of a tag share their labels, which saves a fifth of the memory of all.
    """
    families: list[Metric] = [
        GaugeMetricFamily(*family) for family in (TAG_LAYERS, TAG_SIZE, TAG_PUSHED)
    ]
    for repository in repositories:
        for tag in repository.tags:
            labels = {"repository": repository.name, "tag": tag.name}
            values = (tag.layers, tag.size, tag.pushed)
            for family, value in zip(families, values, strict=True):
                if value is not None:
                    family.samples.append(Sample(family.name, labels, value))
    return families
