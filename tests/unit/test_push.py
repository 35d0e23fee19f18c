"""What goes to a Pushgateway and to a text file, when, and how little one that fails costs."""

import base64
import gzip
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.metrics import Exposition
from docker_prom_exporter.outlets import Gateway, OutletError, Outlets, Pusher, TextFile
from docker_prom_exporter.settings import Settings, read_settings
from docker_prom_exporter.snapshot import Snapshot
from support.builders import container, gallery, snapshot
from support.expositions import Scrape, parse
from support.simulated import Fault, answers, drips, hangs, poller_for, resets, says, simulation
from support.waiting import wait_for

SOON = 10
TAKEN = answers("200 OK", "")
UNAVAILABLE = answers("503 Service Unavailable", "come again")
GROUP = "/metrics/job/docker_prom_exporter/instance/host1"


@dataclass(frozen=True)
class Asked:
    """A request as the gateway got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def scrape(self) -> Scrape:
        zipped = self.headers.get("Content-Encoding") == "gzip"
        return parse((gzip.decompress(self.body) if zipped else self.body).decode())


class FakeGateway(http.server.ThreadingHTTPServer):
    """Answers pushes by the next of `answers`, the last again and again, and the status by `status`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[Asked] = []
        self.answers: list[Fault] = [TAKEN]
        self.status = status_of({})

    @property
    def pushed(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "PUT"]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeGateway

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(Asked(self.command, self.path, dict(self.headers), body))
        if self.command == "GET":
            self.server.status(self.connection)
        elif len(self.server.answers) > 1:
            self.server.answers.pop(0)(self.connection)
        else:
            self.server.answers[0](self.connection)
        self.close_connection = True

    do_GET = do_PUT = do_DELETE = _answer  # noqa: N815  the names http.server asks for

    def log_message(self, *_: Any) -> None:
        pass


def status_of(flags: dict[str, str]) -> Fault:
    return answers("200 OK", json.dumps({"status": "success", "data": {"flags": flags}}))


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def settings(**options: Any) -> Settings:
    return read_settings({name: str(value) for name, value in options.items()}, {})


def pushing_to(url: str, **options: Any) -> Settings:
    return settings(**{"push_url": url, "push_instance": "host1", "push_interval": 1, **options})


def take() -> Snapshot:
    return snapshot(*gallery())


def results(outlet: Pusher | TextFile | Outlets) -> dict[tuple[str, str], float]:
    """Return the counts as they are exported, without those that are 0."""
    return {
        (sample.name, sample.labels["result"]): sample.value
        for family in outlet.families()
        for sample in family.samples
        if sample.labels and sample.value
    }


def pushes(outlet: Pusher) -> dict[str, float]:
    return {result: value for (_, result), value in results(outlet).items()}


def events(logs: list[Any]) -> list[str]:
    return [entry["event"] for entry in logs]


def test_a_push_replaces_the_group(gateway: FakeGateway) -> None:
    """By PUT, zipped, with all a snapshot says and nothing of this process."""
    assert Pusher(pushing_to(gateway.url)).deliver(take)

    (asked,) = gateway.asked
    assert ("PUT", GROUP, "gzip") == (asked.method, asked.path, asked.headers["Content-Encoding"])
    assert 1 == asked.scrape.value("docker_up")
    assert 4 == asked.scrape.value("container_health", name="healthy")
    assert asked.scrape.value("docker_exporter_polls_total", result="success") is not None
    assert [] == [name for name, _ in asked.scrape.samples if name.startswith(("process_", "python_"))]


@pytest.mark.parametrize(
    ("job", "instance", "path"),
    [
        ("ci", "runner 7", "/metrics/job/ci/instance@base64/cnVubmVyIDc="),
        ("a/b", "host1", "/metrics/job@base64/YS9i/instance/host1"),
    ],
)
def test_any_group_has_a_path(gateway: FakeGateway, job: str, instance: str, path: str) -> None:
    """Whatever the labels are made of."""
    Pusher(pushing_to(gateway.url, push_job=job, push_instance=instance)).deliver(take)

    assert [path] == [asked.path for asked in gateway.asked]


def test_a_url_may_have_a_path(gateway: FakeGateway) -> None:
    """Where the gateway is behind a prefix, with or without a slash at the end."""
    Pusher(pushing_to(f"{gateway.url}/gateway/")).deliver(take)

    assert [f"/gateway{GROUP}"] == [asked.path for asked in gateway.asked]


def test_docker_down_is_pushed(gateway: FakeGateway) -> None:
    """No dead container stays healthy."""
    pusher = Pusher(pushing_to(gateway.url))
    pusher.deliver(lambda: take().distrusted())

    scrape = gateway.asked[0].scrape
    assert 0 == scrape.value("docker_up")
    assert {0} == set(scrape.by("name", "container_health").values())


def test_an_old_gateway_gets_plain_text(gateway: FakeGateway) -> None:
    """Before 1.5 it takes gzip for bad metrics; from then on it gets none."""
    gateway.answers = [answers("400 Bad Request", "text format parsing error in line 1"), TAKEN]
    pusher = Pusher(pushing_to(gateway.url))

    assert pusher.deliver(take)
    assert pusher.deliver(take)

    assert ["gzip", None, None] == [asked.headers.get("Content-Encoding") for asked in gateway.asked]
    assert [1, 1, 1] == [asked.scrape.value("docker_up") for asked in gateway.asked]
    assert {"success": 2} == pushes(pusher)


def test_400_is_final(gateway: FakeGateway) -> None:
    """Its reason is logged; once it was sent plain, too, it isn't sent again before the next push is due."""
    gateway.answers = [answers("400 Bad Request", "pushed metrics are\ninvalid")]
    pusher = Pusher(pushing_to(gateway.url))

    with capture_logs() as logs:
        assert not pusher.deliver(take)
        assert not pusher.deliver(take)

    assert 3 == len(gateway.pushed)
    assert {"failure": 2} == pushes(pusher)
    (failed,) = logs
    assert ("push.failed", "400 Bad Request", "pushed metrics are invalid") == tuple(
        failed[key] for key in ("event", "reason", "detail")
    )


@pytest.mark.parametrize("fault", [UNAVAILABLE, resets, says(b"nonsense\r\n\r\n"), hangs()])
def test_what_may_pass_is_tried_again(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Within the interval, with the snapshot of that moment; it is one push that succeeded."""
    monkeypatch.setattr("docker_prom_exporter.outlets._SECONDS_FOR_A_REQUEST", 0.3)
    gateway.answers = [fault, TAKEN]
    pusher = Pusher(pushing_to(gateway.url, push_interval=5))
    snapshots = iter([snapshot(up=False), snapshot(up=True)])

    assert pusher.deliver(lambda: next(snapshots))
    assert [0, 1] == [asked.scrape.value("docker_up") for asked in gateway.pushed]
    assert {"success": 1} == pushes(pusher)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (UNAVAILABLE, "503 Service Unavailable"),
        (resets, "unreachable"),
        (hangs(), "timeout"),
        (hangs(b"HTTP/1.1 "), "timeout"),
        (drips(b"HTTP/1.1 200 OK\r\nX: "), "timeout"),
        (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", every=0.01), None),
    ],
)
def test_a_push_ends_when_the_next_is_due(gateway: FakeGateway, fault: Fault, reason: str | None) -> None:
    """Whatever the gateway does: also when it drips, each byte in time."""
    gateway.answers = [fault]
    pusher = Pusher(pushing_to(gateway.url))

    began = time.monotonic()
    with capture_logs() as logs:
        pusher.deliver(take)

    assert time.monotonic() - began < 5
    assert ([reason] if reason else []) == [entry["reason"] for entry in logs]


def test_a_failure_is_logged_once(gateway: FakeGateway) -> None:
    """Not each time, but again when the reason is another; and so is its end."""
    gateway.answers = [UNAVAILABLE]
    pusher = Pusher(pushing_to(gateway.url))

    with capture_logs() as logs:
        pusher.deliver(take)
        pusher.deliver(take)
        gateway.answers = [answers("404 Not Found", "")]
        pusher.deliver(take)
        gateway.answers = [TAKEN]
        pusher.deliver(take)
        pusher.deliver(take)

    assert [
        ("push.failed", "503 Service Unavailable"),
        ("push.failed", "404 Not Found"),
        ("push.recovered", None),
    ] == [(entry["event"], entry.get("reason")) for entry in logs]
    assert {"failure": 3, "success": 2} == pushes(pusher)


def test_redirects_are_not_followed(gateway: FakeGateway, tmp_path: Path) -> None:
    """The password goes to the URL given and nowhere else."""
    with FakeGateway() as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        gateway.answers = [answers("307 Temporary Redirect", "", f"Location: {other.url}{GROUP}")]
        with capture_logs() as logs:
            assert not Pusher(_with_password(gateway, tmp_path)).deliver(take)
        other.shutdown()

    assert [] == other.asked
    assert 1 == len(gateway.asked)
    assert other.url in logs[0]["detail"]


def test_the_password_is_read_for_each_push(gateway: FakeGateway, tmp_path: Path) -> None:
    """So that it can be changed; where it can't be read, nothing is sent."""
    pusher = Pusher(_with_password(gateway, tmp_path))
    pusher.deliver(take)
    (tmp_path / "password").write_text("other")
    pusher.deliver(take)
    (tmp_path / "password").unlink()

    with capture_logs() as logs:
        assert not pusher.deliver(take)

    assert ["me:secret", "me:other"] == [
        base64.b64decode(asked.headers["Authorization"].removeprefix("Basic ")).decode()
        for asked in gateway.asked
    ]
    assert ["no_password"] == [entry["reason"] for entry in logs]


def test_no_password_is_ever_logged(gateway: FakeGateway, tmp_path: Path) -> None:
    """A wrong one is answered with what to look at, not with what it was."""
    gateway.answers = [answers("401 Unauthorized", "")]

    with capture_logs() as logs:
        Pusher(_with_password(gateway, tmp_path)).deliver(take)

    assert ["check --push-username and --push-password-file"] == [entry["detail"] for entry in logs]
    assert "secret" not in str(logs)


def _with_password(gateway: FakeGateway, folder: Path) -> Settings:
    file = folder / "password"
    file.write_text("secret\n")
    return pushing_to(gateway.url, push_username="me", push_password_file=file)


def test_environment_proxies_are_not_used(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the engine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert Pusher(pushing_to(gateway.url)).deliver(take)


def test_an_error_of_our_own_ends_no_pushing(gateway: FakeGateway) -> None:
    """It counts as a failure, and the next push is made."""
    pusher = Pusher(pushing_to(gateway.url))

    with capture_logs() as logs:
        assert not pusher.deliver(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        assert pusher.deliver(take)

    assert [("push.failed", "ZeroDivisionError"), ("push.recovered", None)] == [
        (entry["event"], entry.get("reason")) for entry in logs
    ]


def test_pushes_until_it_is_stopped(gateway: FakeGateway) -> None:
    """Once an interval, from its start on; the last request deletes the group."""
    outlets = Outlets(pushing_to(gateway.url))
    outlets.start(take)
    wait_for(lambda: len(gateway.pushed) >= 2, what="two pushes")

    outlets.stop()
    outlets.join(time.monotonic() + SOON)

    assert ("DELETE", GROUP) == (gateway.asked[-1].method, gateway.asked[-1].path)


@pytest.mark.parametrize("fault", [hangs(), UNAVAILABLE])
def test_a_gateway_in_trouble_does_not_hold_up_the_end(gateway: FakeGateway, fault: Fault) -> None:
    """The group that stays is told."""
    gateway.answers = [TAKEN, fault]
    outlets = Outlets(pushing_to(gateway.url, push_interval=60))
    with capture_logs() as logs:
        outlets.start(take)
        wait_for(lambda: len(gateway.asked) >= 2, what="the push, and the question for the status")

        began = time.monotonic()
        outlets.stop()
        outlets.join(began + 0.9)

    assert time.monotonic() - began < 1
    assert "push.left_behind" in events(logs)


@pytest.mark.parametrize(
    ("flags", "event"),
    [
        ({}, "push.never_expires"),
        ({"metric.timetolive": "0s"}, "push.never_expires"),
        ({"metric.timetolive": "44s"}, "push.expires_early"),
        ({"metric.timetolive": "45s"}, None),
        ({"metric.timetolive": "1h0m0s"}, None),
    ],
)
def test_says_what_becomes_of_stale_groups(
    gateway: FakeGateway, flags: dict[str, str], event: str | None
) -> None:
    """Once, and only where the user has something to do about it."""
    gateway.status = status_of(flags)

    assert ([event] if event else []) == _events_of_a_start(gateway)


@pytest.mark.parametrize("status", [answers("404 Not Found", ""), answers("200 OK", "[]"), resets])
def test_a_gateway_that_does_not_say(gateway: FakeGateway, status: Fault) -> None:
    """One before 1.2, or a proxy that hides it: it is said once, and pushing goes on."""
    gateway.status = status

    assert ["push.expiry_unknown"] == _events_of_a_start(gateway)


def _events_of_a_start(gateway: FakeGateway) -> list[str]:
    """Push twice, in what the status takes for intervals of 15 s."""
    pusher = Pusher(pushing_to(gateway.url, push_interval=15))
    with capture_logs() as logs:
        pusher.start(take)
        wait_for(lambda: [a for a in gateway.asked if a.method == "GET"], what="the question")
        pusher.stop()
        pusher.join(SOON)
    return events(logs)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("", None), ("0s", None), ("1m30s", 90), ("1h0m0.5s", 3600.5), ("250ms", 0.25), ("soon", None)],
)
def test_reads_a_duration(gateway: FakeGateway, duration: str, seconds: float | None) -> None:
    """As Go writes it."""
    gateway.status = status_of({"metric.timetolive": duration})

    assert seconds == Gateway(pushing_to(gateway.url)).time_to_live(SOON)


def test_the_file_says_what_is_pushed(gateway: FakeGateway, tmp_path: Path) -> None:
    """The same families, whole, for all to read, and nothing beside it."""
    path = tmp_path / "docker.prom"
    umask = os.umask(0o077)
    try:
        assert Outlets(pushing_to(gateway.url, textfile=path)).deliver(take())
    finally:
        os.umask(umask)

    assert gateway.asked[0].scrape == parse(path.read_text())
    assert 0o644 == path.stat().st_mode & 0o777
    assert [path] == [*tmp_path.iterdir()]


def test_the_file_is_written_when_something_changed(tmp_path: Path) -> None:
    """A container, or docker_up; not because time has passed."""
    shown = take()
    writes = _Writes(tmp_path, lambda: shown)
    try:
        writes.wait(1)
        for _ in range(3):
            shown = replace(shown, ended=shown.ended + 1, duration=shown.duration + 1)
            writes.file.wake()
        shown = replace(shown, containers=(*shown.containers, container("new")))
        writes.file.wake()
        writes.wait(2)
        shown = shown.distrusted()
        writes.file.wake()
        writes.wait(3)
    finally:
        writes.stop()

    assert 3 == writes.count
    assert [] == [*tmp_path.iterdir()]


def test_the_file_is_written_again_each_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its mtime tells whether anybody still writes it."""
    monkeypatch.setattr("docker_prom_exporter.outlets._SECONDS_BETWEEN_WRITES", 0.1)
    writes = _Writes(tmp_path, take)

    writes.wait(3)

    writes.stop()


class _Writes:
    """A text file that is kept up to date, and how often it was written."""

    def __init__(self, folder: Path, take: Callable[[], Snapshot]) -> None:
        self.file = TextFile(settings(textfile=folder / "docker.prom", poll_interval=3600))
        self.file.start(take)

    @property
    def count(self) -> float:
        return sum(results(self.file).values())

    def wait(self, count: int) -> None:
        wait_for(lambda: self.count >= count, what=f"{count} writes")

    def stop(self) -> None:
        self.file.stop()
        self.file.join(SOON)


def test_a_folder_that_goes_away_may_come_back(tmp_path: Path) -> None:
    """Each failure is counted, their begin and end logged."""
    folder = tmp_path / "textfiles"
    folder.mkdir()
    file = TextFile(settings(textfile=folder / "docker.prom"))
    folder.rmdir()

    with capture_logs() as logs:
        told = [file.deliver(take), file.deliver(take)]
        folder.mkdir()
        told.append(file.deliver(take))

    assert [False, False, True] == told
    assert [("textfile.failed", "No such file or directory"), ("textfile.recovered", None)] == [
        (entry["event"], entry.get("reason")) for entry in logs
    ]
    assert 2 == results(file)["docker_exporter_textfile_writes_total", "failure"]


def test_a_failed_write_is_made_up_for(tmp_path: Path) -> None:
    """At the next poll, though nothing has changed in between."""
    folder = tmp_path / "textfiles"
    folder.mkdir()
    writes = _Writes(folder, take)
    writes.wait(1)
    (folder / "docker.prom").unlink()
    (folder / "docker.prom").mkdir()
    writes.file._shown = ()

    writes.file.wake()
    wait_for(lambda: ("docker_exporter_textfile_writes_total", "failure") in results(writes.file), what="it")
    (folder / "docker.prom").rmdir()
    writes.file.wake()
    wait_for((folder / "docker.prom").is_file, what="the file")

    writes.stop()


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    """Nobody who may write to the folder has another file overwritten."""
    file = TextFile(settings(textfile=tmp_path / "docker.prom"))
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".docker.prom.tmp").symlink_to(tmp_path / "precious")

    file.deliver(take)

    assert "mine" == (tmp_path / "precious").read_text()


def test_a_name_that_node_exporter_ignores_is_told(tmp_path: Path) -> None:
    """It would wonder in vain where its metrics are."""
    with capture_logs() as logs:
        TextFile(settings(textfile=tmp_path / "docker.txt"))
        TextFile(settings(textfile=tmp_path / "docker.prom"))

    assert ["textfile.ignored"] == events(logs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"textfile": "missing/docker.prom"}, "--textfile .*missing/docker.prom: No such file or directory"),
        ({"textfile": ""}, "--textfile .*: .*directory"),
        ({"textfile": "file/docker.prom"}, "--textfile .*: Not a directory"),
        ({"push_username": "me", "push_password_file": "missing"}, "--push-password-file .*: No such file"),
        ({"push_ca_file": "missing"}, "--push-ca-file .*: No such file"),
        ({"push_ca_file": "file"}, "--push-ca-file .*: "),
    ],
)
def test_what_is_missing_at_the_start_is_told(tmp_path: Path, options: dict[str, str], message: str) -> None:
    """In one line, with the option."""
    (tmp_path / "file").write_text("no certificate")
    paths = {name: text if name == "push_username" else tmp_path / text for name, text in options.items()}

    with pytest.raises(OutletError, match=message):
        Outlets(pushing_to("http://127.0.0.1:1", **paths))


def test_metrics_tell_of_pushes_and_writes(gateway: FakeGateway, tmp_path: Path) -> None:
    """From the start, as 0, and only where there is something to count."""
    outlets = Outlets(pushing_to(gateway.url, textfile=tmp_path / "docker.prom"))
    exposition = Exposition(take, others=outlets.families)

    before = _scrape(exposition)
    outlets.deliver(take())
    after = _scrape(exposition)

    for name in ("docker_exporter_pushes_total", "docker_exporter_textfile_writes_total"):
        assert {"success": 0, "failure": 0} == before.by("result", name)
        assert {"success": 1, "failure": 0} == after.by("result", name)
        assert {} == _scrape(Exposition(take)).by("result", name)
    assert 0 == before.value("docker_exporter_last_push_timestamp_seconds")
    assert time.time() - (after.value("docker_exporter_last_push_timestamp_seconds") or 0) < SOON


def test_the_metrics_of_pushes_can_be_asked_for_by_name(gateway: FakeGateway) -> None:
    """As any others."""
    exposition = Exposition(take, others=Outlets(pushing_to(gateway.url)).families)

    assert {"success": 0, "failure": 0} == _scrape(exposition, "docker_exporter_pushes_total").by(
        "result", "docker_exporter_pushes_total"
    )


def _scrape(exposition: Exposition, *names: str) -> Scrape:
    return parse(b"".join(exposition.render(names=names).body).decode())


def test_a_poll_tells_that_it_has_ended() -> None:
    """After its snapshot is there to be taken."""
    with simulation() as simulated:
        poller = poller_for(simulated.url)
        found = []
        poller._on_poll = lambda: found.append(poller.snapshot)
        polled = poller.poll()

    assert [polled] == found
