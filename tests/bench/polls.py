"""What a poll costs, beside docker-py's own list and beside inspecting each container."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from docker import APIClient

from bench.crowd import Crowd
from bench.measuring import Row, at_most, cost, medians
from docker_prom_exporter.demo import WATCH
from docker_prom_exporter.metrics import Exposition
from docker_prom_exporter.poller import Poller
from support.real import DOCKER_26, Engine
from support.simulated import poller_for
from support.waiting import wait_for


def rows(*, size: int, settle: bool, rounds: int, sizes: tuple[int, ...]) -> Iterator[Row]:
    """Measure polls of a real engine with so many containers; count the requests of polls at other sizes."""
    yield _requests(sizes)
    with (
        _engine(size, settle=settle) as engine,
        closing(APIClient(base_url=engine.url, version="auto")) as docker_py,
    ):
        poller = poller_for(engine.url)
        exposition = Exposition(lambda: poller.snapshot)
        dockerd = engine._daemon.pid
        cost_of_both = partial(cost, partial(_poll_and_publish, poller, exposition), times=5)
        measured = medians(
            rounds,
            {
                "dockerd": lambda: cost_of_both(dockerd),
                "exporter": cost_of_both,
                "dockerd, each inspected": lambda: cost(partial(_inspect_each, docker_py), dockerd),
                "docker-py, each inspected": lambda: cost(partial(_inspect_each, docker_py)),
                "docker-py": lambda: cost(partial(docker_py.containers, all=True), times=5),
            },
        )
    both = measured["dockerd"] + measured["exporter"]
    inspecting = measured["dockerd, each inspected"] + measured["docker-py, each inspected"]
    poll = f"steady poll of {size} on {engine.name}"
    yield at_most(1 / 12, f"{poll}: engine and exporter, beside inspecting each", both, inspecting, unit="ms")
    yield at_most(
        2,
        f"{poll}: exporter, published and rendered, beside containers()",
        measured["exporter"],
        measured["docker-py"],
        unit="ms",
    )
    yield Row("the same, of one core, every 5 s", f"{both / 50:.2g} %", f"{inspecting / 50:.2g} %")


@contextmanager
def _engine(size: int, *, settle: bool) -> Iterator[Engine]:
    """Yield an engine with so many running containers; settled, none counts its age in seconds any more."""
    engine = Engine(DOCKER_26)
    engine.start()
    try:
        engine.crowd(running=size, created=0, labels=WATCH)
        if settle:
            wait_for(partial(_settled, engine), what="containers a minute old", seconds=120, every=1)
        yield engine
    finally:
        engine.stop()


def _settled(engine: Engine) -> bool:
    return "second" not in engine.cli("ps", "--format={{.Status}}")


def _poll_and_publish(poller: Poller, exposition: Exposition) -> None:
    if not poller.poll().listed:
        raise RuntimeError("the engine did not answer")
    exposition.render("", "gzip")


def _inspect_each(docker_py: APIClient) -> None:
    for row in docker_py.containers(all=True):
        docker_py.inspect_container(row["Id"])


def _requests(sizes: tuple[int, ...]) -> Row:
    counted = [_requests_of_a_poll(size) for size in sizes]
    return Row(
        f"requests of a steady poll at {', '.join(map(str, sizes))} containers",
        ", ".join(map(str, counted)),
        goal=", ".join("2" for _ in sizes),
        met=set(counted) == {2},
    )


def _requests_of_a_poll(size: int) -> int:
    with TemporaryDirectory() as folder, Crowd(Path(folder, "docker.sock"), size) as engine:
        poller = poller_for(engine.url, docker_timeout=30)
        poller.poll()
        engine.requests.clear()
        poller.poll()
        return len(engine.requests)
