"""Builders of rows, inspect answers, containers and snapshots, with defaults that a test can override."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

from docker_prom_exporter.containers import Container, Details, Healthcheck, Probe
from docker_prom_exporter.snapshot import EngineInfo, Snapshot

DOCKER = EngineInfo("Docker", "29.1.0", "1.52", "linux", "amd64")
CONTAINER_ID = "4c01db0b339c" + 52 * "0"
IMAGE_ID = "sha256:" + 64 * "a"
CREATED = 1714979000
_NANOSECONDS = 10**9


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of `/containers/json` in API 1.52, for a running container without a healthcheck."""
    plain = {
        "Id": CONTAINER_ID,
        "Names": ["/web"],
        "Image": "nginx:1.27",
        "ImageID": IMAGE_ID,
        "Created": CREATED,
        "Labels": {},
        "State": "running",
        "Status": "Up 5 minutes",
        "Health": {"Status": "none", "FailingStreak": 0},
    }
    return plain | changes


def old_row(**changes: Any) -> dict[str, Any]:
    """Return a row without `Health`, as before API 1.52 and on Podman."""
    old = row(**changes)
    del old["Health"]
    return old


def inspect(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an answer of `/containers/{id}/json` for the same container; `state` is merged into `State`."""
    plain = {
        "Id": CONTAINER_ID,
        "Name": "/web",
        "Image": IMAGE_ID,
        "Created": "2024-05-06T07:03:20Z",
        "RestartCount": 0,
        "State": {"Status": "running", "StartedAt": "2024-05-06T07:08:09.5Z"} | state,
        "Config": {"Image": "nginx:1.27", "Labels": {}},
        "HostConfig": {"RestartPolicy": {"Name": "always"}},
    }
    return plain | changes


def details(**changes: Any) -> Details:
    """Return the details of a running container without a healthcheck."""
    plain = Details(
        started=1714979289.5,
        finished=None,
        restarts=0,
        exit_code=None,
        oom_killed=False,
        failing_streak=None,
        restart_policy="always",
    )
    return plain._replace(**changes)


def container(name: str = "web", **changes: Any) -> Container:
    """Return a running container without a healthcheck or details; its id is derived from its name."""
    plain = Container(
        id=sha256(name.encode()).hexdigest()[:12],
        name=name,
        image="nginx:1.27",
        image_id=IMAGE_ID,
        compose_project="",
        compose_service="",
        state="running",
        health_status="none",
        created_ns=CREATED * _NANOSECONDS,
    )
    return plain._replace(**changes)


def snapshot(*containers: Container, **changes: Any) -> Snapshot:
    """Return the snapshot of a successful poll that ended at 100 and is trusted until 120."""
    plain = Snapshot(
        ended=100.0,
        trusted_for=20.0,
        up=True,
        listed=True,
        engine=DOCKER,
        containers=containers,
        duration=0.25,
        last_success=1714980000.0,
    )
    return replace(plain, **changes)


def gallery() -> tuple[Container, ...]:
    """Return a container for each case that the metrics distinguish; those with details have a label."""
    return tuple(
        each._replace(labels=("payments" if each.details else "",)) for each in _gallery()
    )


def _gallery() -> tuple[Container, ...]:
    return (
        container(
            "healthy",
            health_status="healthy",
            compose_project="shop",
            compose_service="web",
            details=details(
                failing_streak=0,
                restarts=2,
                finished=1714979280.0,
                healthcheck=Healthcheck(),
                probe=Probe(1714979998.5, 0.25, 0),
            ),
        ),
        container(
            "unhealthy",
            health_status="unhealthy",
            details=details(
                failing_streak=3,
                healthcheck=Healthcheck(interval=None, timeout=2.5, retries=2),
                probe=Probe(1714979999.75, 2.75, -1),
            ),
        ),
        container(
            "starting",
            health_status="starting",
            details=details(failing_streak=0, healthcheck=Healthcheck(5, 5, 5)),
        ),
        container(
            "pending",
            health_status="unhealthy",
            doubt="pending",
            details=details(failing_streak=1, healthcheck=Healthcheck()),
        ),
        container(
            "stalled",
            health_status="healthy",
            doubt="stalled",
            details=details(
                failing_streak=0, healthcheck=Healthcheck(), probe=Probe(1714979300, 0.5, 0)
            ),
        ),
        container(
            "alive",
            details=details(
                restart_policy="no", memory_limit=2**26, cpu_limit=1.5, pids_limit=100
            ),
        ),
        container("not_inspected", health_status="healthy"),
        container("health_untold", health_status=None),
        container("state_untold", state="", health_status="healthy"),
        container(
            "paused",
            state="paused",
            health_status="unhealthy",
            details=details(failing_streak=0),
        ),
        container(
            "out_of_memory",
            state="exited",
            health_status="unhealthy",
            details=details(
                exit_code=137, oom_killed=True, finished=1714979300.25, failing_streak=0
            ),
        ),
        container(
            "crash_loop",
            state="restarting",
            details=details(restarts=7, restart_policy="unless-stopped", exit_code=1),
        ),
        container(
            "created",
            state="created",
            created_ns=None,
            details=details(started=None, restart_policy="on-failure", start_failed=True),
        ),
        container("removing", state="removing"),
        container("dead", state="dead", details=details(exit_code=0, restart_policy=None)),
        container('a "quoted" \\ name\nof two lines', image="ümläut:1"),
    )
