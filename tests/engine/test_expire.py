"""The `expire` command with real Pushgateways: Debian 12's and a newer one."""

import base64
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support.exporters import AT_ONCE, Exporter, exporter
from support.expositions import Scrape
from support.gateway import fake_gateway
from support.prometheus import (
    NEWER_PUSHGATEWAY,
    OLDER_PUSHGATEWAY,
    Server,
    pushgateway,
    running,
)
from support.simulated import hangs
from support.waiting import wait_for

JOB = "docker_prom_exporter"
INSTANCES = [
    "host1",
    "a/b",
    "../c",
    ".",
    "my host",
    "50%+1",
    'a"b\\c\nd}',
    "日本語 é",
    "x" * 3000,
]

# Groups by the path to which a client pushes, each with the labels that the Pushgateway then exports.
OTHER_GROUPS = {
    "": {"instance": ""},
    "/zone/eu": {"instance": "", "zone": "eu"},
    "/zone/a/rack/2/instance/host1": {"instance": "host1", "zone": "a", "rack": "2"},
    "/zone@base64/=/instance/host2": {"instance": "host2", "zone": ""},
}


@pytest.fixture(params=[OLDER_PUSHGATEWAY, NEWER_PUSHGATEWAY], ids=["1.5", "newer"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with running(pushgateway(tmp_path, program=request.param)) as server:
        yield server


def send(method: str, gateway: Server, path: str, body: str = "") -> None:
    request = urllib.request.Request(
        f"{gateway.url}/metrics/job{path}", body.encode(), method=method
    )
    urllib.request.urlopen(request, timeout=10).close()


def push(gateway: Server, path: str, job: str = JOB) -> None:
    send("PUT", gateway, f"/{job}{path}", "something 1\n")


def path_of(instance: str) -> str:
    return f"/instance@base64/{base64.urlsafe_b64encode(instance.encode()).decode()}"


def expiring(gateway: Server, after: float, *options: str) -> AbstractContextManager[Exporter]:
    return exporter("expire", f"--push-url={gateway.url}", f"--expire-after={after}", *options)


def groups(gateway: Server) -> list[dict[str, str]]:
    samples = gateway.metrics().samples
    return [dict(labels) for name, labels in samples if name == "push_time_seconds"]


def events(expirer: Exporter, name: str) -> int:
    return expirer.stderr.count(f"event={name} ")


def test_all_groups_of_the_job_expire_and_no_other(gateway: Server) -> None:
    """Groups of the job expire, whatever their labels, and no others; each is counted and logged once."""
    for path in OTHER_GROUPS:
        push(gateway, path)
    for instance in INSTANCES:
        push(gateway, path_of(instance))
        push(gateway, path_of(instance), job="backup")
    mine = [*({"instance": instance} for instance in INSTANCES), *OTHER_GROUPS.values()]
    before = groups(gateway)

    with expiring(gateway, 1) as expirer:
        wait_for(
            lambda: {each["job"] for each in groups(gateway)} == {"backup"},
            what="the groups to expire",
        )
        wait_for(
            lambda: _expired(expirer.metrics()) == len(mine), what="all groups to be counted"
        )
        lines = events(expirer, "group.expired")

    assert {*_sorted(mine)} == {*_sorted(before)} - {*_sorted(groups(gateway))}
    assert len(INSTANCES) == len(groups(gateway))
    assert len(mine) == lines


def _sorted(labels: list[dict[str, str]]) -> list[tuple[tuple[str, str], ...]]:
    return [tuple(sorted({"job": JOB, **each}.items())) for each in labels]


def _expired(scrape: Scrape) -> float | None:
    return scrape.value("docker_exporter_groups_expired_total")


def test_names_of_labels_may_be_utf_8(tmp_path: Path) -> None:
    """A group whose label name is UTF-8 expires on a Pushgateway with `--push.enable-utf8-names`."""
    server = pushgateway(tmp_path, "--push.enable-utf8-names", program=NEWER_PUSHGATEWAY)
    with running(server) as gateway, expiring(gateway, 1) as expirer:
        push(gateway, "/instance/host1/U__a_2e_b/x")
        wait_for(lambda: events(expirer, "group.expired"), what="the group to expire")
        wait_for(lambda: groups(gateway) == [], what="the group to be gone")


def test_what_is_pushed_stays(gateway: Server) -> None:
    """A group stays while it is pushed in time, even if all of its pushes have failed."""
    with expiring(gateway, 3) as expirer:
        push(gateway, "/instance/gone")

        def clash() -> None:
            with pytest.raises(urllib.error.HTTPError, match="400") as refused:
                send(
                    "PUT",
                    gateway,
                    f"/{JOB}/instance/failing",
                    "# TYPE something counter\nsomething 1\n",
                )
            refused.value.close()

        def go_on() -> bool:
            push(gateway, "/instance/there")
            clash()
            return "gone" not in {each["instance"] for each in groups(gateway)}

        wait_for(go_on, what="the group nobody pushes to expire", every=0.2)
        left = {each["instance"] for each in groups(gateway)}
        wait_for(lambda: _expired(expirer.metrics()) == 3, what="all to expire")

    assert {"there", "failing"} == left


def test_a_gateway_in_trouble(gateway: Server) -> None:
    """`expire` stays healthy without a Pushgateway, logs each change once, and resumes when it is back."""
    with expiring(gateway, 1) as expirer:
        wait_for(lambda: _up(expirer) == 1, what="the first query of the Pushgateway")
        gateway.daemon.kill()
        wait_for(lambda: _up(expirer) == 0, what="docker_exporter_gateway_up to become 0")
        during = [expirer.get(path)[0] for path in ("/-/healthy", "/-/ready")]
        gateway.start()
        push(gateway, "/instance/gone")
        wait_for(lambda: groups(gateway) == [], what="a group to expire")
        changes = [events(expirer, f"gateway.{change}") for change in ("found", "lost")]

    assert [200, 200] == during
    assert [2, 1] == changes


def test_a_stuck_gateway_holds_up_nothing() -> None:
    """While the Pushgateway has not answered, `expire` serves, is not ready, and ends at once."""
    with fake_gateway() as gateway:
        gateway.status = hangs()
        with exporter("expire", f"--push-url={gateway.url}") as expirer:
            wait_for(lambda: gateway.asked, what="the first query of the Pushgateway")
            during = [expirer.get(path)[0] for path in ("/-/healthy", "/-/ready")]
            up = _up(expirer)
            code, seconds = expirer.stop(signal.SIGTERM)

    assert [200, 503] == during
    assert (0, 0) == (up, code)
    assert seconds < AT_ONCE


def _up(expirer: Exporter) -> float | None:
    return expirer.metrics().value("docker_exporter_gateway_up")


def test_it_serves_what_every_command_does(gateway: Server) -> None:
    """`expire` exports its own metrics and those of its process, none about Docker, and pushes nothing."""
    push_options = ("env", "PUSH_INSTANCE=host1", "PUSH_INTERVAL=1")
    with exporter("expire", f"--push-url={gateway.url}", wrapper=push_options) as expirer:
        wait_for(lambda: _up(expirer) == 1, what="the first query of the Pushgateway")
        names = {name for name, _ in expirer.metrics().samples}

    assert {
        "docker_exporter_build_info",
        "docker_exporter_gateway_up",
        "docker_exporter_groups_expired_total",
        "python_info",
    } == {name for name in names if not name.startswith("process_")}
    assert "process_cpu_seconds_total" in names
    assert [] == groups(gateway)
