"""Pushes to a Pushgateway: requests, intervals, retries and failures."""

import base64
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import tenacity
from structlog.testing import capture_logs

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.outlets import pushgateway
from docker_prom_exporter.outlets.errors import OutletError
from docker_prom_exporter.outlets.pushgateway import Pusher
from support.gateway import (
    GROUP,
    TAKEN,
    UNAVAILABLE,
    FakeGateway,
    exposition,
    fake_gateway,
    publish,
    push_settings,
    status_of,
)
from support.simulated import Fault, answers, drips, hangs, resets, says
from support.waiting import wait_for_requests_to_end


def pusher(url: str, interval: float = 10, **options: Any) -> Pusher:
    return Pusher(push_settings(url, interval, **options), threading.Event())


def failure(pusher: Pusher, held: Exposition | None = None) -> OutletError | None:
    """Push, and return the error if there is one."""
    try:
        pusher.deliver(held or exposition())
    except OutletError as error:
        return error
    return None


def test_a_push_replaces_the_group(gateway: FakeGateway) -> None:
    """A push is a PUT of the gzipped exposition, which replaces the group."""
    pusher(gateway.url).deliver(exposition(web=4))

    (asked,) = gateway.asked
    assert ("PUT", GROUP, "gzip") == (
        asked.method,
        asked.path,
        asked.headers["Content-Encoding"],
    )
    assert 1 == asked.scrape.value("docker_up")
    assert 4 == asked.scrape.value("container_health", name="web")


@pytest.mark.parametrize(
    ("job", "instance", "path"),
    [
        ("ci", "my host", "/metrics/job/ci/instance@base64/bXkgaG9zdA=="),
        ("a/b", "host1", "/metrics/job@base64/YS9i/instance/host1"),
        ("a+b", "café", "/metrics/job/a%2Bb/instance/caf%C3%A9"),
    ],
)
def test_any_group_has_a_path(
    gateway: FakeGateway, job: str, instance: str, path: str
) -> None:
    """Special characters in job and instance are encoded in the path.

    prometheus-client before 0.25 would send a space as +.
    """
    pusher(gateway.url, push_job=job, push_instance=instance).deliver(exposition())

    assert [path] == [asked.path for asked in gateway.asked]


def test_a_url_may_have_a_path(gateway: FakeGateway) -> None:
    """The URL may have a path, here with a slash at its end, to which the group's path is added."""
    pusher(f"{gateway.url}/gateway/").deliver(exposition())

    assert [f"/gateway{GROUP}"] == [asked.path for asked in gateway.asked]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://[2001:db8::1]", 80),
        ("https://[2001:db8::a]", 443),
        ("http://[::1]:9091", 9091),
    ],
)
def test_a_url_may_have_an_ipv6_address(url: str, port: int) -> None:
    """An IPv6 address needs no port; http.client would take its last part for one."""
    connection = pusher(url)._gateway._connect(timeout=1)

    assert (urlsplit(url).hostname, port) == (connection.host, connection.port)


def test_an_old_gateway_gets_plain_text(gateway: FakeGateway) -> None:
    """A gateway before 1.5 refuses gzip as bad metrics; from then on it gets plain text."""
    gateway.answers = [
        answers("400 Bad Request", "text format parsing error in line 1"),
        TAKEN,
    ]
    old = pusher(gateway.url)
    old.deliver(exposition())
    old.deliver(exposition())

    assert ["gzip", None, None] == [
        asked.headers.get("Content-Encoding") for asked in gateway.asked
    ]
    assert [1, 1, 1] == [asked.scrape.value("docker_up") for asked in gateway.asked]


def test_400_is_final(gateway: FakeGateway) -> None:
    """A plain push that is answered with 400 is not repeated before the next one, and its reason is kept."""
    gateway.answers = [answers("400 Bad Request", "pushed metrics are\ninvalid")]
    refused = pusher(gateway.url)
    errors = [failure(refused), failure(refused)]

    assert 3 == len(gateway.pushed)
    assert [("400 Bad Request", "pushed metrics are invalid")] * 2 == [
        (error.reason, error.detail) for error in errors if error
    ]


def test_a_private_ca_is_trusted_as_by_curl(monkeypatch: pytest.MonkeyPatch) -> None:
    """An intermediate CA is trusted, and one without extensions that Python requires from 3.13 on."""
    context = ssl.create_default_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: context)
    pusher("https://127.0.0.1:1")

    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_flags & ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


@pytest.mark.parametrize("fault", [UNAVAILABLE, says(b"nonsense\r\n\r\n"), hangs()])
def test_temporary_failures_are_retried(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """A push that fails temporarily is repeated within the interval, with the values of that moment."""
    held = exposition(up=False)
    retrying = pusher(gateway.url, interval=60)
    retrying._retrying.wait = tenacity.wait_none()
    monkeypatch.setattr(pushgateway, "_REQUEST_TIMEOUT", 0.2)

    def fail(connection: socket.socket) -> None:
        monkeypatch.setattr(
            pushgateway, "_REQUEST_TIMEOUT", 10
        )  # the next push may take longer
        publish(held, up=True)
        fault(connection)

    gateway.answers = [fail, TAKEN]
    retrying.deliver(held)

    assert [0, 1] == [asked.scrape.value("docker_up") for asked in gateway.pushed]


@pytest.mark.parametrize(
    ("fault", "interval", "reason"),
    [
        (UNAVAILABLE, 1.5, "503 Service Unavailable"),
        (hangs(), 0.1, "timeout"),
        (drips(b"HTTP/1.1 200 OK\r\nX: "), 0.1, "timeout"),
        (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", every=0.001), 5, None),
    ],
)
def test_a_push_ends_when_the_next_is_due(
    gateway: FakeGateway, fault: Fault, interval: float, reason: str | None
) -> None:
    """A push ends when the next one is due, even if the gateway sends its answer byte by byte."""
    gateway.answers = [fault]
    retrying = pusher(gateway.url, interval)
    # a random wait may leave the last attempt no time for an answer
    retrying._retrying.wait = tenacity.wait_fixed(0.5)
    began = time.monotonic()
    error = failure(retrying)

    assert time.monotonic() - began < 5
    assert reason == (error.reason if error else None)


def test_a_slow_name_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow name lookup, which can't be interrupted, gives a timeout; its thread ends with the lookup."""
    released = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        released.wait(30)
        raise socket.gaierror("nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    began = time.monotonic()
    error = failure(pusher("http://gateway.invalid", 0.1))
    waited = time.monotonic() - began
    released.set()
    wait_for_requests_to_end()

    assert waited < 5
    assert "timeout" == (error.reason if error else None)


def test_redirects_are_not_followed(gateway: FakeGateway) -> None:
    """A redirect is not followed, so that only the configured URL gets the password."""
    with fake_gateway() as other:
        gateway.answers = [
            answers("307 Temporary Redirect", "", f"Location: {other.url}{GROUP}")
        ]
        error = failure(pusher(gateway.url))

    assert [] == other.asked
    assert 1 == len(gateway.asked)
    assert f"it leads to {other.url}{GROUP}" in str(error)


def test_the_password_is_read_for_each_push(gateway: FakeGateway, tmp_path: Path) -> None:
    """The password's file is read for each push; if it can't be read, nothing is sent."""
    known = _with_password(gateway, tmp_path)
    known.deliver(exposition())
    (tmp_path / "password").write_text("other")
    known.deliver(exposition())
    (tmp_path / "password").unlink()
    known._retrying.stop = tenacity.stop_after_attempt(1)
    error = failure(known)

    assert ["mé:secret", "mé:other"] == [
        base64.b64decode(asked.headers["Authorization"].removeprefix("Basic ")).decode()
        for asked in gateway.asked
    ]
    assert error is not None
    assert "no_password" == error.reason


def test_a_wrong_password(gateway: FakeGateway, tmp_path: Path) -> None:
    """The error for a 401 names the options for the user and the password."""
    gateway.answers = [answers("401 Unauthorized", "")]

    assert "401 Unauthorized: check --push-username and --push-password-file" == str(
        failure(_with_password(gateway, tmp_path))
    )


def _with_password(gateway: FakeGateway, folder: Path) -> Pusher:
    file = folder / "password"
    file.write_text("secret\n")
    return pusher(gateway.url, push_username="mé", push_password_file=file)


def test_environment_proxies_are_not_used(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push does not use the proxies in the environment."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert failure(pusher(gateway.url)) is None


def test_a_push_is_due_once_an_interval(gateway: FakeGateway) -> None:
    """A push is due at the start and then once per interval, even after a failed push."""
    gateway.answers = [answers("404 Not Found", "")]
    refused = pusher(gateway.url, interval=60)
    first = refused.is_due(exposition())
    failure(refused)

    assert first
    assert not refused.is_due(exposition())
    assert 50 < refused.pause() <= 60


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (status_of({}), "push.never_expires"),
        (status_of({"metric.timetolive": ""}), "push.never_expires"),
        (status_of({"metric.timetolive": "0s"}), "push.never_expires"),
        (status_of({"metric.timetolive": "44s"}), "push.expires_early"),
        (status_of({"metric.timetolive": "45s"}), None),
        (status_of({"metric.timetolive": "1h0m0.5s"}), None),
        (status_of({"metric.timetolive": "soon"}), "push.expiry_unknown"),
        # A gateway before 1.2 does not report its options, and a proxy may hide them.
        (answers("404 Not Found", ""), "push.expiry_unknown"),
        (answers("200 OK", "[]"), "push.expiry_unknown"),
        (answers("200 OK", "[" * 60_000), "push.expiry_unknown"),
        (resets, "push.expiry_unknown"),
    ],
)
def test_time_to_live(gateway: FakeGateway, status: Fault, event: str | None) -> None:
    """If the gateway's time to live is missing, short or not known, the log says so once."""
    gateway.status = status
    usual = pusher(gateway.url, interval=15)
    with capture_logs() as logs:
        usual.delivered()
        usual.delivered()

    assert ([event] if event else []) == [entry["event"] for entry in logs]
