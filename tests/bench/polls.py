"""The CPU time of a poll in the engine and the exporter, compared with lists and inspects by docker-py."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from docker import APIClient

from bench.measuring import Row, at_most, cost, medians
from docker_prom_exporter.containers import LABEL
from docker_prom_exporter.demo import WATCH
from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from support.clock import Clock
from support.real import DOCKER_28, DOCKER_28_CONTAINERD, IMAGE, Engine, Kind
from support.simulated import poller_for
from support.waiting import wait_for

_PLATFORMS = "platforms:bench"
_INTERVAL = 15
_FEW = 5


def rows(*, size: int, inspected: tuple[int, ...], settle: bool, rounds: int) -> Iterator[Row]:
    """Measure polls of real engines; the clock is moved forward by the interval between two polls."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        yield from _list_mode(size, clock, settle=settle, rounds=rounds)
        yield from _inspect_mode(inspected, clock, rounds)


def _list_mode(size: int, clock: Clock, *, settle: bool, rounds: int) -> Iterator[Row]:
    with _engine(DOCKER_28, {size: {}}, settle=settle) as (engine, docker_py):
        measured = _measured(
            engine,
            rounds,
            {
                "poll": _poll(engine, clock, only_labelled=False),
                "poll between inspects": _poll(engine, clock, only_labelled=False, interval=0),
                "inspecting": partial(_inspect_each, docker_py),
                "list": partial(docker_py.containers, all=True),
            },
        )
    poll, inspecting, what = (
        measured["poll"],
        measured["inspecting"],
        f"graph driver, {size} watched",
    )
    yield at_most(
        1 / 10,
        f"{what}: steady poll, compared with inspecting each",
        sum(poll),
        sum(inspecting),
    )
    yield at_most(
        2,
        f"{what}: exporter alone, without inspects, compared with containers()",
        measured["poll between inspects"][1],
        measured["list"][1],
    )
    crowd = {size - _FEW: {}, _FEW: WATCH}
    with _engine(DOCKER_28, crowd, settle=settle) as (engine, docker_py):
        measured = _measured(
            engine,
            rounds,
            {"poll": _poll(engine, clock), "list": partial(docker_py.containers, all=True)},
        )
    yield at_most(
        1 / 3,
        f"graph driver, {_FEW} watched among {size}: steady poll, compared with one list of all",
        sum(measured["poll"]),
        sum(measured["list"]),
    )


def _inspect_mode(sizes: tuple[int, ...], clock: Clock, rounds: int) -> Iterator[Row]:
    polls = []
    middle = sizes[len(sizes) // 2]
    for size in sizes:
        crowd = {size: WATCH}
        with (
            _engine(DOCKER_28_CONTAINERD, crowd, image=_PLATFORMS) as (engine, docker_py),
            pytest.MonkeyPatch.context() as patch,
        ):
            what = f"containerd store, eight platforms, {size} watched"
            bare_list = partial(docker_py.containers, all=True)
            if size == middle:
                yield _young(engine, clock, what, bare_list, rounds)
            # The anchor must be five minutes old. The containers here are seconds old.
            patch.setattr("docker_prom_exporter.collect.inspect_mode._SLOWEST_CREATION", 1)
            subjects: dict[str, Callable[[], object]] = {"poll": _poll(engine, clock)}
            if size == middle:
                subjects |= {"list": bare_list, "docker-py": _same_requests(docker_py)}
            measured = _measured(engine, rounds, subjects)
        polls.append(sum(measured["poll"]))
        if size == middle:
            yield at_most(
                1 / 15,
                f"{what}: steady poll, compared with one list of them",
                sum(measured["poll"]),
                sum(measured["list"]),
            )
            yield at_most(
                0.75,
                f"{what}: exporter alone, compared with the same requests by docker-py",
                measured["poll"][1],
                measured["docker-py"][1],
            )
    slope = (polls[-1] - polls[0]) / (sizes[-1] - sizes[0])
    yield Row(
        f"the same at {', '.join(map(str, sizes))}: a poll, and the increase per container",
        " → ".join(f"{poll:.3g} ms" for poll in polls),
        ratio=f"{slope:.2g} ms",
        goal="≤ 1.5 ms",
        met=slope <= 1.5,
    )


def _young(
    engine: Engine, clock: Clock, what: str, bare_list: Callable[[], object], rounds: int
) -> Row:
    """Return the row for polls of containers that are younger than five minutes.

    One poll in a minute lists all of them, so a minute of polls is measured.
    """
    polls_of_a_minute = 60 // _INTERVAL
    poll = _poll(engine, clock)

    def minute() -> None:
        for _ in range(polls_of_a_minute):
            poll()

    subjects: dict[str, Callable[[], object]] = {"minute": minute, "list": bare_list}
    measured = _measured(engine, min(rounds, 3), subjects, times=1)
    oldest = engine.cli("ps", "--format={{.RunningFor}}", "--filter=name=crowd0-0")
    if re.match("([5-9]|[1-9][0-9]) minutes", oldest):
        raise RuntimeError(f"the containers are from {oldest}: measure fewer rounds")
    return at_most(
        1 / 3,
        f"{what}: poll in the first five minutes, compared with one list of them",
        sum(measured["minute"]) / polls_of_a_minute,
        sum(measured["list"]),
    )


@contextmanager
def _engine(
    kind: Kind,
    crowd: Mapping[int, Mapping[str, str]],
    *,
    image: str = IMAGE,
    settle: bool = False,
) -> Iterator[tuple[Engine, APIClient]]:
    """Yield an engine with running containers, and docker-py's client of it.

    With `settle`, `Status` has no age in seconds any more.
    """
    engine = Engine(kind)
    engine.start()
    try:
        if image == _PLATFORMS:
            engine.load_platforms(image)
        for number, (size, labels) in enumerate(crowd.items()):
            engine.crowd(
                running=size, created=0, labels=labels, image=image, name=f"crowd{number}"
            )
        wait_for(
            partial(_settled, engine, "second" if settle else "Less"),
            what="containers to age",
            seconds=120,
            every=1,
        )
        with closing(APIClient(base_url=engine.url, version="auto")) as client:
            yield engine, client
    finally:
        engine.stop()


def _settled(engine: Engine, unit: str) -> bool:
    return unit not in engine.cli("ps", "--format={{.Status}}")


def _poll(
    engine: Engine, clock: Clock, *, only_labelled: bool = True, interval: float = _INTERVAL
) -> Callable[[], object]:
    """Return a function that moves the clock by an interval, polls, and encodes and gzips the result."""
    poller = poller_for(
        engine.url, container_health_filter_label=only_labelled, docker_timeout=60
    )
    exposition, metrics = Exposition(), SnapshotMetrics()
    exposition.render(gzipped=True)

    def poll() -> None:
        clock.later += interval
        snapshot = poller.poll()
        if not snapshot.listed:
            raise RuntimeError("the engine did not answer")
        exposition.publish(metrics.families_of(snapshot))

    poll()
    return poll


def _inspect_each(docker_py: APIClient) -> None:
    for row in docker_py.containers(all=True):
        docker_py.inspect_container(row["Id"])


def _same_requests(docker_py: APIClient) -> Callable[[], object]:
    ids = [row["Id"] for row in docker_py.containers(all=True)]
    filters = {"since": [ids[0]], "label": [LABEL]}

    def ask() -> None:
        docker_py.ping()
        docker_py.containers(all=True, filters=filters)
        for container_id in ids:
            docker_py.inspect_container(container_id)

    return ask


def _measured(
    engine: Engine,
    rounds: int,
    subjects: Mapping[str, Callable[[], object]],
    *,
    times: int = 3,
) -> dict[str, tuple[float, float]]:
    """Return the CPU time in ms of each subject, in the engine (dockerd, containerd) and in this process."""
    daemons = [engine.pid, *_children(engine.pid)]
    measures = {
        f"{name}, {who}": partial(cost, subject, *pids, times=times)
        for name, subject in subjects.items()
        for who, pids in (("engine", daemons), ("client", []))
    }
    costs = medians(rounds, measures)
    return {name: (costs[f"{name}, engine"], costs[f"{name}, client"]) for name in subjects}


def _children(pid: int) -> list[int]:
    """Return the pids of a process's children, started by any of its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]
