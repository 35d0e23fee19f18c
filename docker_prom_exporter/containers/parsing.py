"""Parse rows of `/containers/json` and answers of `/containers/{id}/json` to containers."""

from __future__ import annotations

import math
import re
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Final

from docker_prom_exporter.containers.fields import (
    at,
    integer,
    nanoseconds,
    positive,
    seconds,
    timestamp,
    unix_seconds,
)
from docker_prom_exporter.containers.model import (
    DEFAULT_INTERVAL,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT,
    HEALTH_STATUSES,
    LABEL,
    NANOSECONDS,
    RESTART_POLICIES,
    STATES,
    Container,
    Details,
    Doubt,
    Healthcheck,
    Probe,
    Row,
)
from docker_prom_exporter.texts import as_text

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

# How much of the letters of a key and of LABEL must be alike; longer keys are cut.
_SIMILAR: Final = 0.8
_MAX_KEY: Final = 100

# The kernel's default period for a CPU quota, in microseconds.
_DEFAULT_CPU_PERIOD: Final = 100_000

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
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


def parse_row(
    row: Any, label_keys: tuple[str, ...] = (), *, health_listed: bool = True
) -> Row | None:
    """Parse one row of `/containers/json`; return `None` if it has no valid id.

    `health_listed`: the engine lists the health of running containers. Docker does, in
    `Health` from API 1.52 on and in the suffix of `Status` in every version; Podman
    before 6 does not.
    """
    summary, health_status, min_age = _parse_status(as_text(at(row, "Status")))
    if not health_listed:
        health_status = None
    health_status = _health_status(at(row, "Health"), default=health_status)
    state = _state(at(row, "State"))
    if state in ("created", "removing", "dead"):
        min_age = math.inf
    created, streak = positive(at(row, "Created")), _streak(row, health_status)
    container = _container(
        row,
        labels=at(row, "Labels"),
        label_keys=label_keys,
        name=_own_name(at(row, "Names")),
        image=as_text(at(row, "Image")),
        image_id=as_text(at(row, "ImageID")),
        state=state,
        health_status=health_status,
        created_ns=created and created * NANOSECONDS,
        # A row has no retries: there only a streak of 0 shows that no probe said `unhealthy`.
        doubt=_doubt(state, health_status, streak, needed=1),
    )
    if container is None:
        return None
    return Row(
        container=container,
        summary=summary,
        min_age=min_age,
        failing_streak=streak,
        described_image="ImageManifestDescriptor" in row,
    )


def parse_inspect(
    answer: Any,
    label_keys: tuple[str, ...] = (),
    *,
    now: float | None = None,
    is_podman: bool = False,
) -> Container | None:
    """Parse an answer of `/containers/{id}/json` as `parse_row` parses a row, with details.

    `now` is the engine's clock in Unix seconds, from its `Date` shortly before; without
    it no container is stalled. `is_podman`: without an interval the engine never probes
    by itself. Docker leaves out an interval that is the default, Podman one that is
    disabled.
    """
    state = _state(at(answer, "State", "Status"))
    health_status = _health_status(at(answer, "State", "Health"))
    details = _details(answer, state, health_status, is_podman=is_podman)
    needed = 1
    if details.healthcheck is not None:
        needed = details.healthcheck.retries
    doubt = _doubt(state, health_status, details.failing_streak, needed)
    if doubt is None and health_status != "starting" and _is_stalled(details, now):
        doubt = "stalled"
    return _container(
        answer,
        labels=at(answer, "Config", "Labels"),
        label_keys=label_keys,
        name=as_text(at(answer, "Name")).removeprefix("/"),
        image=as_text(at(answer, "Config", "Image")),
        image_id=as_text(at(answer, "Image")),
        state=state,
        health_status=health_status,
        created_ns=nanoseconds(at(answer, "Created")),
        details=details,
        doubt=doubt,
    )


def stores_images_in_containerd(inspect: Any) -> bool:
    """Return whether listing is expensive, by an inspect answer of Docker.

    The driver of the containerd image store is `overlayfs`, a graph driver is `overlay2`.
    """
    return bool(at(inspect, "Driver") == "overlayfs")


def _container(
    answer: Any, *, labels: Any, label_keys: tuple[str, ...], name: str, **fields: Any
) -> Container | None:
    container_id, watch_label = at(answer, "Id"), at(labels, LABEL)
    if not isinstance(container_id, str) or not _ID.fullmatch(container_id):
        return None
    return Container(
        id=container_id,
        name=name or container_id[:12],
        compose_project=as_text(at(labels, "com.docker.compose.project")),
        compose_service=as_text(at(labels, "com.docker.compose.service")),
        watch_label=None if watch_label is None else as_text(watch_label),
        similar_label=_similar_label(labels),
        labels=tuple(as_text(at(labels, key)) for key in label_keys),
        **fields,
    )


def _similar_label(labels: Any) -> str:
    """Return a key that resembles `LABEL`, if `LABEL` itself is absent."""
    if not isinstance(labels, dict) or LABEL in labels:
        return ""
    for key in labels:
        if _resembles_label(key):
            return as_text(key)
    return ""


@lru_cache(maxsize=4096)
def _resembles_label(key: str) -> bool:
    """Compare the letters only: most mistakes are in case, `-`, `_` and `.`."""
    matcher = SequenceMatcher(None, _letters(LABEL), _letters(key), autojunk=False)
    return matcher.quick_ratio() >= _SIMILAR and matcher.ratio() >= _SIMILAR


def _letters(key: str) -> str:
    return "".join(filter(str.isalpha, key.lower()[:_MAX_KEY]))


def _details(
    answer: Any, state: str, health_status: str | None, *, is_podman: bool
) -> Details:
    status = at(answer, "State")
    exit_code = probe = None
    # After a removal that failed, `Error` is that of the removal.
    start_failed = state not in ("dead", "removing") and as_text(at(status, "Error")) != ""
    # moby says 0 for a container that was never started, and for one that runs.
    if state in ("exited", "dead", "restarting"):
        exit_code = integer(at(status, "ExitCode"))
    if state == "running":
        probe = _last_probe(status)
    return Details(
        started=timestamp(at(status, "StartedAt")),
        finished=timestamp(at(status, "FinishedAt")),
        restarts=max(0, integer(at(answer, "RestartCount")) or 0),
        exit_code=exit_code,
        oom_killed=at(status, "OOMKilled") is True,
        failing_streak=_streak(status, health_status),
        restart_policy=_restart_policy(answer),
        start_failed=start_failed,
        memory_limit=positive(at(answer, "HostConfig", "Memory")),
        cpu_limit=_cpu_limit(at(answer, "HostConfig")),
        pids_limit=positive(at(answer, "HostConfig", "PidsLimit")),
        healthcheck=_healthcheck(answer, health_status, is_podman=is_podman),
        probe=probe,
    )


def _restart_policy(answer: Any) -> str | None:
    policy = at(answer, "HostConfig", "RestartPolicy", "Name") or "no"
    if policy not in RESTART_POLICIES:
        return None
    return as_text(policy)


def _cpu_limit(host_config: Any) -> float | None:
    """Return the limit in cores: `--cpus`, or the quota of `--cpu-quota` in each period."""
    if nano_cpus := positive(at(host_config, "NanoCpus")):
        return nano_cpus / NANOSECONDS
    quota = positive(at(host_config, "CpuQuota"))
    period = positive(at(host_config, "CpuPeriod")) or _DEFAULT_CPU_PERIOD
    if quota is None:
        return None
    return quota / period


def _healthcheck(
    answer: Any, health_status: str | None, *, is_podman: bool
) -> Healthcheck | None:
    """Parse `Config.Healthcheck`; return `None` if there is no command to run as a probe."""
    settings = at(answer, "Config", "Healthcheck")
    if not isinstance(settings, dict):
        return None
    # Before its first start a container has a healthcheck and no health. An interval without a
    # test is no healthcheck.
    if health_status == "none" and at(settings, "Test") in (None, [], ["NONE"]):
        return None
    interval = seconds(settings.get("Interval"))
    if interval is None and not is_podman:
        interval = DEFAULT_INTERVAL
    return Healthcheck(
        interval=interval,
        timeout=seconds(settings.get("Timeout")) or DEFAULT_TIMEOUT,
        retries=positive(settings.get("Retries")) or DEFAULT_RETRIES,
    )


def _last_probe(status: Any) -> Probe | None:
    """Parse the newest entry of `State.Health.Log`; `None` if it is of an earlier run."""
    log = at(status, "Health", "Log")
    if not isinstance(log, list) or not log:
        return None
    newest = log[-1]
    began, ended = nanoseconds(at(newest, "Start")), nanoseconds(at(newest, "End"))
    started, exit_code = nanoseconds(at(status, "StartedAt")), integer(at(newest, "ExitCode"))
    if began is None or ended is None or started is None or exit_code is None:
        return None
    # moby and Podman 4 keep the log when a container starts again.
    if began < started:
        return None
    # A clock that was set back during the probe gives an end before its beginning.
    duration = max(0, ended - began) / NANOSECONDS
    return Probe(unix_seconds(ended), duration, exit_code)


def _doubt(
    state: str, health_status: str | None, streak: int | None, needed: int
) -> Doubt | None:
    """Return whether no probe stands behind the engine's `unhealthy`.

    A probe that says so leaves a streak of at least `needed`.
    """
    if state != "running" or health_status != "unhealthy" or streak is None:
        return None
    return "pending" if streak < needed else None


def _is_stalled(details: Details, now: float | None) -> bool:
    """Return whether the last probe ended too long ago, by the engine's clock."""
    if details.probe is None or details.healthcheck is None or now is None:
        return False
    longest = details.healthcheck.longest_silence
    return longest is not None and now - details.probe.ended > longest


@lru_cache(maxsize=4096)
def _parse_status(status: str) -> tuple[str, str | None, float]:
    """Split moby's `Status` into the text without its age, the health, and the minimum age.

    `Up 5 minutes (healthy)` gives `("Up  (healthy)", "healthy", 300)`.
    """
    health = None
    if up := _UP.fullmatch(status):
        health = _HEALTH_STATUSES.get(up[1] or "none")
    age = _AGE.search(status)
    if age is None:
        return status, health, 0
    min_age = int(age["count"] or 1) * _SECONDS.get(age["unit"], 0)
    # go-units' HumanDuration truncates, but rounds hours: half an hour may be too much.
    if min_age > 3600:
        min_age -= 1800
    return status[: age.start()] + status[age.end() :], health, min_age


def _state(value: Any) -> str:
    return _STATES.get(as_text(value).lower(), "")


def _health_status(health: Any, default: str | None = "none") -> str | None:
    """Parse a `Health` field; return `default` if it is empty, `None` if it is invalid."""
    if isinstance(health, dict):
        health = health.get("Status")
    if health in (None, ""):
        return default
    return _HEALTH_STATUSES.get(as_text(health).lower())


def _streak(fields: Any, health_status: str | None) -> int | None:
    if health_status == "none":
        return None
    return integer(at(fields, "Health", "FailingStreak"))


def _own_name(names: Any) -> str:
    """Return the name with one slash: legacy links add `/parent/alias`, in any order."""
    if isinstance(names, list):
        for name in names:
            text = as_text(name).removeprefix("/")
            if text and "/" not in text:
                return text
    return ""
