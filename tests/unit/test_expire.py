"""Groups of a Pushgateway: when they expire, the paths that delete them, and failures of the gateway."""

import base64
import io
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from structlog.typing import EventDict

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.outlets.errors import OutletError
from docker_prom_exporter.outlets.expire import Expirer
from docker_prom_exporter.outlets.groups import Group, last_pushes, paths
from support.expositions import Scrape, parse
from support.gateway import TAKEN, FakeGateway, push_settings
from support.simulated import DENIED, Fault, answers, drips, hangs, resets
from support.waiting import wait_for_requests_to_end

JOB = "docker_prom_exporter"
NOW = 1_800_000_000.0
OLD, RECENT = NOW - 3601, NOW - 3600
GATEWAY = "pushgateway_build_info 1\n"


def group(**labels: str) -> Group:
    return frozenset({"job": JOB, **labels}.items())


def sample(name: str, labels: Mapping[str, str], value: object) -> str:
    """Return a sample as a Pushgateway writes it."""
    escaped = {
        name: text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        for name, text in labels.items()
    }
    written = ",".join(f'{label}="{text}"' for label, text in sorted(escaped.items()))
    return f"{name}{{{written}}} {value}\n"


def pushes(pushed: object, failed: object = 0, **labels: str) -> str:
    """Return the samples that show when a group was pushed."""
    own = {"job": JOB, **labels}
    return sample("push_failure_time_seconds", own, failed) + sample(
        "push_time_seconds", own, pushed
    )


def lines(*texts: str) -> list[bytes]:
    return io.BytesIO("".join([GATEWAY, *texts]).encode()).readlines()


def metrics(*texts: str, now: float = NOW) -> Fault:
    """Return the gateway's answer: its metrics and its time."""
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
def test_expiry_of_a_group(pushed: object, failed: object, last: float | None) -> None:
    """A group expires by its last successful push, else by its last failed one, and never without a push."""
    expected = {} if last is None else {group(instance="host1"): last}

    assert expected == last_pushes(
        lines(pushes(pushed, failed, instance="host1")), JOB, RECENT
    )


def test_groups_of_other_jobs_never_expire() -> None:
    """Groups of other jobs never expire, whatever labels they have in common with the exporter's."""
    others = [
        pushes(OLD, job=job, instance=JOB) for job in ("backup", f"{JOB}2", "", JOB.upper())
    ]
    mine = pushes(OLD, instance="host1", exported_job="backup")

    assert [group(instance="host1", exported_job="backup")] == [
        *last_pushes(lines(*others, mine), JOB, RECENT)
    ]


NAMES = st.from_regex(
    r"_?[a-zA-Z][a-zA-Z0-9_]{0,8}", fullmatch=True
)  # names with __ are reserved
LABELS = st.dictionaries(NAMES, st.text(max_size=12), max_size=4)


@given(LABELS, st.text(min_size=1, max_size=12))
def test_any_labels_have_a_path(labels: dict[str, str], job: str) -> None:
    """Labels that are read from a sample give a path that the gateway reads as the same labels."""
    grouping = {**labels, "job": job}
    (found,) = last_pushes(lines(sample("push_time_seconds", grouping, OLD)), job, RECENT)
    path = next(paths(found))

    assert grouping == dict(found)
    assert re.fullmatch(
        r"/metrics/job(/[\w@=.-]+)+|/metrics/job@base64(/[\w@=.-]+)+", path, re.ASCII
    )
    assert not {".", ".."} & {*path.split("/")}
    assert grouping == _as_the_gateway_reads(path)


def _as_the_gateway_reads(path: str) -> dict[str, str]:
    parts = path.removeprefix("/metrics/").split("/")
    labels = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        plain = name.removesuffix("@base64")
        labels[plain] = (
            value
            if plain == name
            else base64.urlsafe_b64decode(value.strip("=") + "==").decode()
        )
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
    """A group has one path, or two if `instance` is empty: a gateway shows a missing `instance` as empty."""
    assert expected == [*paths(group(**labels))]


def expirer(
    gateway: FakeGateway, exposition: Exposition | None = None, **options: Any
) -> Expirer:
    settings = push_settings(gateway.url, **options)
    return Expirer(settings, (exposition or Exposition()).publish, threading.Event())


def served(exposition: Exposition) -> Scrape:
    return parse(b"".join(exposition.render().body).decode())


def run(expirer: Expirer, *replies: Fault, gateway: FakeGateway) -> list[EventDict]:
    """Let the expirer run once for each answer of the gateway; return what it logs."""
    with capture_logs() as logs:
        for reply in replies:
            gateway.status = reply
            expirer.run_once()
    return logs


def deleted(gateway: FakeGateway) -> list[str]:
    return [asked.path for asked in gateway.asked if asked.method == "DELETE"]


def test_a_group_is_deleted_when_two_runs_find_it_expired(gateway: FakeGateway) -> None:
    """A group that two runs find expired, by the gateway's clock, is deleted, counted and logged."""
    exposition = Exposition()
    expiring = expirer(gateway, exposition, expire_after=60)
    reply = metrics(pushes(NOW - 61, instance="gone"), pushes(NOW - 59, instance="there"))
    logs = run(expiring, reply, reply, gateway=gateway)

    assert [f"/metrics/job/{JOB}/instance/gone"] == deleted(gateway)
    assert 1 == served(exposition).value("docker_exporter_groups_expired_total")
    assert 1 == served(exposition).value("docker_exporter_gateway_up")
    assert [
        {"event": "gateway.found", "job": JOB, "expire_after": 60.0},
        {
            "event": "group.expired",
            "group": f'{{instance="gone",job="{JOB}"}}',
            "age_seconds": 61,
        },
    ] == [{k: v for k, v in entry.items() if k not in ("url", "log_level")} for entry in logs]


@pytest.mark.parametrize(
    "between",
    [
        metrics(pushes(RECENT + 1, instance="back")),
        metrics(),
        answers("503 Service Unavailable", ""),
    ],
)
def test_a_group_that_is_pushed_again_stays(gateway: FakeGateway, between: Fault) -> None:
    """A new push, a missing group or a failed request between two runs starts the expiry again.

    After an outage of the gateway, the hosts have time for a push.
    """
    expired = metrics(pushes(OLD, instance="back"))
    run(expirer(gateway), expired, between, expired, gateway=gateway)

    assert [] == deleted(gateway)


def test_a_deletion_without_an_answer_is_tried_again(gateway: FakeGateway) -> None:
    """A deletion that got no answer is repeated after ten minutes; the gateway stays up."""
    gateway.answers = [resets, TAKEN]
    exposition = Exposition()
    expiring = expirer(gateway, exposition)
    reply = metrics(pushes(OLD, instance="gone"), pushes(OLD, instance="other"))
    logs = run(expiring, reply, reply, gateway=gateway)

    assert 1 == len(deleted(gateway))
    assert 1 == served(exposition).value("docker_exporter_gateway_up")
    assert ["gateway.found", "group.not_deleted"] == [entry["event"] for entry in logs]


@pytest.mark.parametrize(
    "refusal", [DENIED, answers("500 Internal Server Error", "disk full")]
)
def test_a_refused_deletion_is_logged_once(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, refusal: Fault
) -> None:
    """A gateway that refuses a deletion is up: the group is logged once and retried in ten minutes.

    A proxy may allow GET only. The other groups are deleted.
    """
    gateway.answers = [refusal, TAKEN, refusal, TAKEN]
    exposition = Exposition()
    expiring = expirer(gateway, exposition)
    both = metrics(pushes(OLD, instance="kept"), pushes(OLD, instance="gone"))
    kept = metrics(pushes(OLD, instance="kept"))
    logs = run(expiring, both, both, kept, kept, gateway=gateway)
    at_first = len(deleted(gateway))
    monkeypatch.setattr("docker_prom_exporter.outlets.expire._REFUSED_FOR", 0)
    expiring._refused = dict.fromkeys(expiring._refused, 0.0)
    logs += run(expiring, kept, kept, gateway=gateway)

    assert (2, 4) == (at_first, len(deleted(gateway)))
    assert 2 == served(exposition).value("docker_exporter_groups_expired_total")
    assert 1 == served(exposition).value("docker_exporter_gateway_up")
    assert ["gateway.found", "group.not_deleted", "group.expired", "group.expired"] == [
        entry["event"] for entry in logs
    ]


def test_refusals_are_logged_in_few_lines(gateway: FakeGateway) -> None:
    """A gateway that refuses every deletion does not fill the log."""
    gateway.answers = [DENIED] * 30
    expiring = expirer(gateway)
    reply = metrics(*(pushes(OLD, instance=str(number)) for number in range(30)))
    logs = run(expiring, reply, reply, gateway=gateway)

    assert 20 == sum(entry["event"] == "group.not_deleted" for entry in logs)


def test_a_run_deletes_for_a_second_at_most(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run deletes for a second at most; the next one follows at once, with a new answer of the gateway."""
    monkeypatch.setattr("docker_prom_exporter.outlets.expire._SECONDS_TO_DELETE", 0)
    expiring = expirer(gateway)
    reply = metrics(pushes(OLD, instance="gone"))
    run(expiring, reply, gateway=gateway)
    more = expiring.run_once()
    monkeypatch.undo()
    rest = expiring.run_once()

    assert (True, False) == (more, rest)
    assert 1 == len(deleted(gateway))


CUT = f'push_time_seconds{{instance="host1",job="{JOB}"}} 17'
ELSEWHERE = 'push_time_seconds{job="docker_prom_exporter} 1\n'
BAD_REPLIES = [
    (answers("200 OK", "<html>", "Date: Fri, 15 Jan 2027 08:00:00 GMT"), "bad_response"),
    (answers("200 OK", GATEWAY), "bad_response"),
    (answers("200 OK", GATEWAY, "Date: today"), "bad_response"),
    (metrics(CUT), "bad_response"),
    (metrics(ELSEWHERE), "bad_response"),
    (metrics("push_time_seconds{} 1\n", 'push_time_seconds{job="\xff'), "bad_response"),
    (answers("401 Unauthorized", ""), "401 Unauthorized"),
    (answers("301 Moved Permanently", "", "Location: /login"), "301 Moved Permanently"),
    (answers("500 Internal Server Error", "collected before"), "500 Internal Server Error"),
    (resets, "unreachable"),
    (hangs(), "timeout"),
    (
        drips(
            b"HTTP/1.0 200 OK\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\n\r\n"
            + GATEWAY.encode(),
            0.0005,
        ),
        "timeout",
    ),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_REPLIES)
def test_a_gateway_in_trouble(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, bad: Fault, reason: str
) -> None:
    """While the gateway fails nothing is deleted; the failure and its end are logged; no thread is left."""
    exposition = Exposition()
    expiring = expirer(gateway, exposition)
    with monkeypatch.context() as patch:
        if reason == "timeout":
            patch.setattr("docker_prom_exporter.outlets.expire._FETCH_TIMEOUT", 0.1)
        logs = run(expiring, bad, bad, gateway=gateway)
    up = served(exposition).value("docker_exporter_gateway_up")
    healthy = exposition.is_trusted()
    logs += run(expiring, metrics(), gateway=gateway)
    wait_for_requests_to_end()

    assert (0, True) == (up, healthy)
    assert 1 == served(exposition).value("docker_exporter_gateway_up")
    assert [("gateway.lost", reason), ("gateway.found", None)] == [
        (entry["event"], entry.get("reason")) for entry in logs
    ]
    assert [] == deleted(gateway)


def test_what_is_read_is_not_kept(gateway: FakeGateway) -> None:
    """Reading 64 MiB of samples takes less than 6 MiB; a push in the label of a 2 MiB sample is ignored."""
    filler = b'other{name="%s"} 1\n' % (b"x" * 1000) * 64
    beginning = b'other{name="'
    trap = sample("push_time_seconds", {"job": JOB}, OLD).strip().replace('"', r"\"").encode()
    trap = beginning + b"x" * (2 * 1024 * 1024 - len(beginning)) + trap + b'"} 1\n'

    def much(connection: socket.socket) -> None:
        date = formatdate(NOW, usegmt=True)
        connection.sendall(
            f"HTTP/1.1 200 OK\r\nDate: {date}\r\nConnection: close\r\n\r\n{GATEWAY}".encode()
        )
        for _ in range(1000):
            connection.sendall(filler)
        connection.sendall(trap + pushes(OLD, instance="gone").encode())
        connection.shutdown(socket.SHUT_RDWR)

    expiring = expirer(gateway)
    tracemalloc.start()
    run(expiring, much, gateway=gateway)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert {group(instance="gone")} == expiring._candidates
    assert peak < 6 * 1024 * 1024


def test_a_maximum_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """More groups than the maximum are an error, so that the memory for them has a limit."""
    monkeypatch.setattr("docker_prom_exporter.outlets.groups._MAX_GROUPS", 2)

    with pytest.raises(OutletError, match="more than 2 groups"):
        last_pushes(lines(*(pushes(OLD, instance=str(n)) for n in range(3))), JOB, RECENT)


def test_a_thread_without_runs_is_unhealthy(gateway: FakeGateway) -> None:
    """A thread that has not run for three intervals and the longest run counts as unhealthy."""
    now = [time.monotonic()]
    exposition = Exposition(clock=lambda: now[0])
    run(expirer(gateway, exposition, poll_interval=10), metrics(), gateway=gateway)
    now[0] += 70
    before = exposition.is_trusted(), served(exposition).value("docker_exporter_gateway_up")
    now[0] += 10
    after = exposition.is_trusted(), served(exposition).value("docker_exporter_gateway_up")

    assert ((True, 1), (False, 0)) == (before, after)
