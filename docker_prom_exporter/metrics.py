"""Every metric's name, HELP and labels, and the families of a `Snapshot`."""

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
    _SamplesOf = Callable[[Container], _Samples]
    _Changes = Sequence[tuple[Container, Container]]


_HELP: Final = {
    "docker_up": (
        "Whether Docker answered the last ping (1), or did not or the last poll is too old to trust (0)."
    ),
    "docker_engine_info": "The engine, from its /version; 1.",
    "docker_exporter_build_info": "The exporter; 1.",
    "docker_exporter_polls_total": "Polls of the engine, by result.",
    "docker_exporter_poll_duration_seconds": "How long the last poll took.",
    "docker_exporter_last_success_timestamp_seconds": (
        "When the last poll that succeeded ended; 0 before the first."
    ),
    "docker_exporter_containers_watched": "Containers that container_health reports.",
    "docker_exporter_api_requests_total": "Requests to the Docker API, by endpoint.",
    "docker_exporter_api_errors_total": "Requests to the Docker API that failed, by endpoint and reason.",
    "docker_exporter_pushes_total": "Pushes to the Pushgateway, by result.",
    "docker_exporter_last_push_timestamp_seconds": (
        "When the last push that succeeded ended; 0 before the first."
    ),
    "docker_exporter_textfile_writes_total": "Writes of the text file, by result.",
    "docker_exporter_groups_expired_total": (
        "Groups deleted from the Pushgateway after they were not pushed for EXPIRE_AFTER."
    ),
    "docker_exporter_gateway_up": (
        "Whether the last look at the Pushgateway went well (1), or did not or is too old to trust (0)."
    ),
    "container_health": (
        "Container health: 0 unknown, 1 stopped, 2 alive without a healthcheck, 3 unhealthy, 4 healthy."
    ),
    "docker_container_info": "The container's image and Compose labels; 1.",
    "docker_container_state": "The container's state: 1 for the one it is in.",
    "docker_container_health_status": (
        "The engine's health status, whether a probe stands behind it or not: "
        "1 for the current one, while the container is running."
    ),
    "docker_container_created_timestamp_seconds": "When the container was created.",
    "docker_container_started_timestamp_seconds": "When the container last started, from State.StartedAt.",
    "docker_container_finished_timestamp_seconds": "When the container last ended, from State.FinishedAt.",
    "docker_container_restarts_total": (
        "Restarts by the restart policy since the last manual start, from RestartCount."
    ),
    "docker_container_exit_code": (
        "The exit code of the last run, from State.ExitCode: for exited, dead and restarting."
    ),
    "docker_container_start_failed": (
        "Whether the last attempt to start the container failed, from State.Error."
    ),
    "docker_container_oom_killed": (
        "Whether the container was killed for want of memory, from State.OOMKilled."
    ),
    "docker_container_health_failing_streak": (
        "Healthchecks failed in a row, from State.Health.FailingStreak."
    ),
    "docker_container_health_last_probe_timestamp_seconds": (
        "When the last probe of this run ended, by the engine's clock, from State.Health.Log."
    ),
    "docker_container_health_last_probe_duration_seconds": (
        "How long the last probe of this run took, from State.Health.Log."
    ),
    "docker_container_health_last_probe_exit_code": (
        "The exit code of the last probe of this run, from State.Health.Log: 0 it passed, "
        "-1 it was not run to its end, others it failed."
    ),
    "docker_container_health_interval_seconds": (
        "The time between two probes, from Config.Healthcheck.Interval."
    ),
    "docker_container_health_timeout_seconds": (
        "The longest duration of a probe, from Config.Healthcheck.Timeout."
    ),
    "docker_container_health_retries": (
        "The failed probes in a row that make it unhealthy, from Config.Healthcheck.Retries."
    ),
    "docker_container_memory_limit_bytes": "The limit of memory, from HostConfig.Memory.",
    "docker_container_cpu_limit_cores": (
        "The limit of CPU time, from HostConfig.NanoCpus, or CpuQuota by CpuPeriod."
    ),
    "docker_container_pids_limit": "The limit of processes, from HostConfig.PidsLimit.",
    "docker_container_restart_policy": "The container's restart policy, from HostConfig.RestartPolicy; 1.",
    "docker_container_labels": "The container's labels named in CONTAINER_LABELS; 1.",
}


class _ContainerMetric(NamedTuple):
    """A metric of each container: a counter if its name ends in `_total`, else a gauge.

    `samples_of` returns a container's samples: the values of the labels after `id` and `name`,
    and the value.
    """

    name: str
    labels: tuple[str, ...]
    samples_of: _SamplesOf


def _unlabelled(value: float | None) -> _Samples:
    return () if value is None else (((), value),)


@lru_cache
def _one_hot(values: tuple[str, ...], current: str | None) -> _Samples:
    return tuple(((value,), float(value == current)) for value in values)


def _detail(*path: str) -> _SamplesOf:
    """Return the `samples_of` a value in `Details`; without the value there is no sample."""

    def samples_of(container: Container) -> _Samples:
        value: Any = container.details
        for name in path:
            value = getattr(value, name, None)
        return _unlabelled(value)

    return samples_of


_HEALTH: Final = _ContainerMetric("container_health", (), lambda c: _unlabelled(c.health))
_UNKNOWN: Final = _HEALTH._replace(samples_of=lambda _: _unlabelled(ContainerHealth.UNKNOWN))
_CONTAINER_METRICS: Final = (
    _HEALTH,
    _ContainerMetric(
        "docker_container_info",
        ("image", "image_id", "compose_project", "compose_service"),
        lambda c: (((c.image, c.image_id, c.compose_project, c.compose_service), 1),),
    ),
    _ContainerMetric(
        "docker_container_state", ("state",), lambda c: _one_hot(STATES, c.state)
    ),
    _ContainerMetric(
        "docker_container_health_status",
        ("status",),
        lambda c: _one_hot(HEALTH_STATUSES, c.health_status if c.running else None),
    ),
    _ContainerMetric(
        "docker_container_created_timestamp_seconds", (), lambda c: _unlabelled(c.created)
    ),
    _ContainerMetric("docker_container_started_timestamp_seconds", (), _detail("started")),
    _ContainerMetric("docker_container_finished_timestamp_seconds", (), _detail("finished")),
    _ContainerMetric("docker_container_restarts_total", (), _detail("restarts")),
    _ContainerMetric("docker_container_exit_code", (), _detail("exit_code")),
    _ContainerMetric("docker_container_start_failed", (), _detail("start_failed")),
    _ContainerMetric("docker_container_oom_killed", (), _detail("oom_killed")),
    _ContainerMetric("docker_container_health_failing_streak", (), _detail("failing_streak")),
    _ContainerMetric(
        "docker_container_health_last_probe_timestamp_seconds", (), _detail("probe", "ended")
    ),
    _ContainerMetric(
        "docker_container_health_last_probe_duration_seconds", (), _detail("probe", "duration")
    ),
    _ContainerMetric(
        "docker_container_health_last_probe_exit_code", (), _detail("probe", "exit_code")
    ),
    _ContainerMetric(
        "docker_container_health_interval_seconds", (), _detail("healthcheck", "interval")
    ),
    _ContainerMetric(
        "docker_container_health_timeout_seconds", (), _detail("healthcheck", "timeout")
    ),
    _ContainerMetric("docker_container_health_retries", (), _detail("healthcheck", "retries")),
    _ContainerMetric("docker_container_memory_limit_bytes", (), _detail("memory_limit")),
    _ContainerMetric("docker_container_cpu_limit_cores", (), _detail("cpu_limit")),
    _ContainerMetric("docker_container_pids_limit", (), _detail("pids_limit")),
    _ContainerMetric(
        "docker_container_restart_policy",
        ("policy",),
        lambda c: (
            (((c.details.restart_policy,), 1),)
            if c.details and c.details.restart_policy
            else ()
        ),
    ),
)


class _ContainerFamily(Metric):
    """A metric of all containers; creates each sample only when it is read.

    A list of samples would take megabytes, and encoding 10,000 containers would take a quarter longer.
    """

    def __init__(self, metric: _ContainerMetric, containers: Sequence[Container] = ()) -> None:
        kind = "counter" if metric.name.endswith("_total") else "gauge"
        super().__init__(metric.name.removesuffix("_total"), _HELP[metric.name], kind)
        self._metric = metric
        self._containers = containers
        self.has_samples = any(map(metric.samples_of, containers))

    @property  # type: ignore[override]  # the base class has a list; encoders only iterate
    def samples(self) -> Iterator[Sample]:
        """Yield the samples."""
        name, own_labels, samples_of = self._metric
        labels = ("id", "name", *own_labels)
        for c in self._containers:
            for values, value in samples_of(c):
                yield Sample(
                    name, dict(zip(labels, (c.id, c.name, *values), strict=True)), value
                )

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """Ignore the list that the base class assigns."""

    def updated(
        self, containers: Sequence[Container], changes: _Changes | None
    ) -> _ContainerFamily:
        """Return the family of these containers: this object, unless a sample has changed."""
        samples_of = self._metric.samples_of
        if changes is not None and all(
            samples_of(was) == samples_of(now) for was, now in changes
        ):
            return self
        return _ContainerFamily(self._metric, containers)


class Publications:
    """Turns snapshots into publications.

    A family whose samples are the same as in the last snapshot stays the same object, so that it is not
    encoded again. `label_keys` are the container labels to export.
    """

    def __init__(self, label_keys: Sequence[str] = ()) -> None:
        labels = tuple(map(label_name, label_keys))
        chosen = _ContainerMetric(
            "docker_container_labels", labels, lambda c: ((c.labels, 1),)
        )
        metrics = (
            (*_CONTAINER_METRICS, chosen, _UNKNOWN)
            if label_keys
            else (*_CONTAINER_METRICS, _UNKNOWN)
        )
        self._families = [*map(_ContainerFamily, metrics)]
        self._containers: tuple[Container, ...] = ()

    def of(self, snapshot: Snapshot) -> Publication:
        """Return the publication of a snapshot."""
        changes = _changes(self._containers, snapshot.containers)
        self._containers = snapshot.containers
        self._families = [
            each.updated(snapshot.containers, changes) for each in self._families
        ]
        known = [each for each in self._families[:-1] if each.has_samples]
        unknown = [each for each in self._families[-1:] if each.has_samples]
        return Publication(
            families=[
                *_engine_families(snapshot.engine, up=snapshot.up),
                *(known if snapshot.listed else unknown),
            ],
            fallback=[*_engine_families(None, up=False), *unknown],
            own=_own_families(snapshot),
            trusted_until=snapshot.trusted_until,
        )


def _changes(before: Sequence[Container], after: Sequence[Container]) -> _Changes | None:
    """Return each changed container before and after; `None` if ids, names or their order differ."""
    if [(c.id, c.name) for c in before] != [(c.id, c.name) for c in after]:
        return None
    return [(was, now) for was, now in zip(before, after, strict=True) if was != now]


@lru_cache(maxsize=4)
def _engine_families(engine: EngineInfo | None, *, up: bool) -> tuple[Metric, ...]:
    if engine is None or not up:
        return (_gauge("docker_up", up),)
    labels = {name: getattr(engine, name) for name in ("version", "api_version", "os", "arch")}
    return _gauge("docker_up", up), _info("docker_engine_info", labels)


def _own_families(snapshot: Snapshot) -> list[Metric]:
    counts = snapshot.counts
    return [
        build_info(),
        _counter("docker_exporter_polls_total", ("result",), counts.polls),
        _gauge("docker_exporter_poll_duration_seconds", snapshot.duration),
        _gauge("docker_exporter_last_success_timestamp_seconds", snapshot.last_success),
        _gauge("docker_exporter_containers_watched", len(snapshot.containers)),
        _counter("docker_exporter_api_requests_total", ("endpoint",), counts.requests),
        _counter("docker_exporter_api_errors_total", ("endpoint", "reason"), counts.errors),
    ]


def build_info() -> Metric:
    """Return the versions of the exporter and of Python."""
    versions = {"version": __version__, "python_version": platform.python_version()}
    return _info("docker_exporter_build_info", versions)


def push_families(results: Mapping[str, int], last: float) -> list[Metric]:
    """Return the number of pushes by result, and the time of the last success, in Unix seconds."""
    return [
        _counter("docker_exporter_pushes_total", ("result",), results),
        _gauge("docker_exporter_last_push_timestamp_seconds", last),
    ]


def textfile_families(results: Mapping[str, int]) -> list[Metric]:
    """Return the number of writes of the text file by result."""
    return [_counter("docker_exporter_textfile_writes_total", ("result",), results)]


def expiry_publication(*, up: bool, expired: int, trusted_until: float) -> Publication:
    """Return the publication of `expire`: whether the gateway answered, and the number of deleted groups."""
    return Publication(
        families=[_gauge("docker_exporter_gateway_up", up)],
        fallback=[_gauge("docker_exporter_gateway_up", 0)],
        own=[
            build_info(),
            _counter("docker_exporter_groups_expired_total", (), {(): expired}),
        ],
        trusted_until=trusted_until,
    )


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, _HELP[name], value)


def _info(name: str, labels: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily(name, _HELP[name], labels=[*labels])
    family.add_metric([*labels.values()], 1)
    return family


def _counter(name: str, labels: Sequence[str], counts: Mapping[Any, int]) -> Metric:
    """Return a counter; the keys of `counts` are the value of its one label, or tuples of all values."""
    family = CounterMetricFamily(name, _HELP[name], labels=labels)
    for values, count in counts.items():
        family.add_metric((values,) if isinstance(values, str) else values, count)
    return family
