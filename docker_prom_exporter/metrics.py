"""Owns every metric's name, HELP and labels; turns a `Snapshot` into families, and those into bytes, once."""

from __future__ import annotations

import platform
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.utils import floatToGoString

from docker_prom_exporter import __version__
from docker_prom_exporter.containers import HEALTH_STATUSES, STATES, ContainerHealth
from docker_prom_exporter.gzipped import deflated, gzipped, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from docker_prom_exporter.containers import Container, Details
    from docker_prom_exporter.gzipped import Part
    from docker_prom_exporter.snapshot import Snapshot

    _Sample = tuple[tuple[str, ...], float]
    _Samples = tuple[_Sample, ...]
    _Read = Callable[[Container], _Samples]
    _Families = tuple[tuple["_Family", _Read], ...]
    _Changes = list[tuple[Container, Container]] | None
    _Encode = Callable[[Collector], bytes]
    _Pack = Callable[[Iterable[bytes]], Part]


class _Family(NamedTuple):
    """A metric family: what it is called, what it says, and the labels it has beside those of its kind."""

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

HEALTH = _Family(
    "container_health",
    "Container health: 0 unknown, 1 stopped, 2 alive without a healthcheck, 3 unhealthy, 4 healthy.",
)
INFO = _Family(
    "docker_container_info",
    "The container's image and Compose labels, from /containers/json; 1.",
    ("image", "compose_project", "compose_service"),
)
STATE = _Family(
    "docker_container_state",
    "The container's state, from /containers/json: 1 for the one it is in.",
    ("state",),
)
HEALTH_STATUS = _Family(
    "docker_container_health_status",
    "The healthcheck's verdict: 1 for the one it gave, while the container is running.",
    ("status",),
)
CREATED = _Family(
    "docker_container_created_timestamp_seconds",
    "When the container was created, from /containers/json.",
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
    "Healthchecks failed in a row, from State.Health.FailingStreak; "
    "before API 1.52 as of the container's last change of state or health.",
)


def _one(value: float | None) -> _Samples:
    return () if value is None else (((), value),)


@lru_cache(maxsize=2 * (len(STATES) + len(HEALTH_STATUSES)))
def _one_hot(values: tuple[str, ...], current: str | None) -> _Samples:
    return tuple(((value,), float(value == current)) for value in values)


def _detail(read: Callable[[Details], float | None]) -> Callable[[Container], _Samples]:
    return lambda c: () if c.details is None else _one(read(c.details))


_CONTAINER_FAMILIES: Final[_Families] = (
    (HEALTH, lambda c: _one(c.health)),
    (INFO, lambda c: (((c.image, c.compose_project, c.compose_service), 1),)),
    (STATE, lambda c: _one_hot(STATES, c.state)),
    (HEALTH_STATUS, lambda c: _one_hot(HEALTH_STATUSES, c.health_status if c.running else None)),
    (CREATED, lambda c: _one(c.created)),
    (STARTED, _detail(lambda d: d.started)),
    (FINISHED, _detail(lambda d: d.finished)),
    (RESTARTS, _detail(lambda d: d.restarts)),
    (EXIT_CODE, _detail(lambda d: d.exit_code)),
    (OOM_KILLED, _detail(lambda d: d.oom_killed)),
    (FAILING_STREAK, _detail(lambda d: d.failing_streak)),
)
_UNKNOWN_FAMILIES: Final[_Families] = ((HEALTH, lambda _: _one(ContainerHealth.UNKNOWN)),)


def _families_of_containers(*, listed: bool) -> _Families:
    """Return all; where containers were not listed, only that their health is unknown."""
    return _CONTAINER_FAMILIES if listed else _UNKNOWN_FAMILIES


def exporter_families(snapshot: Snapshot) -> list[Metric]:
    """Return what there is to say of the engine and of the exporter itself."""
    engine, counts = snapshot.engine, snapshot.counts
    told = [] if engine is None else [(engine.version, engine.api_version, engine.os, engine.arch)]
    return [
        UP.of(_one(snapshot.up)),
        *(ENGINE_INFO.of([(labels, 1)]) for labels in told if snapshot.up),
        BUILD_INFO.of([((__version__, platform.python_version()), 1)]),
        POLLS.of(((result,), count) for result, count in counts.polls.items()),
        POLL_DURATION.of(_one(snapshot.duration)),
        LAST_SUCCESS.of(_one(snapshot.last_success)),
        WATCHED.of(_one(len(snapshot.containers))),
        REQUESTS.of(((endpoint,), count) for endpoint, count in counts.requests.items()),
        ERRORS.of((labels, count) for labels, count in counts.errors.items()),
    ]


def container_families(snapshot: Snapshot) -> list[Metric]:
    """Return what there is to say of containers; families that no container has a sample of are left out."""
    families = []
    for family, read in _families_of_containers(listed=snapshot.listed):
        samples = [((c.id, c.name, *labels), value) for c in snapshot.containers for labels, value in read(c)]
        if samples:
            families.append(family.of(samples, "id", "name"))
    return families


def push_families(results: Mapping[str, int], last: float) -> list[Metric]:
    """Return what there is to say of pushes: how many had which result, and the last's Unix time."""
    return [PUSHES.of(((result,), count) for result, count in results.items()), LAST_PUSH.of(_one(last))]


def textfile_families(results: Mapping[str, int]) -> list[Metric]:
    """Return how many writes of the text file had which result."""
    return [TEXTFILE_WRITES.of(((result,), count) for result, count in results.items())]


def snapshot_families(snapshot: Snapshot) -> Collector:
    """Return all that a snapshot says, without `process_*`, which would clash with those of who takes it."""
    return _Collected([*exporter_families(snapshot), *container_families(snapshot)])


class Answer(NamedTuple):
    """An exposition as it goes out, its body in parts; `content_encoding` is `gzip` or empty."""

    content_type: str
    content_encoding: str
    body: tuple[bytes, ...]


class Exposition:
    """Renders the snapshot of the moment by prometheus-client, and only what changed since it last did.

    `take` returns the latest snapshot, `others` families that stand beside it. What is served equals what
    prometheus-client renders from `registry`.
    """

    def __init__(
        self,
        take: Callable[[], Snapshot],
        clock: Callable[[], float] = time.monotonic,
        others: Callable[[], list[Metric]] = list,
    ) -> None:
        self._take = take
        self._others = others
        self._clock = clock
        self._pages: dict[_PageKey, _ContainerPage] = {}
        self._process = [PlatformCollector(registry=None), ProcessCollector(registry=None)]

    def is_polled(self) -> bool:
        """Tell whether a poll has ended since the start."""
        return self._take().polled

    def is_trusted(self) -> bool:
        """Tell whether a poll has ended, or the exporter started, recently enough."""
        return self._take().is_trusted(self._clock())

    def snapshot(self) -> Snapshot:
        """Return the latest snapshot, or what is left of it when it is too old to trust."""
        snapshot = self._take()
        return snapshot if snapshot.is_trusted(self._clock()) else snapshot.distrusted()

    def render(self, accept: str = "", accept_encoding: str = "", names: tuple[str, ...] = ()) -> Answer:
        """Render for a scrape with these headers, all of it or only the samples named as in `name[]`."""
        encode, content_type = _encoder(accept)
        zipped = gzip_accepted(accept_encoding)
        pack = deflated if zipped else plain
        snapshot = self.snapshot()
        if names:
            parts = [pack([encode(self.registry(snapshot).restricted_registry(names))])]
        else:
            own = _without_end(encode(_Collected(self._own_families(snapshot), *self._process)))
            page = self._page(_PageKey(content_type, zipped, snapshot.listed), encode, pack)
            parts = [pack([own]), *page.parts(snapshot.containers)]
        if zipped:
            return Answer(content_type, "gzip", gzipped(parts))
        return Answer(content_type, "", tuple(part.data for part in parts))

    def registry(self, snapshot: Snapshot) -> CollectorRegistry:
        """Return a registry of prometheus-client's that collects all that is served of the snapshot."""
        registry = CollectorRegistry(auto_describe=True)
        registry.register(_Collected(self._own_families(snapshot)))
        for collector in self._process:
            registry.register(collector)
        registry.register(_Collected(container_families(snapshot)))
        return registry

    def _own_families(self, snapshot: Snapshot) -> list[Metric]:
        return [*exporter_families(snapshot), *self._others()]

    def _page(self, key: _PageKey, encode: _Encode, pack: _Pack) -> _ContainerPage:
        if key not in self._pages:
            if len(self._pages) >= _MOST_PAGES:
                self._pages.clear()
            self._pages[key] = _ContainerPage(_families_of_containers(listed=key.listed), encode, pack)
        return self._pages[key]


class _PageKey(NamedTuple):
    content_type: str
    zipped: bool
    listed: bool


_MOST_PAGES: Final = 8
_END: Final = b"# EOF\n"


class _Collected:
    """What prometheus-client's encoders and registry take for a collector."""

    def __init__(self, families: list[Metric], *collectors: Collector) -> None:
        self._families = families
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        yield from self._families
        for collector in self._collectors:
            yield from collector.collect()

    def describe(self) -> list[Metric]:
        return self._families


class _ContainerPage:
    """The containers' part of the exposition in one format, kept from one scrape to the next.

    A family is written anew only when one of its samples changed: of eleven, a verdict changes two or three.
    """

    def __init__(self, families: _Families, encode: _Encode, pack: _Pack) -> None:
        self._pack = pack
        self._templates = [_Template(family, read, encode) for family, read in families]
        self._written = [pack([])] * len(families)
        self._end = pack([encode(_Collected([]))])
        self._containers: tuple[Container, ...] = ()

    def parts(self, containers: tuple[Container, ...]) -> list[Part]:
        """Return the families in their order, and the end."""
        changes = _changes(self._containers, containers)
        stale = [n for n, template in enumerate(self._templates) if template.is_stale(changes)]
        if stale:
            owns = [{"id": _escaped(c.id), "name": _escaped(c.name)} for c in containers]
            for n in stale:
                self._written[n] = self._pack(self._templates[n].fill(containers, owns))
        self._containers = containers
        return [part for part in (*self._written, self._end) if part.size]


def _changes(before: tuple[Container, ...], after: tuple[Container, ...]) -> _Changes:
    """Return what each container that changed was and is; None where others are shown, or in other order."""
    if before == after:
        return []
    if [(c.id, c.name) for c in before] != [(c.id, c.name) for c in after]:
        return None
    return [(was, now) for was, now in zip(before, after, strict=True) if was != now]


class _Template:
    """How prometheus-client writes one family in one format: its header, and a sample's line.

    It writes a sample whose label values are placeholders, once, and each container's own are filled in.
    """

    def __init__(self, family: _Family, read: _Read, encode: _Encode) -> None:
        self._read = read
        self._labels = family.labels
        placeholders = tuple(f"%({label})s" for label in ("id", "name", *family.labels))
        empty = encode(_Collected([family.of([], "id", "name")]))
        whole = encode(_Collected([family.of([(placeholders, 0)], "id", "name")]))
        self._header = _without_end(empty).decode()
        line = _without_end(whole).decode().removeprefix(self._header)
        self._line = line.replace(" 0.0\n", " %(value)s\n")
        self._lines = lru_cache(maxsize=8)(self._lines_of)

    def is_stale(self, changes: _Changes) -> bool:
        """Tell whether any of these changes is one of the family's samples."""
        return changes is None or any(self._read(was) != self._read(now) for was, now in changes)

    def fill(self, containers: tuple[Container, ...], owns: list[dict[str, str]]) -> Iterator[bytes]:
        """Write the samples of all containers, each with its own id and name; nothing where there is none."""
        header = self._header
        for container, own in zip(containers, owns, strict=True):
            if samples := self._read(container):
                yield (header + self._lines(samples) % own).encode()
                header = ""

    def _lines_of(self, samples: _Samples) -> str:
        """Return a container's lines, with places for its id and name: those of many others are the same."""
        return "".join(
            self._line
            % {
                **_PLACES,
                **dict(zip(self._labels, map(_literal, labels), strict=True)),
                "value": _number(value),
            }
            for labels, value in samples
        )


_PLACES: Final = {"id": "%(id)s", "name": "%(name)s"}


def _literal(label: str) -> str:
    return _escaped(label).replace("%", "%%")


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _encoder(accept: str) -> tuple[_Encode, str]:
    """Choose as prometheus-client does, which stumbles over a version that is none: then its default."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        return choose_encoder("")


def _without_end(body: bytes) -> bytes:
    return body.removesuffix(_END)
