"""The samples that a container must have, by `docker inspect`: section 2 of the contract, once more.

This knows nothing of the exporter's code, so that a mistake in that is not made here, too.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

Samples = dict[str, float]
"""The values of samples by name and labels, in the order of the labels: `name{key="value"}`."""

STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
STATUSES = ("none", "starting", "healthy", "unhealthy")
LISTED_LATE = (
    "docker_container_health_failing_streak",
    "docker_container_health_last_probe_timestamp_seconds",
    "docker_container_health_last_probe_duration_seconds",
    "docker_container_health_last_probe_exit_code",
)
"""What list mode may show up to ten minutes late, because it leaves no trace in a row of the list."""

_ZERO = "0001-01-01T00:00:00Z"


def samples(inspected: Mapping[str, Any], now: float) -> Samples:
    """Return all samples of a container; `now` is the Unix time of the answer by the engine's clock."""
    state, host = inspected["State"], inspected["HostConfig"]
    status = state["Status"]
    labels = inspected["Config"]["Labels"] or {}
    about = {
        "image": inspected["Config"]["Image"],
        "image_id": inspected["Image"],
        "compose_project": labels.get("com.docker.compose.project", ""),
        "compose_service": labels.get("com.docker.compose.service", ""),
    }
    policy = host["RestartPolicy"]["Name"] or "no"
    values: dict[tuple[str, str, str], float | None] = {
        ("container_health", "", ""): _health(inspected, now),
        ("docker_container_restart_policy", "policy", policy): 1,
        ("docker_container_created_timestamp_seconds", "", ""): int(
            _time(inspected["Created"]) or 0
        ),
        ("docker_container_started_timestamp_seconds", "", ""): _time(state["StartedAt"]),
        ("docker_container_finished_timestamp_seconds", "", ""): _time(state["FinishedAt"]),
        ("docker_container_restarts_total", "", ""): inspected["RestartCount"],
        ("docker_container_start_failed", "", ""): bool(state["Error"]),
        ("docker_container_oom_killed", "", ""): state["OOMKilled"],
        ("docker_container_memory_limit_bytes", "", ""): host["Memory"] or None,
        ("docker_container_cpu_limit_cores", "", ""): _cores(host),
        ("docker_container_pids_limit", "", ""): max(host["PidsLimit"] or 0, 0) or None,
    }
    if status in ("exited", "dead", "restarting"):
        values["docker_container_exit_code", "", ""] = state["ExitCode"]
    for each in STATES:
        values["docker_container_state", "state", each] = each == status
    verdict = state.get("Health", {}).get("Status") or "none"
    for each in STATUSES:
        shown = status == "running" and each == verdict
        values["docker_container_health_status", "status", each] = shown
    for name, value in _healthcheck(inspected).items():
        values[f"docker_container_health_{name}", "", ""] = value
    name = inspected["Name"].lstrip("/")
    whose = {"id": inspected["Id"], "name": name}
    found = {
        _sample(metric, {**whose, **({label: of} if label else {})}): round(float(value), 3)
        for (metric, label, of), value in values.items()
        if value is not None
    }
    return {**found, _sample("docker_container_info", {**whose, **about}): 1.0}


def _sample(name: str, labels: Mapping[str, str]) -> str:
    return f"{name}{sorted(labels.items())}"


def _health(inspected: Mapping[str, Any], now: float) -> int:
    """Return the value of `container_health`."""
    state = inspected["State"]
    verdict = state.get("Health", {}).get("Status") or "none"
    if state["Status"] != "running":
        return 1
    if verdict == "none":
        return 2
    check = _settings(inspected)
    pending = verdict == "unhealthy" and state["Health"]["FailingStreak"] < check["retries"]
    if verdict not in ("unhealthy", "healthy") or pending or _is_stalled(state, check, now):
        return 0
    return 3 if verdict == "unhealthy" else 4


def _is_stalled(state: Mapping[str, Any], check: Mapping[str, float], now: float) -> bool:
    log = state["Health"]["Log"]
    if not log:
        return False
    longest = 3 * (check["interval_seconds"] + check["timeout_seconds"])
    return now - (_time(log[-1]["End"]) or 0) > max(60, longest)


def _healthcheck(inspected: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of `docker_container_health_…` by the rest of the name."""
    check = inspected["Config"].get("Healthcheck")
    if not check or check["Test"][0] == "NONE":
        return {}
    state, values = inspected["State"], _settings(inspected)
    if "Health" not in state:
        return values
    values["failing_streak"] = state["Health"]["FailingStreak"]
    log = state["Health"]["Log"]
    started = _time(state["StartedAt"]) or 0
    if state["Status"] == "running" and log and (_time(log[-1]["Start"]) or 0) >= started:
        begin, end = _time(log[-1]["Start"]) or 0, _time(log[-1]["End"]) or 0
        values["last_probe_timestamp_seconds"] = end
        values["last_probe_duration_seconds"] = end - begin
        values["last_probe_exit_code"] = log[-1]["ExitCode"]
    return values


def _settings(inspected: Mapping[str, Any]) -> dict[str, float]:
    """Return the settings of the healthcheck, with Docker's defaults where there is none."""
    check = inspected["Config"]["Healthcheck"]
    return {
        "interval_seconds": (check.get("Interval") or 30e9) / 1e9,
        "timeout_seconds": (check.get("Timeout") or 30e9) / 1e9,
        "retries": check.get("Retries") or 3,
    }


def _cores(host: Mapping[str, Any]) -> float | None:
    if host["NanoCpus"]:
        return float(host["NanoCpus"]) / 1e9
    return (
        float(host["CpuQuota"]) / (host["CpuPeriod"] or 100_000)
        if host["CpuQuota"] > 0
        else None
    )


def _time(text: str) -> float | None:
    """Return a Unix time; None for the engine's zero."""
    if text == _ZERO:
        return None
    # fromisoformat of Python 3.11 takes microseconds, not nanoseconds
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
