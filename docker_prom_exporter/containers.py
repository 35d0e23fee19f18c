"""`Container`, and pure functions that parse list rows and inspect answers."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import datetime
from difflib import SequenceMatcher
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from docker_prom_exporter.texts import as_text, parse_boolean

STATES: Final = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
"""Docker's container states, from moby's `container/state.go`."""

HEALTH_STATUSES: Final = ("none", "starting", "healthy", "unhealthy")
"""Docker's healthcheck statuses."""

RESTART_POLICIES: Final = ("no", "always", "unless-stopped", "on-failure")
"""Docker's restart policies; an empty name means `no`."""

LABEL: Final = "docker-prometheus-exporter.metric.container_health.enabled"
"""The label that decides whether a container is watched."""

Doubt = Literal["pending", "stalled"]
"""Why no probe stands behind the engine's `healthy` or `unhealthy`.

`pending`: moby sets `unhealthy` when it pauses a container, and after the unpause that stays
until the next probe. `stalled`: the engine has stopped probing, as moby before 23 does after a
restart of dockerd with `live-restore`, and Podman where systemd's timers don't run.
"""

DOUBTS: Final[dict[Doubt, str]] = {
    "pending": "fewer probes have failed in a row than its retries",
    "stalled": "its healthcheck is not run any more",
}
"""Each doubt in words, to follow `the engine says unhealthy, but`."""

# Podman also sends states that Docker does not have (libpod/define/containerstate.go).
_STATES: Final = {
    **{state: state for state in STATES},
    "configured": "created",
    "initialized": "created",
    "stopped": "exited",
    "stopping": "running",
}

# Podman sends `reset` if the healthcheck has not run since the container started.
_HEALTH_STATUSES: Final = {
    **{status: status for status in HEALTH_STATUSES},
    "reset": "starting",
}

_NANOSECONDS: Final = 10**9

# How much of the letters of a key and of LABEL must be alike; longer keys are cut.
_SIMILAR: Final = 0.8
_MAX_KEY: Final = 100

# Docker's defaults, from moby's daemon/health.go; the interval and the timeout in seconds.
_DEFAULT_INTERVAL: Final = 30.0
_DEFAULT_TIMEOUT: Final = 30.0
_DEFAULT_RETRIES: Final = 3

# The kernel's default period for a CPU quota, in microseconds.
_DEFAULT_CPU_PERIOD: Final = 100_000

# Probes that are missing for so many rounds, and so many seconds, have stopped. On a busy host
# a round takes more than its interval and timeout.
_STALLED_ROUNDS: Final = 3
_STALLED_SECONDS: Final = 60

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_UP: Final = re.compile(r"Up [^()]*(?:\((?:health: )?([a-z]+)\))?")
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


_HEALTH_WHILE_RUNNING: Final[dict[str | None, ContainerHealth]] = {
    "none": ContainerHealth.ALIVE,
    "unhealthy": ContainerHealth.UNHEALTHY,
    "healthy": ContainerHealth.HEALTHY,
}


class Healthcheck(NamedTuple):
    """The settings of a healthcheck, from `Config.Healthcheck`; times are in seconds.

    `interval` is `None` if the engine never probes by itself: `--health-interval disable` of
    Podman.
    """

    interval: float | None = _DEFAULT_INTERVAL
    timeout: float = _DEFAULT_TIMEOUT
    retries: int = _DEFAULT_RETRIES
    start_period: float = 0.0

    @property
    def longest_silence(self) -> float | None:
        """The maximum number of seconds from the end of one probe to the end of the next."""
        if self.interval is None:
            return None
        return max(_STALLED_SECONDS, _STALLED_ROUNDS * (self.interval + self.timeout))


class Probe(NamedTuple):
    """One run of a healthcheck, from `State.Health.Log`, without its output.

    `ended` is in Unix seconds by the engine's clock, `duration` in seconds. Exit code 0: it
    passed. -1: it was not run to its end, on Docker because of its timeout. Others: it failed.
    Podman has only 0 and 1.
    """

    ended: float
    duration: float
    exit_code: int

    @property
    def outcome(self) -> str:
        """Its exit code in words."""
        words = {0: "passed", -1: "was not run to its end"}
        return words.get(self.exit_code, f"failed with code {self.exit_code}")


class Details(NamedTuple):
    """The fields of a container that only `/containers/{id}/json` has.

    Times are Unix seconds, `None` if the engine's time is zero. `restart_policy` is one of
    `RESTART_POLICIES`, or `None` for any other.
    """

    started: float | None
    finished: float | None
    restarts: int
    # Of the last run; `None` in every state except exited, dead and restarting.
    exit_code: int | None
    oom_killed: bool
    # `None` without a healthcheck.
    failing_streak: int | None
    restart_policy: str | None
    # Whether the last attempt to start it failed.
    start_failed: bool = False
    # In bytes, cores and processes; `None` without a limit.
    memory_limit: int | None = None
    cpu_limit: float | None = None
    pids_limit: int | None = None
    # `None` without a healthcheck.
    healthcheck: Healthcheck | None = None
    # The newest one of this run; `None` while the container does not run.
    probe: Probe | None = None


class Container(NamedTuple):
    """A container as one poll found it.

    `state` is one of `STATES`, or empty if the engine's state is not among them. `health_status` is one of
    `HEALTH_STATUSES`, or `None` if it is invalid or not listed; it is valid only while the container runs,
    because moby sets it to `unhealthy` when a container stops, pauses or restarts. `created_ns` is in
    nanoseconds since 1970; from a list row it is a whole number of seconds. `watch_label` is the
    value of `LABEL`, `None` without it; then `similar_label` is a key that was probably meant as
    `LABEL`. `labels` has the values of the labels in CONTAINER_LABELS, in that order.
    `doubt` tells why `health_status` does not count as a verdict; `None` if it does.
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
    similar_label: str = ""
    labels: tuple[str, ...] = ()
    details: Details | None = None
    doubt: Doubt | None = None

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
        """Its value of `container_health`."""
        if not self.running:
            return ContainerHealth.STOPPED if self.state else ContainerHealth.UNKNOWN
        if self.doubt is not None:
            return ContainerHealth.UNKNOWN
        return _HEALTH_WHILE_RUNNING.get(self.health_status, ContainerHealth.UNKNOWN)

    @property
    def awaits_probe(self) -> bool:
        """Whether a probe can decide its health while nothing in its row changes.

        List mode inspects such a container in each poll: the row of an `unhealthy` container
        is the same before and after the probe that says so.
        """
        return self.doubt is not None

    @property
    def enabled(self) -> bool | None:
        """The boolean in its `LABEL`; `None` if the label is absent or not a boolean."""
        return parse_boolean(self.watch_label or "")

    @property
    def has_invalid_label(self) -> bool:
        """Whether its `LABEL` is present but not a boolean."""
        return self.watch_label is not None and self.enabled is None

    def is_watched(self, *, only_labelled: bool) -> bool:
        """Return whether it is reported; with `only_labelled`, only if its `LABEL` is true."""
        return bool(self.enabled) or (self.enabled is None and not only_labelled)

    def without_verdict(self) -> Container:
        """Return a copy without state, health and details, for when the engine does not answer."""
        return self._replace(state="", health_status=None, details=None, doubt=None)


class Row(NamedTuple):
    """A row of `/containers/json`: the container, and fields that only the list has.

    `summary` is `Status` without the age that moby writes into it (`Up 5 minutes`). `min_age` is the minimum
    of that age in seconds, during which the container was not started or stopped; infinite for a state to
    which no start or stop returns. `failing_streak` exists from API 1.52 on. `described_image`: the engine
    looked the image up in the containerd image store, which makes a list expensive.
    """

    container: Container
    summary: str
    min_age: float
    failing_streak: int | None
    described_image: bool


def read_row(
    row: Any, label_keys: tuple[str, ...] = (), *, health_listed: bool = True
) -> Row | None:
    """Parse one row of `/containers/json`; return `None` if it has no valid id.

    Missing and invalid values count as absent. `health_listed`: the engine lists the health of running
    containers. Docker does, in `Health` from API 1.52 on and in the suffix of `Status` in every version;
    Podman before 6 does not.
    """
    summary, health_status, min_age = _read_status(as_text(_at(row, "Status")))
    health_status = _health_status(
        _at(row, "Health"), default=health_status if health_listed else None
    )
    created = _integer(_at(row, "Created")) or 0
    state, streak = _state(_at(row, "State")), _streak(row, health_status)
    container = _container(
        row,
        labels=_at(row, "Labels"),
        label_keys=label_keys,
        name=_own_name(_at(row, "Names")),
        image=as_text(_at(row, "Image")),
        image_id=as_text(_at(row, "ImageID")),
        state=state,
        health_status=health_status,
        created_ns=created * _NANOSECONDS if created > 0 else None,
        doubt=_doubt(state, health_status, streak),
    )
    if container is None:
        return None
    return Row(
        container=container,
        summary=summary,
        min_age=math.inf if container.state in ("created", "removing", "dead") else min_age,
        failing_streak=streak,
        described_image="ImageManifestDescriptor" in row,
    )


def read_inspect(
    answer: Any,
    label_keys: tuple[str, ...] = (),
    *,
    now: float | None = None,
    is_podman: bool = False,
) -> Container | None:
    """Parse an answer of `/containers/{id}/json` as `read_row` parses a row, with details.

    `now` is the engine's clock in Unix seconds, from the `Date` of this answer; without it no
    container is stalled. `is_podman`: without an interval the engine never probes by itself.
    Docker leaves out an interval that is the default, Podman one that is disabled.
    """
    state = _state(_at(answer, "State", "Status"))
    health_status = _health_status(_at(answer, "State", "Health"))
    details = _details(answer, state, health_status, is_podman=is_podman)
    return _container(
        answer,
        labels=_at(answer, "Config", "Labels"),
        label_keys=label_keys,
        name=as_text(_at(answer, "Name")).removeprefix("/"),
        image=as_text(_at(answer, "Config", "Image")),
        image_id=as_text(_at(answer, "Image")),
        state=state,
        health_status=health_status,
        created_ns=_nanoseconds(_at(answer, "Created")),
        details=details,
        doubt=_doubt(
            state,
            health_status,
            details.failing_streak,
            details.healthcheck,
            _silence(details.probe, now),
        ),
    )


def stores_images_in_containerd(inspect: Any) -> bool:
    """Return whether listing is expensive, by Docker's inspect answer; a graph driver is `overlay2`."""
    return bool(_at(inspect, "Driver") == "overlayfs")


def _container(
    answer: Any, *, labels: Any, label_keys: tuple[str, ...], name: str, **fields: Any
) -> Container | None:
    container_id = _at(answer, "Id")
    if not isinstance(container_id, str) or not _ID.fullmatch(container_id):
        return None
    return Container(
        id=container_id,
        name=name or container_id[:12],
        compose_project=as_text(_at(labels, "com.docker.compose.project")),
        compose_service=as_text(_at(labels, "com.docker.compose.service")),
        watch_label=None if _at(labels, LABEL) is None else as_text(_at(labels, LABEL)),
        similar_label=_similar_label(labels),
        labels=tuple(as_text(_at(labels, key)) for key in label_keys),
        **fields,
    )


def _similar_label(labels: Any) -> str:
    """Return a key that resembles `LABEL`, as a misspelled one does, if `LABEL` itself is absent."""
    if not isinstance(labels, dict) or LABEL in labels:
        return ""
    for key in labels:
        if _resembles_label(key):
            return as_text(key)
    return ""


@lru_cache(maxsize=4096)
def _resembles_label(key: str) -> bool:
    """Compare the letters only: case, `-`, `_` and `.` are what is written wrongly most often."""
    matcher = SequenceMatcher(None, _letters(LABEL), _letters(key), autojunk=False)
    return matcher.quick_ratio() >= _SIMILAR and matcher.ratio() >= _SIMILAR


def _letters(key: str) -> str:
    return "".join(filter(str.isalpha, key.lower()[:_MAX_KEY]))


def _details(
    answer: Any, state: str, health_status: str | None, *, is_podman: bool
) -> Details:
    status = _at(answer, "State")
    policy = _at(answer, "HostConfig", "RestartPolicy", "Name") or "no"
    # moby says 0 for a container that was never started, and for one that runs.
    ended = state in ("exited", "dead", "restarting")
    return Details(
        started=_timestamp(_at(status, "StartedAt")),
        finished=_timestamp(_at(status, "FinishedAt")),
        restarts=max(0, _integer(_at(answer, "RestartCount")) or 0),
        exit_code=_integer(_at(status, "ExitCode")) if ended else None,
        oom_killed=_at(status, "OOMKilled") is True,
        failing_streak=_streak(status, health_status),
        restart_policy=policy if policy in RESTART_POLICIES else None,
        start_failed=as_text(_at(status, "Error")) != "",
        memory_limit=_positive(_at(answer, "HostConfig", "Memory")),
        cpu_limit=_cpu_limit(_at(answer, "HostConfig")),
        pids_limit=_positive(_at(answer, "HostConfig", "PidsLimit")),
        healthcheck=_healthcheck(answer, health_status, is_podman=is_podman),
        probe=_last_probe(status) if state == "running" else None,
    )


def _cpu_limit(host_config: Any) -> float | None:
    """Return the limit in cores: `--cpus`, or the quota of `--cpu-quota` in each period."""
    if nano_cpus := _positive(_at(host_config, "NanoCpus")):
        return nano_cpus / _NANOSECONDS
    quota = _positive(_at(host_config, "CpuQuota"))
    period = _positive(_at(host_config, "CpuPeriod")) or _DEFAULT_CPU_PERIOD
    return None if quota is None else quota / period


def _healthcheck(
    answer: Any, health_status: str | None, *, is_podman: bool
) -> Healthcheck | None:
    """Parse `Config.Healthcheck`; return `None` if there is no command to run as a probe."""
    settings = _at(answer, "Config", "Healthcheck")
    if not isinstance(settings, dict):
        return None
    # Before its first start a container has a healthcheck and no health. An interval without a
    # test is no healthcheck.
    if health_status == "none" and _at(settings, "Test") in (None, [], ["NONE"]):
        return None
    interval = _seconds(settings.get("Interval"))
    if interval is None and not is_podman:
        interval = _DEFAULT_INTERVAL
    return Healthcheck(
        interval=interval,
        timeout=_seconds(settings.get("Timeout")) or _DEFAULT_TIMEOUT,
        retries=_positive(settings.get("Retries")) or _DEFAULT_RETRIES,
        start_period=_seconds(settings.get("StartPeriod")) or 0.0,
    )


def _last_probe(status: Any) -> Probe | None:
    """Parse the newest entry of `State.Health.Log`; `None` if it is of an earlier run."""
    log = _at(status, "Health", "Log")
    entry = log[-1] if isinstance(log, list) and log else None
    began, ended = _nanoseconds(_at(entry, "Start")), _nanoseconds(_at(entry, "End"))
    started, exit_code = (
        _nanoseconds(_at(status, "StartedAt")),
        _integer(_at(entry, "ExitCode")),
    )
    if began is None or ended is None or started is None or exit_code is None:
        return None
    # moby and Podman 4 keep the log when a container starts again.
    if began < started:
        return None
    # A clock that was set back during the probe gives an end before its beginning.
    duration = max(0, ended - began) / _NANOSECONDS
    return Probe(ended // 1000 / 1_000_000, duration, exit_code)


def _silence(probe: Probe | None, now: float | None) -> float | None:
    """Return how many seconds ago the last probe ended, by the engine's clock."""
    return None if probe is None or now is None else now - probe.ended


def _doubt(
    state: str,
    health_status: str | None,
    streak: int | None,
    healthcheck: Healthcheck | None = None,
    silence: float | None = None,
) -> Doubt | None:
    """Return why the engine's verdict does not count; `silence` is the last probe's age.

    A probe that says `unhealthy` leaves a streak of at least `retries`. A row has no
    `retries`: there only a streak of 0 shows that no probe said so.
    """
    if state != "running" or health_status not in ("healthy", "unhealthy"):
        return None
    needed = 1 if healthcheck is None else healthcheck.retries
    if health_status == "unhealthy" and streak is not None and streak < needed:
        return "pending"
    longest = None if healthcheck is None else healthcheck.longest_silence
    if silence is not None and longest is not None and silence > longest:
        return "stalled"
    return None


@lru_cache(maxsize=4096)
def _read_status(status: str) -> tuple[str, str | None, float]:
    """Split moby's `Status` into the text without its age, the health, and the minimum age in seconds.

    `Up 5 minutes (healthy)` gives `("Up  (healthy)", "healthy", 300)`.
    """
    up, age = _UP.fullmatch(status), _AGE.search(status)
    health = _HEALTH_STATUSES.get(up[1] or "none") if up else None
    if age is None:
        return status, health, 0
    seconds = int(age["count"] or 1) * _SECONDS.get(age["unit"], 0)
    # go-units' HumanDuration truncates, but rounds hours: 2 hours and more may be half an hour too long.
    min_age = seconds - 1800 if seconds > 3600 else seconds
    return status[: age.start()] + status[age.end() :], health, min_age


def _state(value: Any) -> str:
    return _STATES.get(as_text(value).lower(), "")


def _health_status(health: Any, default: str | None = "none") -> str | None:
    """Parse a `Health` field; return `default` if it is empty, `None` if it is invalid."""
    verdict = health.get("Status") if isinstance(health, dict) else health
    if verdict in (None, ""):
        return default
    return _HEALTH_STATUSES.get(verdict.lower()) if isinstance(verdict, str) else None


def _streak(fields: Any, health_status: str | None) -> int | None:
    return (
        None if health_status == "none" else _integer(_at(fields, "Health", "FailingStreak"))
    )


def _own_name(names: Any) -> str:
    """Return the name with one slash: legacy links add names, `/parent/alias`, in any order."""
    texts = (
        [as_text(name).removeprefix("/") for name in names] if isinstance(names, list) else []
    )
    return next((text for text in texts if text and "/" not in text), "")


def _at(answer: Any, *path: str) -> Any:
    """Return the value at a path of keys in nested JSON objects; `None` if there is none."""
    for key in path:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer


def _integer(value: Any) -> int | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and abs(value) < 2**63 else None


def _positive(value: Any) -> int | None:
    """Return a number above 0; 0 and -1 stand for the engine's default, or for no limit."""
    number = _integer(value)
    return number if number is not None and number > 0 else None


def _seconds(value: Any) -> float | None:
    """Convert a duration above 0 from nanoseconds to seconds."""
    nanoseconds = _positive(value)
    return None if nanoseconds is None else nanoseconds / _NANOSECONDS


def _nanoseconds(value: Any) -> int | None:
    """Parse RFC 3339 to nanoseconds since 1970; `None` for Go's zero time and all times before 1970.

    Go omits trailing zeros of a fraction.
    """
    match = _TIME.fullmatch(as_text(value))
    with suppress(ValueError):  # 30 February
        if (
            match
            and (seconds := int(datetime.fromisoformat(match[1] + match[3]).timestamp())) > 0
        ):
            return seconds * _NANOSECONDS + int((match[2] or "").ljust(9, "0"))
    return None


def _timestamp(value: Any) -> float | None:
    nanoseconds = _nanoseconds(value)
    return None if nanoseconds is None else nanoseconds // 1000 / 1_000_000
