"""List mode and inspect mode on real engines: their samples, and the changes that each of them notices."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter.collect import Collector
from docker_prom_exporter.demo import WATCH
from support.expositions import Sample, Scrape, scraper
from support.processes import CommandError
from support.real import GREEDY, Engine, Health
from support.waiting import wait_for

_FROM_THE_LIST = (
    "container_health",
    "docker_container_info",
    "docker_container_state",
    "docker_container_health_status",
    "docker_container_created_timestamp_seconds",
    "docker_container_labels",
)
PLATFORMS = "platforms:tests"


def of_containers(scrape: Scrape) -> dict[Sample, float]:
    """Return the samples of containers, except for the failing streak, which grows between two scrapes."""
    return {
        sample: value
        for sample, value in scrape.samples.items()
        if sample[0].startswith(("container_", "docker_container_"))
        and "failing_streak" not in sample[0]
    }


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
    engine.cli("pause", "paused")
    engine.cli("kill", "killed")
    engine.await_state("ended", "exited")
    engine.await_state("killed", "exited")
    yield
    engine.cli("unpause", "paused")


def test_both_modes_say_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both modes export the same samples; without details, Docker's list alone gives the same values."""
    options: dict[str, Any] = {"container_labels": "com.example.team"}
    with containers_in_all_states(engine):
        found = {}
        for mode in ("list", "inspect"):
            monkeypatch.setattr(
                Collector, "_inspects", lambda *_, mode=mode: mode == "inspect"
            )
            scrape = scraper(engine.url, **options)
            found[mode] = [of_containers(scrape()) for _ in range(2)]
        monkeypatch.setattr(Collector, "_inspects", lambda *_: False)
        alone = scraper(engine.url, container_details="false", **options)()

    first, second = found["list"]
    assert first == second
    assert first == found["inspect"][0]
    assert first == found["inspect"][1]
    if not engine.name.startswith("podman"):
        assert {
            sample: first[sample] for sample in first if sample[0] in _FROM_THE_LIST
        } == of_containers(alone)


def requests(scrape: Scrape) -> dict[str, float]:
    return scrape.by("endpoint", "docker_exporter_api_requests_total")


def test_the_mode_is_recognized(docker: Engine) -> None:
    """The exporter uses inspect mode on Docker with the containerd image store only."""
    docker.run("web", labels=WATCH)
    docker.await_settled()
    scrape = scraper(docker.url)
    before, after = requests(scrape()), requests(scrape())

    assert (1 if "containerd" in docker.name else 0) == after["inspect"] - before["inspect"]


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


def test_one_inspect_that_hangs(docker_28_containerd: Engine) -> None:
    """A stalled `docker cp` holds a container's lock: only that container's details are missing."""
    engine = docker_28_containerd
    for name in ("c1", "c2", "stuck"):
        engine.run(name, health="healthy", labels=WATCH)
    engine.exec("stuck", "dd", "if=/dev/zero", "of=/large", "bs=1M", "count=64")
    scrape = scraper(engine.url)
    scrape()
    with engine.client("cp", "stuck:/large", "-"):
        wait_for(lambda: not _answers(engine, "stuck"), what="the copy to hold the lock")
        first = scrape()
        before = descriptors(engine)
        later = [scrape() for _ in range(5)][-1]
        after = descriptors(engine)

    assert {"c1": 4, "c2": 4, "stuck": 4} == first.by("name", "container_health")
    assert {"c1": 4, "c2": 4, "stuck": 4} == later.by("name", "container_health")
    assert {"c1", "c2"} == later.by("name", "docker_container_restarts_total").keys()
    assert 1 == later.value(
        "docker_exporter_api_errors_total", endpoint="inspect", reason="timeout"
    )
    assert after <= before


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
@pytest.mark.parametrize("kind", ["docker_26", "docker_28", "docker_28_containerd"])
def test_a_child_killed_for_want_of_memory(kind: str, request: pytest.FixtureRequest) -> None:
    """`docker_container_oom_killed` becomes 1 when a child process is killed and the container runs on.

    Docker 20.10 does not report that in an inspect.
    """
    docker: Engine = request.getfixturevalue(kind)
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
