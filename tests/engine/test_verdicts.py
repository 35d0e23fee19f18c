"""Verdicts of healthchecks on real engines: which of them a probe stands behind, in both modes."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter.demo import WATCH
from docker_prom_exporter.snapshot import Mode
from support.expositions import Scrape, scraper
from support.missing import give_up
from support.polls import force_mode
from support.real import (
    DOCKER_20,
    DOCKER_28,
    HEALTHY,
    NO_NETWORK,
    PODMAN_5,
    Engine,
    EngineUnavailableError,
)
from support.waiting import wait_for

RETRIES = 2
STALLED_AFTER = 60
"""A verdict with an interval and a timeout of a second stalls after so many seconds."""


def in_each_mode(engine: Engine) -> Callable[[], list[Scrape]]:
    """Return a function that polls the engine in each of its modes; Podman's is inspect mode."""
    modes = [Mode("inspect", "engine")]
    if not engine.name.startswith("podman"):
        modes.append(Mode("list", "engine"))
    scrapes = {mode: scraper(engine.url) for mode in modes}

    def poll() -> list[Scrape]:
        polled = []
        for mode, scrape in scrapes.items():
            with pytest.MonkeyPatch.context() as patch:
                force_mode(patch, mode)
                polled.append(scrape())
        return polled

    return poll


def health(scrapes: list[Scrape], name: str) -> float | None:
    """Return `container_health` of a container, which is the same in each mode."""
    values = [scrape.value("container_health", name=name) for scrape in scrapes]

    assert values == values[:1] * len(values)
    return values[0]


def state(engine: Engine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.cli("inspect", "--format={{json .State}}", name))
    return found


def streak(engine: Engine, name: str) -> int:
    return int(engine.cli("inspect", "--format={{.State.Health.FailingStreak}}", name))


def health_options(command: str, **settings: str) -> list[str]:
    options = {"start-period": "0s", "timeout": "5s", **settings}
    return [
        f"--health-cmd={command}",
        *(f"--health-{name.replace('_', '-')}={value}" for name, value in options.items()),
    ]


class Checked:
    """Containers with a healthcheck; each is healthy while it has a file of its name."""

    def __init__(self, docker: Engine, folder: Path, *names: str) -> None:
        self.docker = docker
        self.folder = folder
        settings = {"interval": "3s", "retries": str(RETRIES)}
        for name in names:
            (folder / name).touch()
            check = health_options(f"test -f /shared/{name}", **settings)
            docker.run(name, labels=WATCH, options=[f"--volume={folder}:/shared", *check])
        for name in names:
            docker.await_health(name, "healthy")

    def pause_at(self, name: str, wanted: int) -> None:
        """Pause a container as soon as so many probes have failed in a row."""
        (self.folder / name).touch()
        self.docker.await_health(name, "healthy")
        if wanted:
            (self.folder / name).unlink()
        wait_for(lambda: streak(self.docker, name) >= wanted, what=f"{name} to fail")
        self.docker.cli("pause", name)
        if streak(self.docker, name) != wanted:
            # A busy host was late: one more probe has failed.
            self.docker.cli("unpause", name)
            self.pause_at(name, wanted)


def test_a_pause(docker: Engine, tmp_path: Path) -> None:
    """Right after a pause `unhealthy` counts if as many probes had failed as there are retries.

    moby says `unhealthy` from the pause on, and keeps the streak until the next probe.
    """
    wanted = {f"failed-{number}": number for number in range(RETRIES + 1)}
    checked, poll = Checked(docker, tmp_path, *wanted), in_each_mode(docker)
    poll()
    seen: dict[str, float | None] = {}

    def pause_and_unpause() -> bool:
        missing = [name for name in wanted if name not in seen]
        for name in missing:
            checked.pause_at(name, wanted[name])
        paused = poll()
        docker.cli("unpause", *missing)
        before = {name: state(docker, name) for name in missing}
        after = poll()
        for name in missing:
            assert 1 == health(paused, name)
            # A probe in between, on a busy host, has decided already.
            if before[name] == state(docker, name) and before[name]["Health"]["Log"]:
                assert (wanted[name], "unhealthy") == (
                    before[name]["Health"]["FailingStreak"],
                    before[name]["Health"]["Status"],
                )
                seen[name] = health(after, name)
        return len(seen) == len(wanted)

    wait_for(pause_and_unpause, what="polls between a pause and the next probe", seconds=120)
    for name in wanted:
        (tmp_path / name).touch()
        docker.await_health(name, "healthy")
    decided = poll()

    assert {"failed-0": 0, "failed-1": 0, "failed-2": 3} == seen
    assert [4, 4, 4] == [health(decided, name) for name in wanted]


def test_broken_during_a_pause(docker: Engine, tmp_path: Path) -> None:
    """A container that breaks while paused is 0 until its streak reaches the retries, then 3.

    In list mode before API 1.52 nothing in the row changes at that moment.
    """
    Checked(docker, tmp_path, "web")
    poll = in_each_mode(docker)
    poll()
    docker.cli("pause", "web")
    (tmp_path / "web").unlink()
    docker.cli("unpause", "web")

    def poll_until_unhealthy() -> bool:
        before = streak(docker, "web")
        polled = {scrape.value("container_health", name="web") for scrape in poll()}
        after = streak(docker, "web")
        assert before < RETRIES or polled == {3}
        assert after >= RETRIES or polled == {0}
        return before >= RETRIES

    wait_for(poll_until_unhealthy, what="the streak to reach the retries")


def test_a_pause_of_podman(podman: Engine) -> None:
    """After a pause Podman says `healthy` or, from 5 on, `starting`; the next probe says `healthy`."""
    podman.run("web", health="healthy", labels=WATCH)
    poll = in_each_mode(podman)
    poll()
    podman.cli("pause", "web")
    paused = poll()
    podman.cli("unpause", "web")
    unpaused, status = poll(), state(podman, "web")["Health"]["Status"]
    podman.probe("web")

    assert 1 == health(paused, "web")
    assert (4 if status == "healthy" else 0) == health(unpaused, "web")
    assert 4 == health(poll(), "web")


def test_a_probe_that_times_out(docker: Engine) -> None:
    """A probe that takes longer than its timeout has exit code -1 and the timeout's duration."""
    settings = {"interval": "500ms", "timeout": "1s", "retries": "1"}
    docker.run("web", labels=WATCH, options=health_options("sleep 60", **settings))
    docker.await_health("web", "unhealthy")

    for scrape in in_each_mode(docker)():
        probes = scrape.probes("web")
        assert 3 == scrape.value("container_health", name="web")
        assert -1 == probes["last_probe_exit_code"]
        assert 1 <= probes["last_probe_duration_seconds"] < 10
        assert (0.5, 1, 1) == (
            probes["interval_seconds"],
            probes["timeout_seconds"],
            probes["retries"],
        )


def test_the_last_probe(engine: Engine) -> None:
    """The exported time, duration and exit code are those of the newest entry of the log."""
    began = time.time()
    engine.run("web", health="healthy", labels=WATCH)
    healthy = scraper(engine.url)().probes("web")
    engine.set_health("web", healthy=False)
    log = state(engine, "web")["Health"]["Log"]
    unhealthy = scraper(engine.url)().probes("web")
    on_podman = engine.name.startswith("podman")

    assert 0 == healthy["last_probe_exit_code"]
    assert began <= healthy["last_probe_timestamp_seconds"] <= time.time()
    assert 1 == unhealthy["last_probe_exit_code"]
    assert unhealthy["last_probe_timestamp_seconds"] >= _seconds(log[-1]["End"])
    assert 0 <= unhealthy["last_probe_duration_seconds"] < 10
    assert (None if on_podman else 0.5) == healthy.get("interval_seconds")
    assert (30, 1) == (healthy["timeout_seconds"], healthy["retries"])


def _seconds(time_of_log: str) -> float:
    return datetime.fromisoformat(time_of_log).timestamp() - 1e-6


def test_a_probe_of_the_run_before(engine: Engine) -> None:
    """A probe that began before the last start says nothing; moby and Podman 4 keep it in the log."""
    settings = {"interval": "disable" if engine.name.startswith("podman") else "4s"}
    options = health_options(f"test -f {HEALTHY}", **settings)
    engine.run("web", labels=WATCH, options=options)
    engine.set_health("web", healthy=True)
    poll = in_each_mode(engine)
    before = poll()
    engine.cli("restart", "--time=0", "web")
    after = poll()
    restarted = state(engine, "web")
    kept = restarted["Health"]["Log"] or []

    assert {0} == {scrape.probes("web")["last_probe_exit_code"] for scrape in before}
    assert all(_seconds(entry["Start"]) < _seconds(restarted["StartedAt"]) for entry in kept)
    assert bool(kept) == engine.name.startswith(("docker", "podman-4"))
    for scrape in after:
        assert 0 == scrape.value("container_health", name="web")
        assert not [name for name in scrape.probes("web") if name.startswith("last_probe")]


def test_a_start_period(docker: Engine) -> None:
    """Within the start period a container is 0, although its probes fail."""
    docker.run("web", health="starting", labels=WATCH)
    docker.probe("web")

    for scrape in in_each_mode(docker)():
        assert 0 == scrape.value("container_health", name="web")
        assert 1 == scrape.probes("web")["last_probe_exit_code"]
        assert 0 == scrape.value("docker_container_health_failing_streak", name="web")


def test_probes_that_stopped() -> None:
    """A verdict stalls a minute after its last probe, unless the engine would never probe by itself.

    Docker 20.10 never probes again after a restart of dockerd with live-restore, Docker 28 does.
    Without systemd's timers Podman probes only on request.
    """
    live_restore = (*NO_NETWORK, "--live-restore")
    docker_20 = Engine(replace(DOCKER_20, options=live_restore))
    docker_28 = Engine(replace(DOCKER_28, options=live_restore))
    podman = Engine(PODMAN_5)
    settings = {"interval": "1s", "timeout": "1s", "retries": "1"}
    checked = health_options(f"test -f {HEALTHY}", **settings)
    with ExitStack() as stack:
        for engine in (docker_20, docker_28, podman):
            stack.callback(engine.stop)
            try:
                engine.start()
            except EngineUnavailableError as error:
                give_up(str(error))
            engine.run("web", labels=WATCH, options=checked)
            engine.set_health("web", healthy=True)
        podman.run("by_hand", health="healthy", labels=WATCH)
        for docker in (docker_20, docker_28):
            docker.kill()
            docker.start()
        docker_20.exec("web", "rm", HEALTHY)
        soon = health(in_each_mode(docker_20)(), "web")
        last = time.time()
        wait_for(
            lambda: time.time() > last + STALLED_AFTER + 2,
            what="the verdicts to stall",
            seconds=STALLED_AFTER + 60,
        )
        late = {
            engine.name: in_each_mode(engine)() for engine in (docker_20, docker_28, podman)
        }
        podman.probe("web")
        again = in_each_mode(podman)()

    assert 4 == soon
    assert 0 == health(late["docker-20.10"], "web")
    assert 4 == health(late["docker-28"], "web")
    assert 0 == health(late["podman-5"], "web")
    assert 4 == health(late["podman-5"], "by_hand")
    assert 4 == health(again, "web")
    for scrape in late["docker-20.10"]:
        assert "healthy" == scrape.container("web")["health_status"]
        assert 0 == scrape.probes("web")["last_probe_exit_code"]
