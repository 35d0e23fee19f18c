"""Metrics of the outlets and of `expire`: name, HELP and families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from docker_prom_exporter.exposition import Publication
from docker_prom_exporter.metrics import build_info, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Metric

_PUSHES: Final = (
    "docker_exporter_pushes_total",
    "Pushes to the Pushgateway, by result.",
)
_LAST_PUSH: Final = (
    "docker_exporter_last_push_timestamp_seconds",
    "When the last push that succeeded ended; 0 before the first.",
)
_WRITES: Final = (
    "docker_exporter_textfile_writes_total",
    "Writes of the text file, by result.",
)
_EXPIRED: Final = (
    "docker_exporter_groups_expired_total",
    "Groups deleted from the Pushgateway after they were not pushed for EXPIRE_AFTER.",
)
_GATEWAY_UP: Final = (
    "docker_exporter_gateway_up",
    "Whether the Pushgateway could be asked; 0 also if the last request is too old to trust.",
)


def push_families(results: Mapping[str, int], last: float) -> list[Metric]:
    """Return the pushes by result, and when the last one succeeded, in Unix seconds."""
    return [counter(_PUSHES, ("result",), results), gauge(_LAST_PUSH, last)]


def textfile_families(results: Mapping[str, int]) -> list[Metric]:
    """Return the writes of the text file by result."""
    return [counter(_WRITES, ("result",), results)]


def expiry_publication(*, up: bool, expired: int, trusted_until: float) -> Publication:
    """Return whether the gateway could be asked, and the number of deleted groups."""
    return Publication(
        families=[gauge(_GATEWAY_UP, up)],
        fallback=[gauge(_GATEWAY_UP, 0)],
        own=[build_info(), counter(_EXPIRED, (), {(): expired})],
        trusted_until=trusted_until,
    )
