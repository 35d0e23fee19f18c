"""Every metric's name, HELP and labels; a `Snapshot` becomes families."""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from docker_prom_exporter import __version__
from docker_prom_exporter.containers import HEALTH_STATUSES, STATES, ContainerHealth
from docker_prom_exporter.exposition import Publication
from docker_prom_exporter.label_names import label_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client.samples import Sample

    from docker_prom_exporter.containers import Container, Details
    from docker_prom_exporter.snapshot import EngineInfo, Snapshot

    _Sample = tuple[tuple[str, ...], float]
    _Samples = tuple[_Sample, ...]
    _Read = Callable[[Container], _Samples]
    _Changes = Sequence[tuple[Container, Container]]


class _Family(NamedTuple):
    """A metric family: its name, what it says, and the labels it has beside those of its kind."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    counter: bool = False

    def of(self, samples: Iterable[_Sample], *more_labels: str) -> Metric:
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        family = kind(self.name, self.help, labels=(*more_labels, *self.labels))
        for labels, value in samples:
            family.add_metric(labels, value)
        return family


class _ContainerFamily(Metric):
    """A family of all containers. Its samples are made when they are read: kept, they take 2 MiB at 200."""

    def __init__(self, family: _Family, containers: Sequence[Container], read: _Read) -> None:
        plain = family.of((), "id", "name")
        super().__init__(plain.name, plain.documentation, plain.type)
        self._family = family
        self._containers = containers
        self._read = read
        self.has_samples = any(map(read, containers))

    @property
    def samples(self) -> list[Sample]:
        """Make the samples."""
        samples = (
            ((c.id, c.name, *labels), value) for c in self._containers for labels, value in self._read(c)
        )
        return self._family.of(samples, "id", "name").samples

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """Take no others."""


UP = _Family(
    "docker_up",
    "Whether Docker answered the last ping (1), or did not or the last poll is too old to trust (0).",
)
ENGINE_INFO = _Family(
    "docker_engine_info",
    "The engine, from its /version; 1.",
    ("version", "api_version", "os", "arch"),
)
BUILD_INFO = _Family("docker_exporter_build_info", "The exporter; 1.", ("version", "python_version"))
POLLS = _Family("docker_exporter_polls_total", "Polls of the engine, by result.", ("result",), counter=True)
POLL_DURATION = _Family("docker_exporter_poll_duration_seconds", "How long the last poll took.")
LAST_SUCCESS = _Family(
    "docker_exporter_last_success_timestamp_seconds",
    "When the last poll that succeeded ended; 0 before the first.",
)
WATCHED = _Family("docker_exporter_containers_watched", "Containers that container_health reports.")
REQUESTS = _Family(
    "docker_exporter_api_requests_total",
    "Requests to the Docker API, by endpoint.",
    ("endpoint",),
    counter=True,
)
ERRORS = _Family(
    "docker_exporter_api_errors_total",
    "Requests to the Docker API that failed, by endpoint and reason.",
    ("endpoint", "reason"),
    counter=True,
)

PUSHES = _Family(
    "docker_exporter_pushes_total", "Pushes to the Pushgateway, by result.", ("result",), counter=True
)
LAST_PUSH = _Family(
    "docker_exporter_last_push_timestamp_seconds",
    "When the last push that succeeded ended; 0 before the first.",
)
TEXTFILE_WRITES = _Family(
    "docker_exporter_textfile_writes_total", "Writes of the text file, by result.", ("result",), counter=True
)

GROUPS_EXPIRED = _Family(
    "docker_exporter_groups_expired_total",
    "Groups deleted from the Pushgateway after they were not pushed for EXPIRE_AFTER.",
    counter=True,
)
GATEWAY_UP = _Family(
    "docker_exporter_gateway_up",
    "Whether the last look at the Pushgateway went well (1), or did not or is too old to trust (0).",
)

HEALTH = _Family(
    "container_health",
    "Container health: 0 unknown, 1 stopped, 2 alive without a healthcheck, 3 unhealthy, 4 healthy.",
)
INFO = _Family(
    "docker_container_info",
    "The container's image and Compose labels; 1.",
    ("image", "image_id", "compose_project", "compose_service"),
)
STATE = _Family(
    "docker_container_state",
    "The container's state: 1 for the one it is in.",
    ("state",),
)
HEALTH_STATUS = _Family(
    "docker_container_health_status",
    "The healthcheck's verdict: 1 for the one it gave, while the container is running.",
    ("status",),
)
CREATED = _Family(
    "docker_container_created_timestamp_seconds",
    "When the container was created.",
)
STARTED = _Family(
    "docker_container_started_timestamp_seconds",
    "When the container last started, from State.StartedAt.",
)
FINISHED = _Family(
    "docker_container_finished_timestamp_seconds",
    "When the container last ended, from State.FinishedAt.",
)
RESTARTS = _Family(
    "docker_container_restarts_total",
    "Restarts by the restart policy since the last manual start, from RestartCount.",
    counter=True,
)
EXIT_CODE = _Family(
    "docker_container_exit_code",
    "The exit code of a container that exited or is dead, from State.ExitCode.",
)
OOM_KILLED = _Family(
    "docker_container_oom_killed",
    "Whether the container was killed for want of memory, from State.OOMKilled.",
)
FAILING_STREAK = _Family(
    "docker_container_health_failing_streak",
    "Healthchecks failed in a row, from State.Health.FailingStreak.",
)
LABELS = _Family("docker_container_labels", "The container's labels named in CONTAINER_LABELS; 1.")
RESTART_POLICY = _Family(
    "docker_container_restart_policy",
    "The container's restart policy, from HostConfig.RestartPolicy; 1.",
    ("policy",),
)


def _one(value: float | None) -> _Samples:
    return () if value is None else (((), value),)


@lru_cache(maxsize=2 * (len(STATES) + len(HEALTH_STATUSES)))
def _one_hot(values: tuple[str, ...], current: str | None) -> _Samples:
    return tuple(((value,), float(value == current)) for value in values)


def _detail(read: Callable[[Details], float | None]) -> Callable[[Container], _Samples]:
    return lambda c: () if c.details is None else _one(read(c.details))


_CONTAINER_FAMILIES: Final[tuple[tuple[_Family, _Read], ...]] = (
    (HEALTH, lambda c: _one(c.health)),
    (INFO, lambda c: (((c.image, c.image_id, c.compose_project, c.compose_service), 1),)),
    (STATE, lambda c: _one_hot(STATES, c.state)),
    (HEALTH_STATUS, lambda c: _one_hot(HEALTH_STATUSES, c.health_status if c.running else None)),
    (CREATED, lambda c: _one(c.created)),
    (STARTED, _detail(lambda d: d.started)),
    (FINISHED, _detail(lambda d: d.finished)),
    (RESTARTS, _detail(lambda d: d.restarts)),
    (EXIT_CODE, _detail(lambda d: d.exit_code)),
    (OOM_KILLED, _detail(lambda d: d.oom_killed)),
    (FAILING_STREAK, _detail(lambda d: d.failing_streak)),
    (
        RESTART_POLICY,
        lambda c: (((c.details.restart_policy,), 1),) if c.details and c.details.restart_policy else (),
    ),
)


class Publications:
    """Turns one snapshot after the other into what is to be served.

    A family that has the samples it had in the last snapshot is the same object, which need not be encoded
    again. `label_keys` are the container labels that the user chose.
    """

    def __init__(self, label_keys: Sequence[str] = ()) -> None:
        chosen = ((_labels_family(label_keys), lambda c: ((c.labels, 1),)),) if label_keys else ()
        self._kept = [_Kept(family, read) for family, read in (*_CONTAINER_FAMILIES, *chosen)]
        self._unknown = _Kept(HEALTH, lambda _: _one(ContainerHealth.UNKNOWN))
        self._containers: tuple[Container, ...] = ()

    def of(self, snapshot: Snapshot) -> Publication:
        """Return what is to be served from now on."""
        changes = _changes(self._containers, snapshot.containers)
        self._containers = snapshot.containers
        for kept in (*self._kept, self._unknown):
            kept.update(snapshot.containers, changes)
        unknown = [kept.family for kept in (self._unknown,) if kept.family.has_samples]
        found = (
            [kept.family for kept in self._kept if kept.family.has_samples] if snapshot.listed else unknown
        )
        return Publication(
            families=[*_engine_families(snapshot.engine, up=snapshot.up), *found],
            fallback=[*_engine_families(None, up=False), *unknown],
            own=_own_families(snapshot),
            trusted_until=snapshot.trusted_until,
        )


class _Kept:
    """The family of some containers, made anew only when one of its samples changes."""

    def __init__(self, family: _Family, read: _Read) -> None:
        self._family = family
        self._read = read
        self.family = _ContainerFamily(family, (), read)

    def update(self, containers: Sequence[Container], changes: _Changes | None) -> None:
        if changes is None or any(self._read(was) != self._read(now) for was, now in changes):
            self.family = _ContainerFamily(self._family, containers, self._read)


def _changes(before: Sequence[Container], after: Sequence[Container]) -> _Changes | None:
    """Return what each changed container was and is; `None` where others are shown, or in other order."""
    if [(c.id, c.name) for c in before] != [(c.id, c.name) for c in after]:
        return None
    return [(was, now) for was, now in zip(before, after, strict=True) if was != now]


@lru_cache(maxsize=4)
def _engine_families(engine: EngineInfo | None, *, up: bool) -> tuple[Metric, ...]:
    if engine is None or not up:
        return (UP.of(_one(up)),)
    labels = (engine.version, engine.api_version, engine.os, engine.arch)
    return UP.of(_one(up)), ENGINE_INFO.of([(labels, 1)])


def _own_families(snapshot: Snapshot) -> list[Metric]:
    counts = snapshot.counts
    return [
        _build_info(),
        POLLS.of(((result,), count) for result, count in counts.polls.items()),
        POLL_DURATION.of(_one(snapshot.duration)),
        LAST_SUCCESS.of(_one(snapshot.last_success)),
        WATCHED.of(_one(len(snapshot.containers))),
        REQUESTS.of(((endpoint,), count) for endpoint, count in counts.requests.items()),
        ERRORS.of((labels, count) for labels, count in counts.errors.items()),
    ]


def _build_info() -> Metric:
    return BUILD_INFO.of([((__version__, platform.python_version()), 1)])


def _labels_family(keys: Sequence[str]) -> _Family:
    return LABELS._replace(labels=tuple(map(label_name, keys)))


def push_families(results: Mapping[str, int], last: float) -> list[Metric]:
    """Return how many pushes had which result, and when the last one succeeded, in Unix seconds."""
    return [PUSHES.of(((result,), count) for result, count in results.items()), LAST_PUSH.of(_one(last))]


def textfile_families(results: Mapping[str, int]) -> list[Metric]:
    """Return how many writes of the text file had which result."""
    return [TEXTFILE_WRITES.of(((result,), count) for result, count in results.items())]


def expiry_publication(*, up: bool, expired: int, trusted_until: float) -> Publication:
    """Return what `expire` serves: whether it could ask the gateway, and how many groups it deleted."""
    return Publication(
        families=[GATEWAY_UP.of(_one(up))],
        fallback=[GATEWAY_UP.of(_one(value=False))],
        own=[_build_info(), GROUPS_EXPIRED.of(_one(expired))],
        trusted_until=trusted_until,
    )
