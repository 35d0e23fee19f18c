"""List mode and inspect mode on real engines: their samples, and the changes that each of them notices."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from docker_prom_exporter.deadline import Deadline
from docker_prom_exporter.demo import WATCH
from docker_prom_exporter.engine import Pong
from docker_prom_exporter.poller import Poller
from docker_prom_exporter.snapshot import Mode
from support.expositions import Sample, Scrape, scraper
from support.polls import force_mode, healths
from support.processes import CommandError
from support.real import GREEDY, Engine, Health
from support.simulated import polled
from support.waiting import wait_for

_FROM_THE_LIST = (
    "container_health",
    "docker_container_info",
    "docker_container_state",
    "docker_container_health_status",
    "docker_container_created_timestamp_seconds",
    "docker_container_labels",
)
LIST, INSPECT = Mode("list", "engine"), Mode("inspect", "engine")
TIMEOUT = 2


def of_containers(scrape: Scrape) -> dict[Sample, float]:
    """Return the samples of containers, but for those that each probe changes."""
    samples = {}
    for sample, value in scrape.samples.items():
        of_probes = "failing_streak" in sample[0] or "last_probe" in sample[0]
        if sample[0].startswith(("container_", "docker_container_")) and not of_probes:
            samples[sample] = value
    return samples


@contextmanager
def containers_in_all_states(engine: Engine) -> Iterator[None]:
    """Run a container in each state that lasts; the paused and the killed one have a healthcheck."""
    checked: tuple[Health, ...] = ("starting", "healthy", "unhealthy")
    engine.create("created", labels=WATCH)
    engine.run(
        "plain", labels=WATCH | {"com.example.team": "shop", "com.docker.compose.project": "p"}
    )
    for health in checked:
        engine.run(health, health=health, labels=WATCH)
    engine.run("paused", health="healthy", labels=WATCH)
    engine.run("ended", command=["sh", "-c", "exit 3"], labels=WATCH)
    engine.run("killed", health="healthy", labels=WATCH, options=["--restart=unless-stopped"])
    engine.pause_containers("paused")
    engine.cli("kill", "killed")
    engine.await_state("ended", "exited")
    engine.await_state("killed", "exited")
    yield
    engine.cli("unpause", "paused")


def of(health: int, state: str, status: str | None, **more: Any) -> dict[str, Any]:
    """Return what a container shows; one that did not end has no exit code."""
    always = {"restarts_total": 0, "start_failed": 0, "oom_killed": 0, "exit_code": None}
    return (
        {"container_health": health, "state": state, "health_status": status} | always | more
    )


EXPECTED = {
    "created": of(1, "created", None),
    "plain": of(2, "running", "none", restart_policy="no"),
    "starting": of(0, "running", "starting"),
    "healthy": of(4, "running", "healthy", health_failing_streak=0),
    "unhealthy": of(3, "running", "unhealthy"),
    "paused": of(1, "paused", None),
    "ended": of(1, "exited", None, exit_code=3),
    "killed": of(1, "exited", None, exit_code=137, restart_policy="unless-stopped"),
}


def test_both_modes_say_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each state both modes export the same; without details, Docker's list alone gives the same."""
    options: dict[str, Any] = {"container_labels": "com.example.team"}
    with containers_in_all_states(engine):
        found = {}
        for mode in (LIST, INSPECT):
            force_mode(monkeypatch, mode)
            scrape = scraper(engine.url, **options)
            found[mode.name] = [of_containers(scrape()), of_containers(shown := scrape())]
        force_mode(monkeypatch, LIST)
        alone = scraper(engine.url, container_details="false", **options)()

    seen = {name: shown.container(name) for name in EXPECTED}

    assert EXPECTED == {
        name: {key: seen[name].get(key) for key in expected}
        for name, expected in EXPECTED.items()
    }
    first, second = found["list"]
    assert first == second
    assert first == found["inspect"][0]
    assert first == found["inspect"][1]
    if not engine.name.startswith("podman"):
        assert {
            sample: first[sample] for sample in first if sample[0] in _FROM_THE_LIST
        } == of_containers(alone)


def test_the_anchor(docker_28_containerd: Engine) -> None:
    """With an anchor, inspect mode finds a new container and drops removed ones, the anchor included."""
    engine = docker_28_containerd
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("docker_prom_exporter.collect.inspect_mode._SLOWEST_CREATION", 1)
        for name in ("c1", "c2", "c3"):
            engine.create(name, labels=WATCH)
        wait_for(lambda: _age(engine, "c3") > 2, what="the containers to be old enough")
        scrape = scraper(engine.url)
        scrape()
        engine.run("new", labels=WATCH)
        with_new = scrape()
        engine.cli("rm", "--force", "c3", "new")
        without = scrape()

    assert {"c1": 1, "c2": 1, "c3": 1, "new": 2} == with_new.by("name", "container_health")
    assert {"c1": 1, "c2": 1} == without.by("name", "container_health")
    assert not [
        v for v in without.by("reason", "docker_exporter_api_errors_total").values() if v
    ]


def descriptors(engine: Engine) -> int:
    return len(list(Path(f"/proc/{engine.pid}/fd").iterdir()))


@pytest.mark.parametrize("others", [("c1", "c2"), ()], ids=["one of three", "the only one"])
def test_one_inspect_that_hangs(docker_28_containerd: Engine, others: tuple[str, ...]) -> None:
    """A stalled `docker cp` holds a container's lock: only that container's details are missing.

    The only watched container is not taken for a stuck engine.
    """
    engine = docker_28_containerd
    for name in (*others, "stuck"):
        engine.run(name, health="healthy", labels=WATCH)
    engine.exec("stuck", "dd", "if=/dev/zero", "of=/large", "bs=1M", "count=64")
    scrape = scraper(engine.url, docker_timeout=TIMEOUT)
    scrape()
    with engine.client("cp", "stuck:/large", "-"):
        wait_for(lambda: not _answers(engine, "stuck"), what="the copy to hold the lock")
        scrape()
        before = descriptors(engine)
        later = [scrape() for _ in range(5)][-1]
        after = descriptors(engine)
    wait_for(lambda: _answers(engine, "stuck"), what="the lock to be free")

    assert dict.fromkeys((*others, "stuck"), 4) == later.by("name", "container_health")
    assert {*others} == later.by("name", "docker_container_restarts_total").keys()
    assert later.value(
        "docker_exporter_api_errors_total", endpoint="inspect", reason="timeout"
    )
    assert after < before + 5


def poller_that_freezes(engine: Engine, seconds: float) -> Poller:
    """Return a poller that freezes the engine for some seconds after its next ping."""
    poller = polled(engine.url, docker_timeout=TIMEOUT)
    ping = poller._engine.ping

    def freeze(deadline: Deadline) -> Pong:
        pong = ping(deadline)
        engine.pause()
        Timer(seconds, engine.resume).start()
        poller._engine.ping = ping  # type: ignore[method-assign]
        return pong

    poller._engine.ping = freeze  # type: ignore[method-assign]
    return poller


@pytest.mark.parametrize("kind", ["docker_28_containerd", "podman_5"])
def test_an_engine_that_freezes_in_a_poll(kind: str, request: pytest.FixtureRequest) -> None:
    """After a freeze of the engine, longer than the timeout of an inspect, the next poll is complete."""
    engine: Engine = request.getfixturevalue(kind)
    names = {f"c{number}" for number in range(6)}
    for name in names:
        engine.run(name, health="healthy", labels=WATCH)
    poller = poller_that_freezes(engine, 1.5 * TIMEOUT)
    frozen = poller.poll()
    wait_for(engine.answers, what="the engine to answer again")
    snapshot = poller.poll()

    assert frozen.counts.errors["inspect", "timeout"] + frozen.counts.errors["list", "timeout"]
    assert dict.fromkeys(names, 4) == healths(snapshot)
    assert all(container.details for container in snapshot.containers)


def test_a_commit_of_podman(podman_6: Engine) -> None:
    """A `podman commit` holds up other containers, too; the poll after it has all of these."""

    def others(healths: dict[str, int]) -> dict[str, int]:
        return {name: health for name, health in healths.items() if name != "large"}

    for name in ("c1", "c2", "c3", "c4", "large"):
        podman_6.run(name, health="healthy", labels=WATCH)
    podman_6.exec("large", "dd", "if=/dev/zero", "of=/large", "bs=1M", "count=300")
    poller = polled(podman_6.url, docker_timeout=0.5)
    with ThreadPoolExecutor(1) as pool:
        commit = pool.submit(podman_6.cli, "commit", "large", "committed")
        while not commit.done():
            during = poller.poll()
        commit.result()
    podman_6.cli("rmi", "committed")
    after = poller.poll()

    assert sum(during.counts.errors.values())
    assert {"c1": 4, "c2": 4, "c3": 4, "c4": 4} == others(healths(after))
    assert {"c1", "c2", "c3", "c4"} <= {c.name for c in after.containers if c.details}


def _answers(engine: Engine, name: str) -> bool:
    try:
        engine.kind.client(engine.sandbox, engine.listen).run("inspect", name, seconds=1)
    except CommandError:
        return False
    return True


@pytest.fixture
def quick_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the maximum age of an inspect to 1 ms, instead of ten minutes."""
    monkeypatch.setattr("docker_prom_exporter.collect.list_mode._MAX_AGE", 0.001)


@pytest.mark.usefixtures("quick_rotation")
def test_a_child_killed_for_want_of_memory(docker_after_20: Engine) -> None:
    """`docker_container_oom_killed` becomes 1 when a child process is killed and the container runs on.

    Docker 20.10 does not report that in an inspect.
    """
    docker = docker_after_20
    command = ["sh", "-c", f"sh -c '{GREEDY}'; sleep 86400"]
    docker.run("parent", command=command, options=["--memory=16m"], labels=WATCH)
    scrape = scraper(docker.url)
    before = scrape().value("docker_container_oom_killed", name="parent")
    killed = "--format={{.State.OOMKilled}}"
    wait_for(lambda: docker.cli("inspect", killed, "parent") == "true", what="the kill")
    after = scrape()

    assert 0 == before
    assert 1 == after.value("docker_container_oom_killed", name="parent")
    assert "running" == after.container("parent")["state"]


@pytest.mark.usefixtures("quick_rotation")
def test_another_restart_policy(docker: Engine) -> None:
    """The exporter notices a restart policy that `docker update` changes without changing the list row."""
    docker.run("web", labels=WATCH)
    docker.await_settled()
    scrape = scraper(docker.url)
    before = scrape().container("web")["restart_policy"]
    docker.cli("update", "--restart=always", "web")

    assert ("no", "always") == (before, scrape().container("web")["restart_policy"])


def _age(engine: Engine, name: str) -> float:
    created = datetime.fromisoformat(engine.cli("inspect", "--format={{.Created}}", name))
    return time.time() - created.timestamp()
