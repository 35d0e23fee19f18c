"""Which groups of a Pushgateway expire, by which paths they are deleted, and gateways in trouble."""

import base64
import io
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from structlog.typing import EventDict

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.outlets.errors import OutletError
from docker_prom_exporter.outlets.expire import Expirer, Group, last_pushes, paths
from docker_prom_exporter.settings import read_settings
from support.expositions import Scrape, parse
from support.gateway import TAKEN, FakeGateway, fake_gateway
from support.simulated import Fault, answers, drips, hangs, resets
from support.waiting import wait_for

JOB = "docker_prom_exporter"
NOW = 1_800_000_000.0
OLD, RECENT = NOW - 3601, NOW - 3600
GATEWAY = "pushgateway_build_info 1\n"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as server:
        yield server


def group(**labels: str) -> Group:
    return frozenset({"job": JOB, **labels}.items())


def sample(name: str, labels: Mapping[str, str], value: object) -> str:
    """Return a line as a gateway writes it."""
    escaped = {
        name: text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        for name, text in labels.items()
    }
    written = ",".join(f'{label}="{text}"' for label, text in sorted(escaped.items()))
    return f"{name}{{{written}}} {value}\n"


def pushes(pushed: object, failed: object = 0, **labels: str) -> str:
    """Return what a gateway says of when a group was pushed."""
    own = {"job": JOB, **labels}
    return sample("push_failure_time_seconds", own, failed) + sample("push_time_seconds", own, pushed)


def lines(*texts: str) -> list[bytes]:
    return io.BytesIO("".join([GATEWAY, *texts]).encode()).readlines()


def says(*texts: str, now: float = NOW) -> Fault:
    """Return an answer to a look."""
    return answers("200 OK", GATEWAY + "".join(texts), f"Date: {formatdate(now, usegmt=True)}")


@pytest.mark.parametrize(
    ("pushed", "failed", "last"),
    [
        (OLD, 0, OLD),
        (RECENT, 0, RECENT),
        (RECENT + 1, 0, None),
        (NOW + 60, 0, None),
        (OLD, NOW, OLD),
        (RECENT + 1, OLD, None),
        (0, OLD, OLD),
        (0, NOW, None),
        (0, 0, None),
        ("NaN", 0, None),
        ("-Inf", 0, None),
        ("1.7e+09", 0, 1.7e9),
    ],
)
def test_a_group_expires_by_its_last_push_that_succeeded(
    pushed: object, failed: object, last: float | None
) -> None:
    """Else, where none did, by the last failure; and never where the gateway knows of no push at all."""
    expected = {} if last is None else {group(instance="host1"): last}

    assert expected == last_pushes(lines(pushes(pushed, failed, instance="host1")), JOB, RECENT)


def test_groups_of_other_jobs_never_expire() -> None:
    """Whatever they have in common with those that do."""
    others = [pushes(OLD, job=job, instance=JOB) for job in ("backup", f"{JOB}2", "", JOB.upper())]
    mine = pushes(OLD, instance="host1", exported_job="backup")

    assert [group(instance="host1", exported_job="backup")] == [
        *last_pushes(lines(*others, mine), JOB, RECENT)
    ]


NAMES = st.from_regex(r"_?[a-zA-Z][a-zA-Z0-9_]{0,8}", fullmatch=True)  # a gateway takes none with __
LABELS = st.dictionaries(NAMES, st.text(max_size=12), max_size=4)


@given(LABELS, st.text(min_size=1, max_size=12))
def test_any_labels_are_read_and_found_again(labels: dict[str, str], job: str) -> None:
    """From a line of the text format to the path that the gateway takes for the same labels."""
    its = {**labels, "job": job}
    (found,) = last_pushes(lines(sample("push_time_seconds", its, OLD)), job, RECENT)
    path = next(paths(found))

    assert its == dict(found)
    assert re.fullmatch(r"/metrics/job(/[\w@=.-]+)+|/metrics/job@base64(/[\w@=.-]+)+", path, re.ASCII)
    assert not {".", ".."} & {*path.split("/")}
    assert its == _as_the_gateway_reads(path)


def _as_the_gateway_reads(path: str) -> dict[str, str]:
    parts = path.removeprefix("/metrics/").split("/")
    labels = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        plain = name.removesuffix("@base64")
        labels[plain] = value if plain == name else base64.urlsafe_b64decode(value.strip("=") + "==").decode()
    return labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"instance": "host-1.example"}, [f"/metrics/job/{JOB}/instance/host-1.example"]),
        ({"instance": "a/b"}, [f"/metrics/job/{JOB}/instance@base64/YS9i"]),
        ({"instance": "."}, [f"/metrics/job/{JOB}/instance@base64/Lg=="]),
        ({"zone": "a", "instance": "b"}, [f"/metrics/job/{JOB}/instance/b/zone/a"]),
        ({"zone": "", "instance": "b"}, [f"/metrics/job/{JOB}/instance/b/zone@base64/="]),
        (
            {"instance": "", "zone": "a"},
            [f"/metrics/job/{JOB}/instance@base64/=/zone/a", f"/metrics/job/{JOB}/zone/a"],
        ),
    ],
    ids=str,
)
def test_a_group_has_a_path(labels: dict[str, str], expected: list[str]) -> None:
    """Two where `instance` is empty: a gateway shows one that isn't there in the same way."""
    assert expected == [*paths(group(**labels))]


def expirer(gateway: FakeGateway, exposition: Exposition | None = None, **options: Any) -> Expirer:
    given = {"push_url": gateway.url, **options}
    settings = read_settings({name: str(value) for name, value in given.items()}, {})
    return Expirer(settings, (exposition or Exposition()).publish, threading.Event())


def served(exposition: Exposition) -> Scrape:
    return parse(b"".join(exposition.render().body).decode())


def turns(expirer: Expirer, *looks: Fault, gateway: FakeGateway) -> list[EventDict]:
    """Have it look once at each, and return what it logs."""
    with capture_logs() as logs:
        for look in looks:
            gateway.status = look
            expirer.turn()
    return logs


def deleted(gateway: FakeGateway) -> list[str]:
    return [asked.path for asked in gateway.asked if asked.method == "DELETE"]


def test_a_group_is_deleted_when_two_looks_find_it_expired(gateway: FakeGateway) -> None:
    """By the gateway's clock; counted, and said in one line."""
    exposition = Exposition()
    expiring = expirer(gateway, exposition, expire_after=60)
    look = says(pushes(NOW - 61, instance="gone"), pushes(NOW - 59, instance="there"))
    logs = turns(expiring, look, look, gateway=gateway)

    assert [f"/metrics/job/{JOB}/instance/gone"] == deleted(gateway)
    assert 1 == served(exposition).value("docker_exporter_groups_expired_total")
    assert 1 == served(exposition).value("docker_exporter_gateway_up")
    assert [
        {"event": "gateway.found", "job": JOB, "expire_after": 60.0},
        {"event": "group.expired", "group": f'{{instance="gone",job="{JOB}"}}', "age_seconds": 61},
    ] == [{k: v for k, v in entry.items() if k not in ("url", "log_level")} for entry in logs]


@pytest.mark.parametrize(
    "between",
    [says(pushes(RECENT + 1, instance="back")), says(), answers("503 Service Unavailable", "")],
)
def test_a_group_that_is_pushed_again_stays(gateway: FakeGateway, between: Fault) -> None:
    """A host whose gateway was away has time for a push; so a failed look starts it all over."""
    expired = says(pushes(OLD, instance="back"))
    turns(expirer(gateway), expired, between, expired, gateway=gateway)

    assert [] == deleted(gateway)


def test_a_deletion_that_fails_is_tried_again(gateway: FakeGateway) -> None:
    """After two more looks; the gateway counts as down until all went well."""
    gateway.answers = [answers("500 Internal Server Error", "disk full"), TAKEN]
    exposition = Exposition()
    expiring = expirer(gateway, exposition)
    look = says(pushes(OLD, instance="gone"))
    logs = turns(expiring, look, look, gateway=gateway)
    up = served(exposition).value("docker_exporter_gateway_up")
    logs += turns(expiring, look, look, gateway=gateway)

    assert 0 == up
    assert 2 == len(deleted(gateway))
    assert ["gateway.found", "gateway.lost", "gateway.found", "group.expired"] == [
        entry["event"] for entry in logs
    ]


def test_a_group_that_can_not_be_deleted_keeps_no_other(gateway: FakeGateway) -> None:
    """And is said to be there."""
    gateway.answers = [answers("403 Forbidden", ""), TAKEN]
    exposition = Exposition()
    expiring = expirer(gateway, exposition)
    look = says(pushes(OLD, instance="kept"), pushes(OLD, instance="gone"))
    logs = turns(expiring, look, look, gateway=gateway)

    assert 2 == len(deleted(gateway))
    assert 1 == served(exposition).value("docker_exporter_groups_expired_total")
    assert "403 Forbidden" == logs[-1]["reason"]


def test_after_a_second_of_deleting_it_looks_again(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found before gets old; those that are left are deleted without a pause."""
    monkeypatch.setattr("docker_prom_exporter.outlets.expire._SECONDS_TO_DELETE", 0)
    expiring = expirer(gateway)
    look = says(pushes(OLD, instance="gone"))
    turns(expiring, look, gateway=gateway)
    more = expiring.turn()
    monkeypatch.undo()
    rest = expiring.turn()

    assert (True, False) == (more, rest)
    assert 1 == len(deleted(gateway))


CUT = f'push_time_seconds{{instance="host1",job="{JOB}"}} 17'
ELSEWHERE = 'push_time_seconds{job="docker_prom_exporter} 1\n'
BAD_LOOKS = [
    (answers("200 OK", "<html>", "Date: Fri, 15 Jan 2027 08:00:00 GMT"), "bad_response"),
    (answers("200 OK", GATEWAY), "bad_response"),
    (answers("200 OK", GATEWAY, "Date: today"), "bad_response"),
    (says(CUT), "bad_response"),
    (says(ELSEWHERE), "bad_response"),
    (says("push_time_seconds{} 1\n", 'push_time_seconds{job="\xff'), "bad_response"),
    (answers("401 Unauthorized", ""), "401 Unauthorized"),
    (answers("301 Moved Permanently", "", "Location: /login"), "301 Moved Permanently"),
    (answers("500 Internal Server Error", "collected before"), "500 Internal Server Error"),
    (resets, "unreachable"),
    (hangs(), "timeout"),
    (
        drips(b"HTTP/1.0 200 OK\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\n\r\n" + GATEWAY.encode(), 0.001),
        "timeout",
    ),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_LOOKS)
def test_a_gateway_in_trouble(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, bad: Fault, reason: str
) -> None:
    """Nothing is deleted, one line says why, one that it is over; and no thread stays behind."""
    exposition = Exposition()
    expiring = expirer(gateway, exposition)
    with monkeypatch.context() as patch:
        if reason == "timeout":
            patch.setattr("docker_prom_exporter.outlets.expire._LOOK_TIMEOUT", 0.2)
        logs = turns(expiring, bad, bad, gateway=gateway)
    up, healthy = served(exposition).value("docker_exporter_gateway_up"), exposition.is_trusted()
    logs += turns(expiring, says(), gateway=gateway)
    wait_for(
        lambda: "deadline" not in {thread.name for thread in threading.enumerate()}, what="the request's end"
    )

    assert (0, True) == (up, healthy)
    assert 1 == served(exposition).value("docker_exporter_gateway_up")
    assert [("gateway.lost", reason), ("gateway.found", None)] == [
        (entry["event"], entry.get("reason")) for entry in logs
    ]
    assert [] == deleted(gateway)


def test_what_is_read_is_not_kept(gateway: FakeGateway) -> None:
    """64 MiB of samples, one of them 3 MiB long with what looks like a push in it, take less than 6 MiB."""
    filler = b'other{name="%s"} 1\n' % (b"x" * 1000) * 64
    beginning = b'other{name="'
    trap = sample("push_time_seconds", {"job": JOB}, OLD).strip().replace('"', r"\"").encode()
    trap = beginning + b"x" * (2 * 1024 * 1024 - len(beginning)) + trap + b'"} 1\n'

    def much(connection: socket.socket) -> None:
        date = formatdate(NOW, usegmt=True)
        connection.sendall(f"HTTP/1.1 200 OK\r\nDate: {date}\r\nConnection: close\r\n\r\n{GATEWAY}".encode())
        for _ in range(1000):
            connection.sendall(filler)
        connection.sendall(trap + pushes(OLD, instance="gone").encode())
        connection.shutdown(socket.SHUT_RDWR)

    expiring = expirer(gateway)
    tracemalloc.start()
    turns(expiring, much, gateway=gateway)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert {group(instance="gone")} == expiring._candidates
    assert peak < 6 * 1024 * 1024


def test_there_is_an_end_to_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that never stops to name groups takes no more than memory for so many."""
    monkeypatch.setattr("docker_prom_exporter.outlets.expire._MAX_GROUPS", 2)

    with pytest.raises(OutletError, match="more than 2 groups"):
        last_pushes(lines(*(pushes(OLD, instance=str(n)) for n in range(3))), JOB, RECENT)


def test_a_thread_that_ends_is_no_longer_healthy(gateway: FakeGateway) -> None:
    """And then nothing is known of the gateway: three intervals and the longest turn later."""
    now = [time.monotonic()]
    exposition = Exposition(clock=lambda: now[0])
    turns(expirer(gateway, exposition, poll_interval=10), says(), gateway=gateway)
    now[0] += 70
    before = exposition.is_trusted(), served(exposition).value("docker_exporter_gateway_up")
    now[0] += 10
    after = exposition.is_trusted(), served(exposition).value("docker_exporter_gateway_up")

    assert ((True, 1), (False, 0)) == (before, after)
