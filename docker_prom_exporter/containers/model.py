"""A container as one poll found it: its states, probes and health."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal, NamedTuple

from docker_prom_exporter.texts import parse_boolean

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

`pending`: moby sets `unhealthy` when it pauses a container, and after the unpause that
stays until the next probe. `stalled`: the engine has stopped probing, as moby before 23
does after a restart of dockerd with `live-restore`, and Podman where systemd's timers
don't run.
"""

DOUBTS: Final[dict[Doubt, str]] = {
    "pending": "fewer probes have failed in a row than its retries",
    "stalled": "its healthcheck is not run any more",
}
"""Each doubt in words, to follow `the engine says unhealthy, but`."""

NANOSECONDS: Final = 10**9
"""Nanoseconds in a second."""

# Docker's defaults, from moby's daemon/health.go; the interval and the timeout in seconds.
DEFAULT_INTERVAL: Final = 30.0
DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_RETRIES: Final = 3

# Probes that are missing for so many rounds, and so many seconds, have stopped. On a busy host
# a round takes more than its interval and timeout.
_STALLED_ROUNDS: Final = 3
_STALLED_SECONDS: Final = 60


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

    `interval` is `None` if the engine never probes by itself: `--health-interval disable`
    of Podman.
    """

    interval: float | None = DEFAULT_INTERVAL
    timeout: float = DEFAULT_TIMEOUT
    retries: int = DEFAULT_RETRIES

    @property
    def longest_silence(self) -> float | None:
        """The maximum number of seconds from the end of one probe to the end of the next."""
        if self.interval is None:
            return None
        return max(_STALLED_SECONDS, _STALLED_ROUNDS * (self.interval + self.timeout))


class Probe(NamedTuple):
    """One run of a healthcheck, from `State.Health.Log`, without its output.

    `ended` is in Unix seconds by the engine's clock, `duration` in seconds. Exit code 0:
    it passed. -1: it was not run to its end, on Docker because of its timeout. Others: it
    failed. Podman has only 0 and 1.
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

    Times are Unix seconds, `None` if the engine's time is zero. `restart_policy` is one
    of `RESTART_POLICIES`, or `None` for any other.
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

    Texts are empty where the engine's answer has none.
    """

    id: str
    # Its own name, without a slash; the short id where it has none.
    name: str
    image: str
    image_id: str
    compose_project: str
    compose_service: str
    # One of `STATES`, or empty for any other.
    state: str
    # One of `HEALTH_STATUSES`, or `None` if it is invalid or not listed. Valid only while the
    # container runs: moby sets `unhealthy` when one stops, pauses or restarts.
    health_status: str | None
    # In nanoseconds since 1970; from a list row a whole number of seconds.
    created_ns: int | None
    # The value of `LABEL`, `None` without it. Then `similar_label` is a key that was probably
    # meant as `LABEL`.
    watch_label: str | None = None
    similar_label: str = ""
    # The values of the labels in CONTAINER_LABELS, in that order.
    labels: tuple[str, ...] = ()
    details: Details | None = None
    # Why `health_status` does not count as a verdict; `None` if it does.
    doubt: Doubt | None = None

    @property
    def created(self) -> int | None:
        """When it was created, in whole Unix seconds."""
        if self.created_ns is None:
            return None
        return self.created_ns // NANOSECONDS

    @property
    def running(self) -> bool:
        """Whether its processes run: not while it is paused or between two restarts."""
        return self.state == "running"

    @property
    def health(self) -> ContainerHealth:
        """Its value of `container_health`."""
        if not self.state or (self.running and self.doubt):
            return ContainerHealth.UNKNOWN
        if not self.running:
            return ContainerHealth.STOPPED
        return _HEALTH_WHILE_RUNNING.get(self.health_status, ContainerHealth.UNKNOWN)

    @property
    def awaits_probe(self) -> bool:
        """Whether a probe can decide its health while nothing in its row changes.

        List mode inspects such a container in each poll: its row is the same before and
        after the probe, whether the verdict is pending or the engine had stopped probing.
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
        """Return a copy without state, health and details: the engine does not answer."""
        return self._replace(state="", health_status=None, details=None, doubt=None)


class Row(NamedTuple):
    """A row of `/containers/json`: the container, and fields that only the list has."""

    container: Container
    # `Status` without the age that moby writes into it (`Up 5 minutes`).
    summary: str
    # The least that this age can be, in seconds: so long the container was not started or
    # stopped. Infinite for a state to which no start or stop returns.
    min_age: float
    # From API 1.52 on.
    failing_streak: int | None
    # The engine looked the image up in the containerd image store, which makes a list
    # expensive.
    described_image: bool
