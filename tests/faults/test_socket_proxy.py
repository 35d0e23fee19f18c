"""Faults of a socket proxy: a real HAProxy before a real Docker denies, restarts, and cuts connections."""

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
    """Without inspects, health comes from the list, details are missing, and one warning is logged."""
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


def test_inspect_denied_with_details_off(proxy: Proxy, watched: Watched) -> None:
    """With `--container-details=false` the exporter never inspects, so a proxy that denies it is no error."""
    proxy.start(all_but("inspect"))
    with watched(
        "proxy: inspect denied, details off", proxy.url, "--container-details=false"
    ) as watch:
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
def test_denied(
    proxy: Proxy, watched: Watched, what: str, endpoint: str, setting: str
) -> None:
    """A denied endpoint sets container health to 0, and the log names the proxy's missing setting once.

    With only the list denied, docker_up stays 1. The exporter requests the version only when it connects.
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
    """The proxy's 503 counts as reason `unreachable`, not as an error of Docker."""
    proxy.start()
    with watched("proxy: up, its engine killed and started again", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        docker.kill()
        scrape = watch.shows(docker_up=0, web=0)
        docker.start()
        watch.recovers(docker_up=1, web=1)

    assert {"unreachable"} == {reason for _, reason in errors(scrape)}


def test_restarted(proxy: Proxy, watched: Watched) -> None:
    """docker_up is 0 while the proxy is down, and 1 again after its start."""
    proxy.start()
    with watched("proxy: killed, started again", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        proxy.stop()
        watch.shows(docker_up=0, web=0)
        proxy.start()
        watch.recovers(docker_up=1, web=4)


@pytest.mark.parametrize("keep_alive", ["1ms", "500ms"])
def test_idle_connections_cut(proxy: Proxy, watched: Watched, keep_alive: str) -> None:
    """A proxy that cuts idle connections fails no poll, even if it cuts at the moment of the next poll."""
    proxy.start(keep_alive=keep_alive)
    with watched(f"proxy: idle connections cut after {keep_alive}", proxy.url) as watch:
        watch.shows(docker_up=1, web=4)
        scrape = watch.polls_pass(6)
        watch.shows(docker_up=1, web=4)

    assert 0 == scrape.value("docker_exporter_polls_total", result="failure")
