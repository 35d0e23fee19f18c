"""Outlets: the counts and logs of deliveries, and what happens at their start and end."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.outlets import Outlet, OutletError, open_outlets
from docker_prom_exporter.settings import read_settings
from support.expositions import Scrape, parse
from support.gateway import GROUP, TAKEN, UNAVAILABLE, FakeGateway, exposition, push_settings
from support.simulated import DENIED, Fault, answers, hangs
from support.waiting import wait_for

SOON = 10


def outlets(
    url: str, stop: threading.Event | None = None, interval: float = 10, **options: Any
) -> list[Outlet]:
    return open_outlets(push_settings(url, interval, **options), stop or threading.Event())


def counting(outlets: list[Outlet]) -> Exposition:
    return Exposition(lambda: [family for outlet in outlets for family in outlet.families()])


def pushes(*outlets: Outlet) -> dict[str, float]:
    return scrape(counting([*outlets])).by("result", "docker_exporter_pushes_total")


def scrape(held: Exposition, *names: str) -> Scrape:
    return parse(b"".join(held.render(names=names).body).decode())


def test_all_get_the_same(gateway: FakeGateway, tmp_path: Path) -> None:
    """All outlets get the published families, without the metrics of the exporter's process."""
    path = tmp_path / "docker.prom"
    held = exposition(web=4)
    delivered = [outlet.deliver(held) for outlet in outlets(gateway.url, textfile=path)]

    assert [True, True] == delivered
    assert gateway.asked[0].scrape == parse(path.read_text())
    assert {"container_health", "docker_up"} == {
        name for name, _ in gateway.asked[0].scrape.samples
    }


def test_no_outlets() -> None:
    """Without options for an outlet, no outlet is opened."""
    assert [] == open_outlets(read_settings({}, {}), threading.Event())


def test_a_failure_is_logged_once(gateway: FakeGateway) -> None:
    """A failure is logged once, and again if its reason changes; the recovery is logged once."""
    (pushing,) = outlets(gateway.url)
    answering = [DENIED, DENIED, answers("404 Not Found", ""), TAKEN, TAKEN]
    with capture_logs() as logs:
        for answer in answering:
            gateway.answers = [answer]
            pushing.deliver(exposition())

    assert [
        ("push.failed", "403 Forbidden"),
        ("push.failed", "404 Not Found"),
        ("push.recovered", None),
    ] == [(entry["event"], entry.get("reason")) for entry in logs]
    assert {gateway.url} == {entry["url"] for entry in logs}
    assert {"failure": 3, "success": 2} == pushes(pushing)


def test_an_internal_error(gateway: FakeGateway) -> None:
    """An internal error counts as a failure, and the next delivery is made."""
    (pushing,) = outlets(gateway.url)
    broken: Any = None
    with capture_logs() as logs:
        delivered = [pushing.deliver(broken), pushing.deliver(exposition())]

    assert [False, True] == delivered
    assert [("push.failed", "AttributeError"), ("push.recovered", None)] == [
        (entry["event"], entry.get("reason")) for entry in logs
    ]


def test_delivers_until_it_is_stopped(gateway: FakeGateway, tmp_path: Path) -> None:
    """An outlet delivers once per interval until it is stopped, and then deletes the group or the file."""
    stop = threading.Event()
    both = outlets(gateway.url, stop, 0.1, textfile=tmp_path / "docker.prom")
    for outlet in both:
        outlet.start(exposition(web=4))
    wait_for(lambda: len(gateway.pushed) >= 2, what="two pushes")
    written = [*tmp_path.iterdir()]

    stop.set()
    for outlet in both:
        outlet.wake()
        outlet.join(time.monotonic() + SOON)

    assert [tmp_path / "docker.prom"] == written
    assert ("DELETE", GROUP) == (gateway.asked[-1].method, gateway.asked[-1].path)
    assert [] == [*tmp_path.iterdir()]


@pytest.mark.parametrize("fault", [hangs(), UNAVAILABLE])
def test_a_failing_gateway_does_not_delay_the_end(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """A failing gateway does not delay the end, and the log says that the group stays."""
    monkeypatch.setattr("docker_prom_exporter.outlets.pushgateway._DELETE_TIMEOUT", 0.1)
    gateway.answers = [TAKEN, fault]
    stop = threading.Event()
    (pushing,) = outlets(gateway.url, stop)
    with capture_logs() as logs:
        pushing.start(exposition())
        wait_for(
            lambda: len(gateway.asked) >= 2, what="the push and the request for the status"
        )

        began = time.monotonic()
        stop.set()
        pushing.wake()
        pushing.join(began + SOON)
        waited = time.monotonic() - began

    assert waited < 5
    assert "push.not_withdrawn" in [entry["event"] for entry in logs]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"textfile": "missing/docker.prom"},
            "--textfile .*missing/docker.prom: No such file or directory",
        ),
        ({"textfile": "file/docker.prom"}, "--textfile .*: Not a directory"),
        (
            {"push_username": "me", "push_password_file": "missing"},
            "--push-password-file .*: No such file",
        ),
        ({"push_ca_file": "missing"}, "--push-ca-file .*: No such file"),
        ({"push_ca_file": "file"}, "--push-ca-file .*: "),
    ],
)
def test_unusable_files_at_the_start(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    """If a file is missing or unusable at the start, the error names the option."""
    (tmp_path / "file").write_text("no certificate")
    paths: dict[str, Any] = {
        name: text if name == "push_username" else tmp_path / text
        for name, text in options.items()
    }

    with pytest.raises(OutletError, match=message):
        outlets("http://127.0.0.1:1", **paths)


def test_metrics_count_pushes_and_writes(gateway: FakeGateway, tmp_path: Path) -> None:
    """Pushes and writes are counted from 0, and `name[]` selects their counters."""
    both = outlets(gateway.url, textfile=tmp_path / "docker.prom")
    held = counting(both)
    before = scrape(held)
    for outlet in both:
        outlet.deliver(exposition())
    after = scrape(held)

    for name in ("docker_exporter_pushes_total", "docker_exporter_textfile_writes_total"):
        assert {"success": 0, "failure": 0} == before.by("result", name)
        assert {"success": 1, "failure": 0} == after.by("result", name)
        assert after.by("result", name) == scrape(held, name).by("result", name)
    assert 0 == before.value("docker_exporter_last_push_timestamp_seconds")
    assert (
        time.time() - (after.value("docker_exporter_last_push_timestamp_seconds") or 0) < SOON
    )
