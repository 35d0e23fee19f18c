"""Metrics of containers, the engine and the exporter: name, HELP, labels, samples."""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.samples import Sample

from docker_prom_exporter import __version__
from docker_prom_exporter.containers import HEALTH_STATUSES, STATES, ContainerHealth
from docker_prom_exporter.exposition import Publication
from docker_prom_exporter.texts import label_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from docker_prom_exporter.containers import Container
    from docker_prom_exporter.snapshot import EngineInfo, Snapshot

    _Samples = tuple[tuple[tuple[str, ...], float], ...]
    _Changes = Sequence[tuple[Container, Container]]

_UP: Final = (
    "docker_up",
    "Whether Docker answered the last ping; 0 also if the last poll is too old to trust.",
)
_ENGINE_INFO: Final = (
    "docker_engine_info",
    "The engine, from its /version; 1.",
)
_BUILD_INFO: Final = (
    "docker_exporter_build_info",
    "The exporter; 1.",
)
_POLLS: Final = (
    "docker_exporter_polls_total",
    "Polls of the engine, by result.",
)
_POLL_DURATION: Final = (
    "docker_exporter_poll_duration_seconds",
    "How long the last poll took.",
)
_LAST_SUCCESS: Final = (
    "docker_exporter_last_success_timestamp_seconds",
    "When the last poll that succeeded ended; 0 before the first.",
)
_WATCHED: Final = (
    "docker_exporter_containers_watched",
    "Containers that container_health reports.",
)
_REQUESTS: Final = (
    "docker_exporter_api_requests_total",
    "Requests to the Docker API, by endpoint.",
)
_ERRORS: Final = (
    "docker_exporter_api_errors_total",
    "Requests to the Docker API that failed, by endpoint and reason.",
)


class _ContainerMetric(NamedTuple):
    """A metric of each container: a counter if its name ends in `_total`, else a gauge.

    `samples_of` returns a container's samples: the values of the labels after `id` and
    `name`, and the value.
    """

    name: str
    help: str
    samples_of: Callable[[Container], _Samples]
    labels: tuple[str, ...] = ()


def _unlabelled(value: float | None) -> _Samples:
    return () if value is None else (((), value),)


@lru_cache
def _one_hot(values: tuple[str, ...], current: str | None) -> _Samples:
    return tuple(((value,), float(value == current)) for value in values)


def _detail(name: str, text: str, *path: str) -> _ContainerMetric:
    """Return the metric of a value in `Details`; without the value there is no sample."""

    def samples_of(container: Container) -> _Samples:
        value: Any = container.details
        for attribute in path:
            value = getattr(value, attribute, None)
        return _unlabelled(value)

    return _ContainerMetric(name, text, samples_of)


def _info_samples(container: Container) -> _Samples:
    c = container
    return (((c.image, c.image_id, c.compose_project, c.compose_service), 1),)


def _health_status_samples(container: Container) -> _Samples:
    current = None
    # moby sets `unhealthy` when a container stops, pauses or restarts.
    if container.running:
        current = container.health_status
    return _one_hot(HEALTH_STATUSES, current)


def _restart_policy_samples(container: Container) -> _Samples:
    details = container.details
    if details is None or details.restart_policy is None:
        return ()
    return (((details.restart_policy,), 1),)


_HEALTH: Final = _ContainerMetric(
    "container_health",
    "Container health: 0 unknown, 1 stopped, 2 alive without a healthcheck, 3 "
    "unhealthy, 4 healthy.",
    lambda c: _unlabelled(c.health),
)

# While the engine does not answer.
_UNKNOWN: Final = _HEALTH._replace(samples_of=lambda _: _unlabelled(ContainerHealth.UNKNOWN))

_CONTAINER_METRICS: Final = (
    _HEALTH,
    _ContainerMetric(
        "docker_container_info",
        "The container's image and Compose labels; 1.",
        _info_samples,
        ("image", "image_id", "compose_project", "compose_service"),
    ),
    _ContainerMetric(
        "docker_container_state",
        "The container's state: 1 for the one it is in.",
        lambda c: _one_hot(STATES, c.state),
        ("state",),
    ),
    _ContainerMetric(
        "docker_container_health_status",
        "The engine's health status, whether a probe stands behind it or not: 1 for the "
        "current one, while the container is running.",
        _health_status_samples,
        ("status",),
    ),
    _ContainerMetric(
        "docker_container_created_timestamp_seconds",
        "When the container was created.",
        lambda c: _unlabelled(c.created),
    ),
    _detail(
        "docker_container_started_timestamp_seconds",
        "When the container last started, from State.StartedAt.",
        "started",
    ),
    _detail(
        "docker_container_finished_timestamp_seconds",
        "When the container last ended, from State.FinishedAt.",
        "finished",
    ),
    _detail(
        "docker_container_restarts_total",
        "Restarts by the restart policy since the last manual start, from RestartCount.",
        "restarts",
    ),
    _detail(
        "docker_container_exit_code",
        "The exit code of the last run, from State.ExitCode: for exited, dead and restarting.",
        "exit_code",
    ),
    _detail(
        "docker_container_start_failed",
        "Whether the last attempt to start the container failed, from State.Error.",
        "start_failed",
    ),
    _detail(
        "docker_container_oom_killed",
        "Whether the container was killed because memory ran out, from State.OOMKilled.",
        "oom_killed",
    ),
    _detail(
        "docker_container_health_failing_streak",
        "Healthchecks failed in a row, from State.Health.FailingStreak.",
        "failing_streak",
    ),
    _detail(
        "docker_container_health_last_probe_timestamp_seconds",
        "When the last probe of this run ended, by the engine's clock, from State.Health.Log.",
        "probe",
        "ended",
    ),
    _detail(
        "docker_container_health_last_probe_duration_seconds",
        "How long the last probe of this run took, from State.Health.Log.",
        "probe",
        "duration",
    ),
    _detail(
        "docker_container_health_last_probe_exit_code",
        "The exit code of the last probe of this run, from State.Health.Log: 0 it passed,"
        " -1 it was not run to its end, others it failed.",
        "probe",
        "exit_code",
    ),
    _detail(
        "docker_container_health_interval_seconds",
        "The time between two probes, from Config.Healthcheck.Interval.",
        "healthcheck",
        "interval",
    ),
    _detail(
        "docker_container_health_timeout_seconds",
        "The longest duration of a probe, from Config.Healthcheck.Timeout.",
        "healthcheck",
        "timeout",
    ),
    _detail(
        "docker_container_health_retries",
        "The failed probes in a row that make it unhealthy, from Config.Healthcheck.Retries.",
        "healthcheck",
        "retries",
    ),
    _detail(
        "docker_container_memory_limit_bytes",
        "The limit of memory, from HostConfig.Memory.",
        "memory_limit",
    ),
    _detail(
        "docker_container_cpu_limit_cores",
        "The limit of CPU time, from HostConfig.NanoCpus, or CpuQuota by CpuPeriod.",
        "cpu_limit",
    ),
    _detail(
        "docker_container_pids_limit",
        "The limit of processes, from HostConfig.PidsLimit.",
        "pids_limit",
    ),
    _ContainerMetric(
        "docker_container_restart_policy",
        "The container's restart policy, from HostConfig.RestartPolicy; 1.",
        _restart_policy_samples,
        ("policy",),
    ),
)
_LABELS: Final = (
    "docker_container_labels",
    "The container's labels named in CONTAINER_LABELS; 1.",
)


class _ContainerFamily(Metric):
    """A metric of all containers; creates each sample only when it is read.

    A list of samples would take megabytes, and encoding 10,000 containers a quarter
    longer.
    """

    def __init__(self, metric: _ContainerMetric, containers: Sequence[Container] = ()) -> None:
        kind = "counter" if metric.name.endswith("_total") else "gauge"
        super().__init__(metric.name.removesuffix("_total"), metric.help, kind)
        self._metric = metric
        self._containers = containers
        self.has_samples = any(map(metric.samples_of, containers))

    @property  # type: ignore[override]  # the base class has a list; encoders only iterate
    def samples(self) -> Iterator[Sample]:
        """Yield the samples."""
        names = ("id", "name", *self._metric.labels)
        for c in self._containers:
            for values, value in self._metric.samples_of(c):
                labels = dict(zip(names, (c.id, c.name, *values), strict=True))
                yield Sample(self._metric.name, labels, value)

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """Ignore the list that the base class assigns."""

    def updated(
        self, containers: Sequence[Container], changes: _Changes | None
    ) -> _ContainerFamily:
        """Return the family of these containers: this object, unless a sample has changed."""
        if changes is None:
            return _ContainerFamily(self._metric, containers)
        samples_of = self._metric.samples_of
        for was, now in changes:
            if samples_of(was) != samples_of(now):
                return _ContainerFamily(self._metric, containers)
        return self


class SnapshotMetrics:
    """The families of snapshots, one snapshot after the other.

    A family whose samples are the same as in the last snapshot stays the same object, so
    that it is not encoded again. `label_keys` are the container labels to export.
    """

    def __init__(self, label_keys: Sequence[str] = ()) -> None:
        metrics = [*_CONTAINER_METRICS]
        if label_keys:
            labels = tuple(map(label_name, label_keys))
            metrics.append(_ContainerMetric(*_LABELS, lambda c: ((c.labels, 1),), labels))
        self._families = [*map(_ContainerFamily, metrics)]
        self._unknown = _ContainerFamily(_UNKNOWN)

        # The containers of `_families`.
        self._containers: tuple[Container, ...] = ()

    def families_of(self, snapshot: Snapshot) -> Publication:
        """Return the families of a snapshot."""
        containers = snapshot.containers
        changes = _changes(self._containers, containers)
        self._containers = containers
        self._families = [each.updated(containers, changes) for each in self._families]
        self._unknown = self._unknown.updated(containers, changes)
        unknown = known = _with_samples([self._unknown])
        if snapshot.listed:
            known = _with_samples(self._families)
        return Publication(
            families=[*_engine_families(snapshot.engine, up=snapshot.up), *known],
            fallback=[*_engine_families(None, up=False), *unknown],
            own=_own_families(snapshot),
            trusted_until=snapshot.trusted_until,
        )


def _changes(before: Sequence[Container], after: Sequence[Container]) -> _Changes | None:
    """Return each changed container before and after.

    `None` if ids, names or their order differ: then all samples have to be made again.
    """
    if len(before) != len(after):
        return None
    changes = []
    for was, now in zip(before, after, strict=True):
        if (was.id, was.name) != (now.id, now.name):
            return None
        if was != now:
            changes.append((was, now))
    return changes


def _with_samples(families: Sequence[_ContainerFamily]) -> list[_ContainerFamily]:
    return [family for family in families if family.has_samples]


@lru_cache(maxsize=4)
def _engine_families(engine: EngineInfo | None, *, up: bool) -> tuple[Metric, ...]:
    if engine is None or not up:
        return (gauge(_UP, up),)
    names = ("version", "api_version", "os", "arch")
    labels = {name: getattr(engine, name) for name in names}
    return gauge(_UP, up), _info(_ENGINE_INFO, labels)


def _own_families(snapshot: Snapshot) -> list[Metric]:
    counts = snapshot.counts
    return [
        build_info(),
        counter(_POLLS, ("result",), counts.polls),
        gauge(_POLL_DURATION, snapshot.duration),
        gauge(_LAST_SUCCESS, snapshot.last_success),
        gauge(_WATCHED, len(snapshot.containers)),
        counter(_REQUESTS, ("endpoint",), counts.requests),
        counter(_ERRORS, ("endpoint", "reason"), counts.errors),
    ]


def build_info() -> Metric:
    """Return the versions of the exporter and of Python."""
    versions = {"version": __version__, "python_version": platform.python_version()}
    return _info(_BUILD_INFO, versions)


def gauge(metric: tuple[str, str], value: float) -> Metric:
    """Return a gauge without labels; `metric` is its name and HELP."""
    return GaugeMetricFamily(*metric, value)


def counter(
    metric: tuple[str, str], labels: Sequence[str], counts: Mapping[Any, int]
) -> Metric:
    """Return a counter; `metric` is its name and HELP.

    The keys of `counts` are the value of its one label, or tuples of all values.
    """
    family = CounterMetricFamily(*metric, labels=labels)
    for key, count in counts.items():
        values = (key,) if isinstance(key, str) else key
        family.add_metric(values, count)
    return family


def _info(metric: tuple[str, str], labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(*metric, labels=[*labels])
    family.add_metric([*labels.values()], 1)
    return family
