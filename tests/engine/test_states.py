"""The exported health, state and details of containers in every state on real engines."""

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from docker import APIClient

from docker_prom_exporter.containers import LABEL, STATES
from docker_prom_exporter.demo import WATCH
from support.expositions import Scrape, scraper
from support.processes import CommandError, completed, output_of
from support.real import FOREVER, GREEDY, HEALTHY, IMAGE, Engine
from support.waiting import wait_for

CHECKED_IMAGE = "checked:tests"

RUNNING = {"container_health": 2, "state": "running", "health_status": "none"}
HEALTHY_NOW = {"container_health": 4, "state": "running", "health_status": "healthy"}
EXITED = {"container_health": 1, "state": "exited", "health_status": None}
UNTROUBLED = {"restarts_total": 0, "start_failed": 0, "oom_killed": 0, "restart_policy": "no"}


def build_checked(engine: Engine) -> None:
    """Build an image that defines a healthcheck."""
    form = ["--format=docker"] if engine.name.startswith("podman") else []
    dockerfile = f"FROM {IMAGE}\nHEALTHCHECK --interval=1s CMD test -f {HEALTHY}\n"
    engine.cli("build", *form, f"--tag={CHECKED_IMAGE}", "-", stdin=dockerfile.encode())


def times(scrape: Scrape, name: str) -> dict[str, float]:
    """Return the exported times at which the container was created, last started and last ended."""
    families = {
        event: f"docker_container_{event}_timestamp_seconds"
        for event in ("created", "started", "finished")
    }
    found = {event: scrape.value(family, name=name) for event, family in families.items()}
    return {event: value for event, value in found.items() if value is not None}


def test_running(engine: Engine) -> None:
    """A container without a healthcheck has health 2, its full id, its image and its Compose labels."""
    compose = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    container = engine.run("shop-web-1", labels=WATCH | compose)
    scrape = scraper(engine.url)()
    labels = {"id": container, "name": "shop-web-1"}
    info = {"compose_project": "shop", "compose_service": "web"}
    states = {
        state: scrape.value("docker_container_state", state=state, **labels)
        for state in STATES
    }

    assert RUNNING | UNTROUBLED == scrape.container("shop-web-1")
    assert 2 == scrape.value("container_health", **labels)
    assert 1 == scrape.value("docker_container_info", **labels, **info)
    assert [IMAGE] == [
        image.rpartition("/")[2] for image in scrape.by("image", "docker_container_info")
    ]
    assert {state: float(state == "running") for state in STATES} == states
    assert 1 == scrape.value("docker_up")
    assert 1 == scrape.value("docker_exporter_containers_watched")


def test_times(engine: Engine) -> None:
    """The created, started and finished times are in this order and within the test's duration."""
    began = time.time()
    engine.run("web", command=["sleep", "1"], labels=WATCH)
    scrape = scraper(engine.url)
    before = times(scrape(), "web")
    engine.await_state("web", "exited")
    after = times(scrape(), "web")

    assert {"created", "started"} == before.keys()
    assert {"created", "started", "finished"} == after.keys()
    assert before["started"] == after["started"]
    assert (
        int(began) <= after["created"] <= after["started"] < after["finished"] <= time.time()
    )


def test_paused(engine: Engine) -> None:
    """A paused container has health 1, with or without a healthcheck; unpaused, it has its former health."""
    engine.run("plain", labels=WATCH)
    engine.run("checked", health="healthy", labels=WATCH)
    scrape = scraper(engine.url)
    scrape()

    engine.pause_containers("plain", "checked")
    paused = scrape()
    engine.cli("unpause", "plain", "checked")
    engine.await_health("checked", "healthy")
    unpaused = scrape()

    stopped = {"container_health": 1, "state": "paused", "health_status": None} | UNTROUBLED
    assert stopped == paused.container("plain")
    assert stopped.items() <= paused.container("checked").items()
    assert RUNNING | UNTROUBLED == unpaused.container("plain")
    assert HEALTHY_NOW | UNTROUBLED | {"health_failing_streak": 0} == unpaused.container(
        "checked"
    )


def test_a_start_that_fails(engine: Engine) -> None:
    """`docker_container_start_failed` is 1 after a failed start; Podman 4 does not say so."""
    with pytest.raises(CommandError):
        engine.run("web", command=["/missing"], labels=WATCH)
    created = {"container_health": 1, "state": "created", "health_status": None}
    failed = {"start_failed": engine.name != "podman-4.3"}

    assert created | UNTROUBLED | failed == scraper(engine.url)().container("web")


def test_limits(engine: Engine) -> None:
    """A container has the limits that it was created with, and no sample where it has none."""
    options = ["--memory=64m", "--cpus=1.5", "--pids-limit=50"]
    engine.create("limited", labels=WATCH, options=options)
    engine.create("free", labels=WATCH)
    scrape = scraper(engine.url)()

    assert {"limited": 64 * 2**20} == scrape.by("name", "docker_container_memory_limit_bytes")
    assert {"limited": 1.5} == scrape.by("name", "docker_container_cpu_limit_cores")
    assert {"limited": 50} == scrape.by("name", "docker_container_pids_limit")


def test_out_of_memory(engine_limiting_memory: Engine) -> None:
    """A container that ran out of memory has exit code 137; `oom_killed` is 1 if the engine reports it.

    Docker always reports it, Podman may not.
    """
    engine = engine_limiting_memory
    greedy = ["sh", "-c", GREEDY]
    engine.run("web", command=greedy, options=["--memory=6m"], labels=WATCH)
    engine.await_state("web", "exited")
    oom_killed = engine.cli("inspect", "--format", "{{.State.OOMKilled}}", "web") == "true"

    out_of_memory = {
        "exit_code": 137,
        "oom_killed": oom_killed,
        "memory_limit_bytes": 6 * 2**20,
    }
    assert EXITED | UNTROUBLED | out_of_memory == scraper(engine.url)().container("web")
    assert oom_killed or engine.name.startswith("podman")


def test_restarts_are_counted(engine: Engine) -> None:
    """`docker_container_restarts_total` counts restarts by policy and falls to 0 after a manual start."""
    # The start and three restarts fail, and the fifth run goes on.
    fifth = "echo >>/runs; test $(wc -l </runs) = 5 && exec sleep 86400; exit 1"
    options = ["--restart=on-failure:3"]
    engine.run("web", command=["sh", "-c", fifth], options=options, labels=WATCH)
    scrape = scraper(engine.url)
    counts: list[float] = []

    def has_given_up() -> bool:
        found = scrape()
        counts.append(found.value("docker_container_restarts_total", name="web") or 0)
        return counts[-1] == 3 and found.container("web")["state"] == "exited"

    wait_for(has_given_up, what="the third restart and its end")
    given_up = scrape().container("web")
    engine.cli("start", "web")

    assert sorted(counts) == counts
    policy = {"restart_policy": "on-failure"}

    assert EXITED | UNTROUBLED | policy | {"restarts_total": 3, "exit_code": 1} == given_up
    assert RUNNING | UNTROUBLED | policy == scrape().container("web")


def test_restarting(docker: Engine) -> None:
    """Between two restarts a container has health 1 and the exit code of its last run.

    Podman has no such state.
    """
    docker.run("web", command=["false"], options=["--restart=always"], labels=WATCH)
    scrape = scraper(docker.url)

    def between() -> dict[str, float | str | None]:
        found = scrape().container("web")
        return found if found["state"] == "restarting" and found["restarts_total"] else {}

    found = wait_for(between, what="a poll between two restarts")
    del found["restarts_total"]

    state = {"container_health": 1, "state": "restarting", "health_status": None}
    details = {"exit_code": 1, "start_failed": 0, "oom_killed": 0, "restart_policy": "always"}

    assert state | details == found


def test_a_quick_restart_is_noticed(docker: Engine) -> None:
    """The exporter notices a restart within a container's first second, which may not change the list row."""
    docker.run("web", labels=WATCH)
    scrape = scraper(docker.url)
    scrape()
    docker.cli("restart", "web")
    started = docker.cli("inspect", "--format", "{{.State.StartedAt}}", "web")
    scrape()
    docker.await_settled()
    scrape()

    assert datetime.fromisoformat(started).timestamp() == times(scrape(), "web")["started"]


@contextmanager
def undeletable(engine: Engine, name: str) -> Iterator[None]:
    """Let the removal of a running Docker container fail, by an immutable file in its file system."""
    engine.exec(name, "touch", "/stone")
    mounts = Path(
        f"/proc/{engine.cli('inspect', '--format={{.State.Pid}}', name)}/mounts"
    ).read_text()
    upper = re.search(r"upperdir=([^,]+)", mounts)
    stone = f"{upper[1] if upper else ''}/stone"
    made = completed(["chattr", "+i", stone])
    if made.returncode:
        pytest.skip(f"this file system has no immutable files: {made.stderr}")
    try:
        yield
    finally:
        output_of(["chattr", "-i", stone])


@pytest.mark.parametrize("restarted", [False, True])
def test_dead(docker_with_graph_driver: Engine, *, restarted: bool) -> None:
    """After a failed removal a container is `dead`, with health 1 and an exit code, also after a restart.

    Until the restart Docker's list has that state only from 28 on, but an inspect has it.
    """
    docker = docker_with_graph_driver
    docker.run("web", labels=WATCH)
    scrape = scraper(docker.url)
    with undeletable(docker, "web"):
        with pytest.raises(CommandError, match="operation not permitted"):
            docker.cli("rm", "--force", "web")
        if restarted:
            docker.kill()
            docker.start()
        first, second = scrape().container("web"), scrape().container("web")

    dead = {"container_health": 1, "state": "dead", "health_status": None, "exit_code": 137}
    assert dead | UNTROUBLED == second
    assert first == second or not restarted


@pytest.mark.parametrize("parent", ["aa", "zz"])
def test_legacy_link(docker: Engine, parent: str) -> None:
    """A linked container has its own name, not its alias, in whichever order the list has them."""
    child = docker.run("mm", labels=WATCH)
    with closing(APIClient(base_url=docker.url, version="1.41")) as api:
        host = api.create_host_config(
            links={"mm": "alias"}, network_mode="none", cgroup_parent=docker.sandbox.cgroup
        )
        api.start(
            api.create_container(
                IMAGE, list(FOREVER), name=parent, labels=dict(WATCH), host_config=host
            )
        )
        (row,) = (row for row in api.containers() if row["Id"] == child)
    scrape = scraper(docker.url)()

    assert {"/mm", f"/{parent}/alias"} == set(row["Names"])
    assert {"mm": 2, parent: 2} == scrape.by("name", "container_health")


def test_health_of_an_image(engine: Engine) -> None:
    """The healthcheck of an image counts, unless the container runs with `--no-healthcheck`."""
    build_checked(engine)
    engine.run("unchecked", image=CHECKED_IMAGE, labels=WATCH, options=["--no-healthcheck"])
    own_probes = [f"--health-interval={engine.kind.health_interval}"]
    engine.run("checked", image=CHECKED_IMAGE, labels=WATCH, options=own_probes)
    engine.set_health("checked", healthy=True)
    scrape = scraper(engine.url)()

    assert RUNNING | UNTROUBLED == scrape.container("unchecked")
    assert HEALTHY_NOW | UNTROUBLED | {"health_failing_streak": 0} == scrape.container(
        "checked"
    )


def test_filter(engine: Engine) -> None:
    """The exporter reads the label in either setting; a container labelled false is never exported."""
    for name, label in {"yes": "TRUE", "no": "Off", "nonsense": "maybe"}.items():
        engine.create(name, labels={LABEL: label})
    engine.create("unlabelled")
    only_labelled, all_but_labelled_false = (
        scraper(engine.url, container_health_filter_label=setting)()
        for setting in (True, False)
    )

    assert {"yes"} == only_labelled.by("name", "container_health").keys()
    assert {"yes", "unlabelled", "nonsense"} == all_but_labelled_false.by(
        "name", "container_health"
    ).keys()
    assert [1, 3] == [
        scrape.value("docker_exporter_containers_watched")
        for scrape in (only_labelled, all_but_labelled_false)
    ]
