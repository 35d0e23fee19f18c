"""Short ways to the things the unit tests are about; what a test doesn't name is nothing special."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

from docker_prom_exporter.containers import Container, Details
from docker_prom_exporter.snapshot import EngineInfo, Snapshot

DOCKER = EngineInfo("Docker", "29.1.0", "1.52", "linux", "amd64", health_listed=True)


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of `/containers/json` as API 1.52 has it, of a running container without a healthcheck."""
    plain = {
        "Id": "4c01db0b339c" + 52 * "0",
        "Names": ["/web"],
        "Image": "nginx:1.27",
        "Created": 1714979000,
        "Labels": {},
        "State": "running",
        "Status": "Up 5 minutes",
        "Health": {"Status": "none", "FailingStreak": 0},
    }
    return plain | changes


def old_row(**changes: Any) -> dict[str, Any]:
    """Return a row as before API 1.52, and as Podman's: without `Health`."""
    old = row(**changes)
    del old["Health"]
    return old


def inspect(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an answer of `/containers/{id}/json` for a container whose `State` is, or adds, `state`."""
    return {"RestartCount": 0, "State": {"Status": "running"} | state} | changes


def details(**changes: Any) -> Details:
    """Return what an inspect says of a running container without a healthcheck."""
    plain = Details(
        state="running",
        health_status="none",
        started=1714979289.5,
        finished=None,
        restarts=0,
        exit_code=None,
        oom_killed=False,
        failing_streak=None,
    )
    return plain._replace(**changes)


def container(name: str = "web", **changes: Any) -> Container:
    """Return a running container without a healthcheck, its id made of its name, as the list tells it."""
    plain = Container(
        id=sha256(name.encode()).hexdigest()[:12],
        name=name,
        image="nginx:1.27",
        compose_project="",
        compose_service="",
        state="running",
        health_status="none",
        created=1714979000.0,
    )
    return plain._replace(**changes)


def snapshot(*containers: Container, **changes: Any) -> Snapshot:
    """Return what a poll of a Docker that is well found: it ended at 100 and is trusted until 120."""
    plain = Snapshot(
        ended=100.0,
        trusted_for=20.0,
        up=True,
        listed=True,
        engine=DOCKER,
        containers=containers,
        seen=len(containers),
        duration=0.25,
        last_success=1714980000.0,
    )
    return replace(plain, **changes)


def gallery() -> tuple[Container, ...]:
    """Return one container in each state worth a look."""
    stale: dict[str, Any] = {"health_status": "unhealthy", "failing_streak": 0}
    return (
        container(
            "healthy",
            health_status="healthy",
            compose_project="shop",
            compose_service="web",
            details=details(health_status="healthy", failing_streak=0, restarts=2, finished=1714979280.0),
        ),
        container(
            "unhealthy",
            health_status="unhealthy",
            details=details(health_status="unhealthy", failing_streak=3),
        ),
        container(
            "starting",
            health_status="starting",
            details=details(health_status="starting", failing_streak=0),
        ),
        container("alive", details=details()),
        container("not_inspected", health_status="healthy"),
        container("health_untold", health_status=None),
        container("state_untold", state="", health_status="healthy"),
        container(
            "paused", state="paused", health_status="unhealthy", details=details(state="paused", **stale)
        ),
        container(
            "out_of_memory",
            state="exited",
            health_status="unhealthy",
            details=details(state="exited", exit_code=137, oom_killed=True, finished=1714979300.25, **stale),
        ),
        container("crash_loop", state="restarting", details=details(state="restarting", restarts=7)),
        container("created", state="created", created=None, details=details(state="created", started=None)),
        container("removing", state="removing"),
        container("dead", state="dead", details=details(state="dead", exit_code=0)),
        container('a "quoted" \\ name\nof two lines', image="ümläut:1"),
    )
