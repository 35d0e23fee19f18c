"""What a socket proxy may do: a real HAProxy before a real Docker denies, restarts, and cuts connections."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from docker_prom_exporter.demo import WATCH
from support.proxies import SETTINGS, Proxy, all_but
from support.real import Engine
from support.watching import Watch, errors

Watched = Callable[..., AbstractContextManager[Watch]]


@pytest.fixture
def proxy(docker: Engine, tmp_path: Path) -> Iterator[Proxy]:
    docker.run("web", health="healthy", labels=WATCH)
    proxy = Proxy(tmp_path, docker.listen)
    yield proxy
    proxy.stop()


def test_inspect_denied(proxy: Proxy, watched: Watched) -> None:
    """Health comes from the list; details are missing, which is counted each poll and said once."""
    proxy.start(all_but("inspect"))
    with watched("proxy: inspect denied", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        scrape = watch.polls_pass(2)
        log = watch.client.exporter.stderr

    assert {("inspect", "denied")} == errors(scrape).keys()
    assert 0 == scrape.value("docker_exporter_polls_total", result="failure")
    assert {"container_health", "state", "health_status"} == scrape.container("web").keys()
    assert 1 == log.count("event=containers.details_missing ")
    assert "CONTAINER_INSPECT=1 or CONTAINERS=1" in log


def test_nothing_is_missing_where_inspect_is_not_wanted(proxy: Proxy, watched: Watched) -> None:
    """`CONTAINER_DETAILS=false` is for a proxy that keeps that endpoint closed."""
    proxy.start(all_but("inspect"))
    with watched("proxy: inspect denied, details off", proxy.url, "--container-details=false") as watch:
        watch.shows(docker_up=1, web=4)
        scrape = watch.polls_pass(2)

    assert {} == errors(scrape)
    assert 0 == scrape.value("docker_exporter_api_requests_total", endpoint="inspect")


@pytest.mark.parametrize(
    ("what", "endpoint", "setting"),
    [
        ("list", "list", "CONTAINER_LIST=1"),
        ("ping", "ping", "PING=1"),
        ("version", "version", "VERSION=1"),
        ("everything", "version", "VERSION=1"),
    ],
)
def test_denied(proxy: Proxy, watched: Watched, what: str, endpoint: str, setting: str) -> None:
    """What was known is not believed any more; the log says once which setting of the proxy is missing.

    Docker that answers pings and denies the list is up. The version is asked for only at a connection.
    """
    proxy.start()
    with watched(f"proxy: {what} denied, then let through", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        proxy.stop()
        watch.shows(docker_up=0, web=0)
        proxy.start(all_but(*(SETTINGS if what == "everything" else [what])))
        watch.shows(docker_up=what == "list", web=0)
        scrape = watch.polls_pass(2)
        log = watch.client.exporter.stderr
        proxy.stop()
        proxy.start()
        watch.recovers(docker_up=1, web=4)

    assert errors(scrape)[endpoint, "denied"] > 1
    assert 1 == log.count(f"endpoint={endpoint} reason=denied ")
    assert setting in log


def test_up_with_its_engine_down(docker: Engine, proxy: Proxy, watched: Watched) -> None:
    """The proxy's 503 is Docker out of reach, not Docker in error."""
    proxy.start()
    with watched("proxy: up, its engine killed and started again", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        docker.kill()
        scrape = watch.shows(docker_up=0, web=0)
        docker.start()
        watch.recovers(docker_up=1, web=1)

    assert {"unreachable"} == {reason for _, reason in errors(scrape)}


def test_restarted(proxy: Proxy, watched: Watched) -> None:
    """While it is away, Docker is."""
    proxy.start()
    with watched("proxy: killed, started again", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        proxy.stop()
        watch.shows(docker_up=0, web=0)
        proxy.start()
        watch.recovers(docker_up=1, web=4)


@pytest.mark.parametrize("keep_alive", ["1ms", "500ms"])
def test_idle_connections_cut(proxy: Proxy, watched: Watched, keep_alive: str) -> None:
    """Even at the very moment of the next poll, half a second later, that is no failure of Docker's."""
    proxy.start(keep_alive=keep_alive)
    with watched(f"proxy: idle connections cut after {keep_alive}", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        scrape = watch.polls_pass(6)
        watch.shows(docker_up=1, web=4)

    assert 0 == scrape.value("docker_exporter_polls_total", result="failure")
