"""What a container is, and how a list row or an inspect answer becomes one. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from docker_prom_exporter.booleans import parse_boolean

if TYPE_CHECKING:
    from collections.abc import Mapping

STATES: Final = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
"""Docker's own states; moby, `container/state.go`."""

HEALTH_STATUSES: Final = ("none", "starting", "healthy", "unhealthy")
"""Docker's own verdicts of a healthcheck."""

RESTART_POLICIES: Final = ("no", "always", "unless-stopped", "on-failure")
"""Docker's own restart policies; an empty one is `no`."""

LABEL: Final = "docker-prometheus-exporter.metric.container_health.enabled"
"""The label that decides whether a container is watched."""

_ENDED: Final = ("exited", "dead")
_AGELESS: Final = ("created", "removing", "dead")

# Podman leaks states of its own (libpod/define/containerstate.go).
_STATES: Final = {
    **{state: state for state in STATES},
    "configured": "created",
    "initialized": "created",
    "stopped": "exited",
    "stopping": "running",
}

# `reset` is Podman's for a healthcheck that has not run since the container started.
_HEALTH_STATUSES: Final = {**{status: status for status in HEALTH_STATUSES}, "": "none", "reset": "starting"}

_NANOSECONDS: Final = 10**9
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_HEALTH_SUFFIX: Final = re.compile(r"^Up .*\((?:health: )?([a-z]+)\)$")
_AGE: Final = re.compile(
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
    """What only `/containers/{id}/json` says of a container.

    Times are Unix seconds, `None` where the engine's time is zero. `exit_code` is `None` in every state but
    `exited` and `dead`, `failing_streak` without a healthcheck. `restart_policy` is one of
    `RESTART_POLICIES`, or `None` for one that nobody knows.
    """

    started: float | None
    finished: float | None
    restarts: int
    exit_code: int | None
    oom_killed: bool
    failing_streak: int | None
    restart_policy: str | None


class Container(NamedTuple):
    """A container as one poll found it.

    `state` is one of `STATES`, or empty where the engine named none of them. `health_status` is one of
    `HEALTH_STATUSES`, or `None` where the engine's answer does not tell; it means something only while the
    container runs, because moby sets it to `unhealthy` when one stops, pauses or restarts. `created_ns` is in
    nanoseconds since 1970; from a list row it is a whole number of seconds. `watch_label` is the value of
    `LABEL`, `None` without; `labels` has the values of the labels that the user chose, in that order.
    """

    id: str
    name: str
    image: str
    image_id: str
    compose_project: str
    compose_service: str
    state: str
    health_status: str | None
    created_ns: int | None
    watch_label: str | None = None
    labels: tuple[str, ...] = ()
    details: Details | None = None

    @property
    def created(self) -> int | None:
        """When it was created, in whole Unix seconds."""
        return None if self.created_ns is None else self.created_ns // _NANOSECONDS

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

    def is_watched(self, *, only_labelled: bool) -> bool:
        """Tell whether it is reported. A label value that is no boolean counts as no label."""
        enabled = None if self.watch_label is None else parse_boolean(self.watch_label)
        return enabled is True or (enabled is None and not only_labelled)

    def without_verdict(self) -> Container:
        """Return it with nothing said of its state and health, for when the engine can't be asked."""
        return self._replace(state="", health_status=None, details=None)


class Row(NamedTuple):
    """What a row of `/containers/json` says beside the container.

    `summary` is `Status` without the age that moby writes into it (`Up 5 minutes`). `min_age` is the least
    that age can be, in seconds: for so long the container has not been started or stopped; infinite for a
    state that no start or stop leads back to. `failing_streak` is there from API 1.52 on. `described_image`:
    the engine looked the image up in the containerd image store, which makes a list expensive.
    """

    container: Container
    summary: str
    min_age: float
    failing_streak: int | None
    described_image: bool


def read_row(row: Any, label_keys: tuple[str, ...] = (), *, health_listed: bool = True) -> Row | None:
    """Read one row of `/containers/json`; `None` for one that names no container.

    `health_listed` says whether this kind of engine lists a running container's health: Docker does, in
    `Health` from API 1.52 on and in the suffix of `Status` in every version; Podman before 6 does not.
    """
    container = read_container(row, label_keys, health_listed=health_listed)
    if container is None:
        return None
    summary, _, min_age = _read_status(as_text(row.get("Status")))
    streak = _streak(row)
    return Row(
        container=container,
        summary=summary,
        min_age=math.inf if container.state in _AGELESS else min_age,
        failing_streak=streak if container.health_status != "none" else None,
        described_image="ImageManifestDescriptor" in row,
    )


def read_container(
    answer: Any, label_keys: tuple[str, ...] = (), *, health_listed: bool = True
) -> Container | None:
    """Read a list row or an inspect answer; `None` for one that names no container.

    What is missing or nonsense in it is left out. An inspect has details, a row has none.
    """
    fields = _mapping(answer)
    container_id = fields.get("Id")
    if not isinstance(container_id, str) or not _ID.fullmatch(container_id):
        return None
    inspected = isinstance(fields.get("State"), dict)
    labels = _mapping(_mapping(fields.get("Config")).get("Labels") if inspected else fields.get("Labels"))
    watch_label = labels.get(LABEL)
    said = _inspect_fields(fields) if inspected else _row_fields(fields, health_listed=health_listed)
    return Container(
        id=container_id,
        compose_project=as_text(labels.get("com.docker.compose.project")),
        compose_service=as_text(labels.get("com.docker.compose.service")),
        watch_label=None if watch_label is None else as_text(watch_label),
        labels=tuple(as_text(labels.get(key)) for key in label_keys),
        **{**said, "name": said["name"] or container_id[:12]},
    )


def _row_fields(row: dict[str, Any], *, health_listed: bool) -> dict[str, Any]:
    created = _number(row.get("Created")) or 0
    return {
        "name": _own_name(row.get("Names")),
        "image": as_text(row.get("Image")),
        "image_id": as_text(row.get("ImageID")),
        "state": _state(row.get("State")),
        "health_status": _listed_health(row, health_listed=health_listed),
        "created_ns": int(created) * _NANOSECONDS if created > 0 else None,
    }


def _inspect_fields(answer: dict[str, Any]) -> dict[str, Any]:
    status = answer["State"]
    state, health_status = _state(status.get("Status")), _health_status(_verdict(status.get("Health")))
    exit_code = _number(status.get("ExitCode"))
    return {
        "name": as_text(answer.get("Name")).removeprefix("/"),
        "image": as_text(_mapping(answer.get("Config")).get("Image")),
        "image_id": as_text(answer.get("Image")),
        "state": state,
        "health_status": health_status,
        "created_ns": _nanoseconds(answer.get("Created")),
        "details": Details(
            started=_timestamp(status.get("StartedAt")),
            finished=_timestamp(status.get("FinishedAt")),
            restarts=max(0, int(_number(answer.get("RestartCount")) or 0)),
            exit_code=int(exit_code) if exit_code is not None and state in _ENDED else None,
            oom_killed=status.get("OOMKilled") is True,
            failing_streak=_streak(status) if health_status != "none" else None,
            restart_policy=_restart_policy(answer),
        ),
    }


def stores_images_in_containerd(inspect: Any) -> bool:
    """Tell by an inspect answer of Docker whether listing is expensive: the graph driver is `overlay2`."""
    return _mapping(inspect).get("Driver") == "overlayfs"


def _listed_health(row: Mapping[str, Any], *, health_listed: bool) -> str | None:
    verdict = _verdict(row.get("Health"))
    if verdict != "":
        return _health_status(verdict)
    return _read_status(as_text(row.get("Status")))[1] if health_listed else None


@lru_cache(maxsize=4096)
def _read_status(status: str) -> tuple[str, str | None, float]:
    """Take moby's `Status` apart: the text without its age, the health, the least age.

    `Up 5 minutes (healthy)` gives `("Up  (healthy)", "healthy", 300)`.
    """
    health = None
    if status.startswith("Up "):
        suffix = _HEALTH_SUFFIX.match(status)
        health = _health_status(suffix[1]) if suffix else _health_without_suffix(status)
    age = _AGE.search(status)
    if age is None:
        return status, health, 0.0
    summary = status[: age.start()] + status[age.end() :]
    if age["unit"] is None:
        return summary, health, 0.0
    seconds = int(age["count"] or 1) * _SECONDS[age["unit"]]
    # go-units' HumanDuration cuts off, but rounds hours: from the second on, half of one may be missing.
    return summary, health, float(seconds - 1800 if seconds > 3600 else seconds)


def _health_without_suffix(status: str) -> str | None:
    """Judge an `Up …` without a known suffix: no parenthesis, no healthcheck."""
    return None if status.endswith(")") else "none"


def _state(value: Any) -> str:
    return _STATES.get(as_text(value).lower(), "")


def _verdict(health: Any) -> Any:
    """Take the status out of a `Health`: empty where there is none, the nonsense itself where it is that."""
    status = health.get("Status") if isinstance(health, dict) else health
    return "" if status is None else status


def _streak(fields: Mapping[str, Any]) -> int | None:
    streak = _number(_mapping(fields.get("Health")).get("FailingStreak"))
    return None if streak is None else int(streak)


def _health_status(verdict: Any) -> str | None:
    return _HEALTH_STATUSES.get(verdict.lower()) if isinstance(verdict, str) else None


def _restart_policy(answer: Mapping[str, Any]) -> str | None:
    policy = _mapping(_mapping(answer.get("HostConfig")).get("RestartPolicy"))
    name = policy.get("Name") or "no"
    return name if name in RESTART_POLICIES else None


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


def _nanoseconds(value: Any) -> int | None:
    """Read RFC 3339 as nanoseconds since 1970; Go's zero time and all before 1970 are none.

    Go leaves trailing zeros of a fraction out.
    """
    match = _TIME.fullmatch(as_text(value))
    try:
        seconds = datetime.fromisoformat(match[1] + match[3]).astimezone(UTC).timestamp() if match else 0
    except (ValueError, OverflowError):
        return None
    if match is None or seconds <= 0:
        return None
    return int(seconds) * _NANOSECONDS + int((match[2] or "").ljust(9, "0"))


def _timestamp(value: Any) -> float | None:
    nanoseconds = _nanoseconds(value)
    return None if nanoseconds is None else nanoseconds // 1000 / 1_000_000
