"""Containers: states, probes and health, parsed from a list row or an inspect answer. Pure."""

from docker_prom_exporter.containers.model import (
    DOUBTS,
    HEALTH_STATUSES,
    LABEL,
    NANOSECONDS,
    RESTART_POLICIES,
    STATES,
    Container,
    ContainerHealth,
    Details,
    Doubt,
    Healthcheck,
    Probe,
    Row,
)
from docker_prom_exporter.containers.parsing import (
    parse_inspect,
    parse_row,
    stores_images_in_containerd,
)

__all__ = [
    "DOUBTS",
    "HEALTH_STATUSES",
    "LABEL",
    "NANOSECONDS",
    "RESTART_POLICIES",
    "STATES",
    "Container",
    "ContainerHealth",
    "Details",
    "Doubt",
    "Healthcheck",
    "Probe",
    "Row",
    "parse_inspect",
    "parse_row",
    "stores_images_in_containerd",
]
