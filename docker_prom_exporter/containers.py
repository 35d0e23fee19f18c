"""Owns what a container is here: its states and health, and how an engine's answers become one. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from docker_prom_exporter.booleans import parse_boolean

STATES: Final = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
"""Docker's own states; moby, `container/state.go`."""

HEALTH_STATUSES: Final = ("none", "starting", "healthy", "unhealthy")
"""Docker's own verdicts of a healthcheck."""

LABEL: Final = "docker-prometheus-exporter.metric.container_health.enabled"
"""The label that has a container watched or not."""

_ENDED: Final = ("exited", "dead")
_AGELESS: Final = ("created", "removing", "dead")

# Podman's list may leak its own states (libpod/define/containerstate.go).
_STATES: Final = {
    **{state: state for state in STATES},
    "configured": "created",
    "initialized": "created",
    "stopped": "exited",
    "stopping": "exited",
}

# `reset` is Podman's for a healthcheck that has not run since the container started.
_HEALTH_STATUSES: Final = {**{status: status for status in HEALTH_STATUSES}, "": "none", "reset": "starting"}

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HEALTH_SUFFIX = re.compile(r"^Up .*\((?:health: )?([a-z]+)\)$")
_AGE = re.compile(
    r"\bLess than a second"
    r"|\b(?:About an? |(?P<count>\d{1,9}) )(?P<unit>second|minute|hour|day|week|month|year)s?"
)
_SECONDS: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86400,
    "week": 7 * 86400,
    "month": 30 * 86400,
    "year": 365 * 86400,
}


class ContainerHealth(IntEnum):
    """The value of `container_health`."""

    UNKNOWN = 0
    STOPPED = 1
    ALIVE = 2
    UNHEALTHY = 3
    HEALTHY = 4


_HEALTH_WHILE_RUNNING: Final = {
    "none": ContainerHealth.ALIVE,
    "unhealthy": ContainerHealth.UNHEALTHY,
    "healthy": ContainerHealth.HEALTHY,
}


class Details(NamedTuple):
    """What only `/containers/{id}/json` says of a container, as of the time it was asked.

    Times are Unix seconds, and `None` where the engine's time is zero. `state` is the one the engine named
    in the same answer; `exit_code` is `None` in every state but `exited` and `dead`. `failing_streak` is
    `None` without a healthcheck.
    """

    state: str
    health_status: str | None
    started: float | None
    finished: float | None
    restarts: int
    exit_code: int | None
    oom_killed: bool
    failing_streak: int | None


class Container(NamedTuple):
    """A container as one poll found it.

    `state` is one of `STATES`, or empty where the engine named none of them. `health_status` is one of
    `HEALTH_STATUSES`, or `None` where the engine's answer does not tell; it means something only while the
    container runs, because moby sets it to `unhealthy` when one stops, pauses or restarts. `created` is in
    Unix seconds.
    """

    id: str
    name: str
    image: str
    compose_project: str
    compose_service: str
    state: str
    health_status: str | None
    created: float | None
    details: Details | None = None

    @property
    def running(self) -> bool:
        """Whether its processes run: not while it is paused or between two restarts."""
        return self.state == "running"

    @property
    def health(self) -> ContainerHealth:
        """What `container_health` says of it."""
        if self.running and self.health_status is not None:
            return _HEALTH_WHILE_RUNNING.get(self.health_status, ContainerHealth.UNKNOWN)
        if self.running or not self.state:
            return ContainerHealth.UNKNOWN
        return ContainerHealth.STOPPED

    def with_details(self, details: Details) -> Container:
        """Return it with what an inspect added; with an exit code only if the list, too, says it ended."""
        if details.exit_code is not None and self.state not in _ENDED:
            details = details._replace(exit_code=None)
        return self._replace(details=details)


class Row(NamedTuple):
    """One row of `/containers/json`.

    `fingerprint` is all of the row that an inspect's answer depends on, but for the age that moby writes
    into `Status` (`Up 5 minutes`). `min_age` is the least that age can be, in seconds: for so long the
    container has not been started or stopped; infinite for a state that no start or stop leads back to.
    `health_hidden` says that the engine's list does not tell the health of a running container. `label` is
    the raw value of `LABEL`, `None` without.
    """

    container: Container
    fingerprint: tuple[Any, ...]
    min_age: float
    health_hidden: bool
    label: str | None

    def with_health_of(self, details: Details) -> Container:
        """Return the container with the health an inspect told, provided it was running then, too."""
        health_status = details.health_status if details.state == "running" else None
        return self.container._replace(health_status=health_status)


def is_watched(label: str | None, *, only_labelled: bool) -> bool:
    """Tell whether a container with this value of `LABEL` is reported; one that is no boolean is as none."""
    enabled = None if label is None else parse_boolean(label)
    return enabled is True or (enabled is None and not only_labelled)


def read_row(row: Any, *, health_listed: bool) -> Row | None:
    """Read one row of `/containers/json`; `None` for one that names no container.

    `health_listed` says whether this kind of engine tells a running container's health in the list: Docker
    does, in `Health` from API 1.52 on and in the suffix of `Status` in every version; Podman does not.
    """
    fields = _mapping(row)
    container_id = fields.get("Id")
    if not isinstance(container_id, str) or not _ID.fullmatch(container_id):
        return None
    labels = _mapping(fields.get("Labels"))
    state = _state(fields.get("State"))
    status = as_text(fields.get("Status"))
    summary, suffix, min_age = _read_status(status)
    verdict = _verdict(fields.get("Health"))
    health_status = suffix if verdict == "" else _health_status(verdict)
    health_hidden = verdict == "" and not health_listed
    label = labels.get(LABEL)
    return Row(
        container=Container(
            id=container_id,
            name=_own_name(fields.get("Names")) or container_id[:12],
            image=as_text(fields.get("Image")),
            compose_project=as_text(labels.get("com.docker.compose.project")),
            compose_service=as_text(labels.get("com.docker.compose.service")),
            state=state,
            health_status=None if health_hidden else health_status,
            created=_number(fields.get("Created")),
        ),
        fingerprint=(state, summary, health_status, _streak(fields)),
        min_age=math.inf if state in _AGELESS else min_age,
        health_hidden=health_hidden and state == "running",
        label=None if label is None else as_text(label),
    )


def read_inspect(answer: Any) -> Details:
    """Read the answer of `/containers/{id}/json`; what is missing or nonsense in it is left out."""
    fields = _mapping(answer)
    status = _mapping(fields.get("State"))
    state = _state(status.get("Status"))
    health_status = _health_status(_verdict(status.get("Health")))
    exit_code = _number(status.get("ExitCode"))
    streak = _streak(status)
    return Details(
        state=state,
        health_status=health_status,
        started=_timestamp(status.get("StartedAt")),
        finished=_timestamp(status.get("FinishedAt")),
        restarts=max(0, int(_number(fields.get("RestartCount")) or 0)),
        exit_code=int(exit_code) if exit_code is not None and state in _ENDED else None,
        oom_killed=status.get("OOMKilled") is True,
        failing_streak=int(streak) if streak is not None and health_status != "none" else None,
    )


@lru_cache(maxsize=4096)
def _read_status(status: str) -> tuple[str, str | None, float]:
    """Take moby's `Status` apart: the text without its age, the health, the least age.

    `Up 5 minutes (healthy)` gives `("Up  (healthy)", "healthy", 300)`.
    """
    health = None
    if status.startswith("Up "):
        suffix = _HEALTH_SUFFIX.match(status)
        health = _health_status(suffix[1]) if suffix else _health_of_bare(status)
    age = _AGE.search(status)
    if age is None:
        return status, health, 0.0
    summary = status[: age.start()] + status[age.end() :]
    if age["unit"] is None:
        return summary, health, 0.0
    seconds = int(age["count"] or 1) * _SECONDS[age["unit"]]
    # go-units' HumanDuration cuts off, but rounds hours: from the second on, half of one may be missing.
    return summary, health, float(seconds - 1800 if seconds > 3600 else seconds)


def _health_of_bare(status: str) -> str | None:
    """Judge an `Up …` without a known suffix: no parenthesis, no healthcheck."""
    return None if status.endswith(")") else "none"


def _state(value: Any) -> str:
    return _STATES.get(as_text(value).lower(), "")


def _verdict(health: Any) -> Any:
    """Take the status out of a `Health`: empty where there is none, the nonsense itself where it is that."""
    status = health.get("Status") if isinstance(health, dict) else health
    return "" if status is None else status


def _streak(fields: dict[str, Any]) -> float | None:
    return _number(_mapping(fields.get("Health")).get("FailingStreak"))


def _health_status(verdict: Any) -> str | None:
    return _HEALTH_STATUSES.get(verdict.lower()) if isinstance(verdict, str) else None


def _own_name(names: Any) -> str:
    """Find the entry with one slash: a legacy link adds the other's alias, `/parent/alias`, in any order."""
    texts = [as_text(name).removeprefix("/") for name in names] if isinstance(names, list) else []
    return next((text for text in texts if text and "/" not in text), "")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_text(value: Any) -> str:
    """Take a string as it is, but for lone surrogates, which JSON can say and UTF-8 can't; else empty."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _timestamp(value: Any) -> float | None:
    """Read RFC 3339, nanoseconds cut to microseconds; Go's zero time and all before 1970 are none."""
    try:
        time = datetime.fromisoformat(as_text(value))
        return time.timestamp() if time.tzinfo and time > _EPOCH else None
    except (ValueError, OverflowError):
        return None
