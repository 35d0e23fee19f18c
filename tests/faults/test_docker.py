"""Faults of a real Docker, and what the exporter reports during and after each."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path

from docker import APIClient

from docker_prom_exporter.demo import WATCH
from support.missing import give_up
from support.real import DOCKER_26, NO_NETWORK, Engine, EngineUnavailableError
from support.waiting import wait_for
from support.watching import Watch, errors

Watched = Callable[..., AbstractContextManager[Watch]]

STUCK = "--docker-timeout=1"

STALE_AFTER = 3 * 0.5 + 2 * 1
"""Seconds after which a poll is too old to trust, with the interval and timeout of the tests."""


def test_killed_and_started_again(oldest_or_newest: Engine, watched: Watched) -> None:
    """While the engine is gone, container health is 0; after its start, it is as the engine says again.

    Containers of Docker die with it, those of Podman run on.
    """
    engine = oldest_or_newest
    engine.run("web", health="healthy", labels=WATCH)
    with watched(f"{engine.name}: kill -9, started again", engine.url) as watch:
        watch.shows(docker_up=1, web=4)
        engine.kill()
        watch.shows(docker_up=0, web=0)
        watch.polls_pass(2)
        log = watch.client.exporter.stderr
        engine.start()
        watch.recovers(docker_up=1, web=4 if engine.state("web") == "running" else 1)

    assert 1 == log.count("event=docker.lost")


def test_stuck_for_longer_than_a_poll_is_trusted(
    oldest_or_newest: Engine, watched: Watched
) -> None:
    """docker_up is 0 while the engine is stuck, and all values are right again once it answers.

    The exporter is healthy all the time, and logs it once.
    """
    engine = oldest_or_newest
    engine.run("web", health="healthy", labels=WATCH)
    with watched(f"{engine.name}: SIGSTOP, SIGCONT", engine.url, STUCK) as watch:
        watch.shows(docker_up=1, web=4)
        engine.pause()
        watch.shows(docker_up=0, web=0)

        def is_stale() -> bool:
            last = watch.scrape().value("docker_exporter_last_success_timestamp_seconds")
            return time.time() - (last or 0) > STALE_AFTER

        wait_for(is_stale, what="the last success to be stale")
        watch.shows(docker_up=0, web=0)
        healthy, _ = watch.client.get("/-/healthy")
        log = watch.client.exporter.stderr
        engine.resume()
        wait_for(engine.answers, what=f"{engine.name} to answer again")
        watch.recovers(docker_up=1, web=4)

    assert 200 == healthy
    assert 1 == log.count("event=docker.lost")


def test_absent_at_start(docker: Engine, watched: Watched) -> None:
    """The exporter serves docker_up 0 before an engine is started, logs it once, and finds the engine."""
    docker.kill()
    docker.listen.unlink()
    with watched("dockerd: absent at start", docker.url) as watch:
        watch.shows(docker_up=0)
        watch.polls_pass(2)
        log = watch.client.exporter.stderr
        docker.start()
        docker.run("web", labels=WATCH)
        watch.recovers(docker_up=1, web=2)

    assert (1, 0) == (log.count("event=docker.lost"), log.count("event=docker.found"))


def test_a_socket_made_anew(docker: Engine, watched: Watched) -> None:
    """The exporter finds Docker again after Docker was restarted with a new socket file."""
    docker.run("web", health="healthy", labels=WATCH)
    with watched("dockerd: stopped, its socket file made anew", docker.url) as watch:
        watch.shows(docker_up=1, web=4)
        docker.kill()
        docker.listen.unlink()
        watch.shows(docker_up=0, web=0)
        docker.start()
        watch.recovers(docker_up=1, web=1)


def test_a_socket_that_is_gone(docker: Engine, watched: Watched, tmp_path: Path) -> None:
    """After its connection broke, the exporter reports docker_up 0 until the socket file is back."""
    link = tmp_path / "docker.sock"
    link.symlink_to(docker.listen)
    docker.run("web", labels=WATCH)
    with watched("socket: its file gone, and back", f"unix://{link}", STUCK) as watch:
        watch.shows(docker_up=1, web=2)
        link.unlink()
        docker.pause()
        watch.shows(docker_up=0, web=0)
        docker.resume()
        watch.polls_pass(1)
        watch.shows(docker_up=0, web=0)
        link.symlink_to(docker.listen)
        watch.recovers(docker_up=1, web=2)


def test_fifty_containers_come_and_go(docker: Engine, watched: Watched) -> None:
    """Containers that come and go during polls cause no wrong value, no leftover series and no failed poll.

    Only an inspect may time out: a busy machine may take over two seconds to start or remove a container.
    """
    with watched("containers: 50 created and removed during polls", docker.url) as watch:
        watch.shows(docker_up=1)
        with ThreadPoolExecutor(1) as pool:
            churning = pool.submit(_churn, docker)
            values: set[float] = set()
            while not churning.done():
                values |= set(watch.scrape().by("name", "container_health").values())
            churning.result()
        scrape = watch.recovers(docker_up=1)

    assert errors(scrape).keys() <= {("inspect", "timeout")}
    assert 0 == scrape.value("docker_exporter_polls_total", result="failure")
    assert values <= {1, 2}
    assert 1 in values


def _churn(docker: Engine) -> None:
    containers = docker.crowd(running=10, created=40, labels=WATCH)
    with (
        closing(APIClient(base_url=docker.url, version="1.41")) as api,
        ThreadPoolExecutor(4) as pool,
    ):
        list(
            pool.map(lambda container: api.remove_container(container, force=True), containers)
        )


def test_restarted_with_live_restore(watched: Watched) -> None:
    """Containers keep running during a dockerd restart with live-restore, and have the same samples after."""
    engine = Engine(replace(DOCKER_26, options=(*NO_NETWORK, "--live-restore")))
    try:
        engine.start()
    except EngineUnavailableError as error:
        give_up(str(error))
    try:
        engine.run("web", health="healthy", labels=WATCH)
        with watched("dockerd: restarted with live-restore", engine.url) as watch:
            started = watch.shows(docker_up=1, web=4).container("web")
            engine._daemon.terminate()
            watch.shows(docker_up=0, web=0)
            engine.start()
            engine.await_health("web", "healthy")
            scrape = watch.recovers(docker_up=1, web=4)

        assert started == scrape.container("web")
    finally:
        engine.stop()
