"""Snapshots of a poll that has just ended, and the exporter's web server that serves them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from docker_prom_exporter.containers import Container, Details
from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from docker_prom_exporter.snapshot import Snapshot
from docker_prom_exporter.web import App, BearerToken, BoundedServer, Site, StatusPage, listen
from support import builders

BROWSER = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
)
"""The header `Accept` of Chromium."""


def details(**what: Any) -> Details:
    """Return the details of a container that started a minute ago; `what` overrides them."""
    return builders.details(**{"started": time.time() - 60, "restart_policy": "no", **what})


def container(
    name: str, state: str = "running", health: str | None = "none", **what: Any
) -> Container:
    """Return a container with details; `what` overrides the details, or replaces them as `details`."""
    return builders.container(
        name,
        state=state,
        health_status=health,
        compose_project=what.pop("project", ""),
        compose_service=what.pop("service", ""),
        created_ns=int(time.time() - 86400) * 10**9,
        details=what.pop("details") if "details" in what else details(**what),
    )


def snapshot(*containers: Container, **what: Any) -> Snapshot:
    """Return the snapshot of a poll that has just ended; `what` overrides its fields."""
    usual: dict[str, Any] = {
        "ended": time.monotonic(),
        "since": time.time() - 3600,
        "unwatched": 0,
        "duration": 0.012,
        "last_success": time.time(),
    }
    return builders.snapshot(*containers, **{**usual, **what})


PAGE = StatusPage(snapshot, poll_interval=5, only_labelled=True, details=True)


@contextmanager
def serving(take: Callable[[], Snapshot], token: BearerToken | None = None) -> Iterator[str]:
    """Yield the address of a web server; its page shows what `take` returns, its metrics the first result."""
    exposition = Exposition()
    exposition.publish(SnapshotMetrics().families_of(take()))
    site = Site(exposition, lambda: True, lambda: True, replace(PAGE, take=take))
    listener = listen("127.0.0.1", 0)
    server = BoundedServer(listener, App(site, "ConnectInfo", token))
    server.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.stop()
