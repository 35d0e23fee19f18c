"""Owns where else the exposition goes: a Pushgateway, and a text file for node_exporter."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import urlsplit

import structlog
from prometheus_client.exposition import delete_from_gateway, generate_latest, push_to_gateway
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_any,
    stop_before_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from docker_prom_exporter import __version__
from docker_prom_exporter.metrics import push_families, snapshot_families, textfile_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import Snapshot

_MOST_BYTES: Final = 64 * 1024
_MOST_DETAIL: Final = 200
_SECONDS_FOR_A_REQUEST: Final = 5
_SECONDS_TO_DELETE: Final = 0.8
_SECONDS_BETWEEN_WRITES: Final = 60
_MODE: Final = 0o644

_DURATION_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DURATION_PART: Final = re.compile(r"([\d.]+)(ns|us|µs|ms|s|m|h)")

_ADVICE_BY_STATUS: Final = {
    401: "check --push-username and --push-password-file",
    403: "check --push-username and --push-password-file",
    404: "check the path of --push-url",
    407: "check --push-url: it leads to a proxy",
}


class OutletError(Exception):
    """What an outlet needs is not there; the message is one line for the user."""


class DeliveryError(Exception):
    """A delivery failed: a short reason, one line of detail, the Pushgateway's status if it answered."""

    def __init__(self, reason: str, detail: str, status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.status = status

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.status is None or self.status >= 500


class Gateway:
    """One group of a Pushgateway, by prometheus-client's own push. Each request has a connection of its own.

    Redirects are not followed and the environment's proxies not used: the password goes to `--push-url` or
    nowhere. All methods raise `DeliveryError`, and take the seconds they may last. Raises `OutletError` where
    the password or the certificates can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = settings.push_url or ""
        self._job = settings.push_job
        self._grouping_key = {"instance": settings.push_instance}
        self._username = settings.push_username
        self._password_file = settings.push_password_file
        self._context = _tls_context(settings.push_ca_file)
        self._zips = True
        try:
            self._authorization()
        except DeliveryError as error:
            raise OutletError(error.detail) from error

    def replace(self, families: Collector, seconds: float) -> None:
        """Put the families in the place of the whole group.

        A Pushgateway before 1.5 takes gzip for bad metrics: it gets the same again as plain text.
        """
        try:
            self._put(families, seconds)
        except DeliveryError as error:
            if error.status != 400 or not self._zips:
                raise
            self._zips = False
            self._put(families, seconds)

    def delete(self, seconds: float) -> None:
        """Delete the group."""
        delete_from_gateway(self.url, self._job, self._grouping_key, seconds, self._handle)

    def time_to_live(self, seconds: float) -> float | None:
        """Ask for how many seconds the gateway keeps a group; None where for ever, as upstream's does.

        Builds that expire groups, like k0s's, have a flag for it, which `/api/v1/status` shows (from 1.2).
        """
        text = self._request("GET", f"{self.url}/api/v1/status", seconds, {}, b"")
        try:
            return _seconds(json.loads(text)["data"]["flags"].get("metric.timetolive", ""))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DeliveryError("bad_response", "/api/v1/status names no flags", 200) from None

    def _put(self, families: Collector, seconds: float) -> None:
        push_to_gateway(self.url, self._job, families, self._grouping_key, seconds, self._handle)

    def _handle(
        self, url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], bytes]:
        """Be a handler as prometheus-client takes it: return what sends the request."""
        more = {}
        if data and self._zips:
            more["Content-Encoding"] = "gzip"
            data = gzip.compress(data)
        return partial(self._request, method, url, timeout or 0, {**dict(headers), **more}, data)

    def _request(self, method: str, url: str, seconds: float, headers: dict[str, str], body: bytes) -> bytes:
        headers = {**headers, **self._authorization(), "User-Agent": f"docker-prom-exporter/{__version__}"}
        connection = self._connection(url, seconds)
        with _bounded(connection, seconds):
            connection.request(method, urlsplit(url).path, body, headers)
            response = connection.getresponse()
            answer = response.read(_MOST_BYTES)
        if not 200 <= response.status < 300:
            raise _status_error(response, answer)
        return answer

    def _connection(self, url: str, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, parts.port, timeout=seconds, context=self._context)
        return http.client.HTTPConnection(host, parts.port, timeout=seconds)

    def _authorization(self) -> dict[str, str]:
        if self._username is None or self._password_file is None:
            return {}
        try:
            password = Path(self._password_file).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            detail = f"can't read --push-password-file {self._password_file}: {_line(error)}"
            raise DeliveryError("no_password", detail) from error
        token = base64.b64encode(self._username.encode() + b":" + password).decode()
        return {"Authorization": f"Basic {token}"}


class _Outlet(ABC):
    """One place the exposition goes to, by a thread of its own, so that polls and scrapes wait for nothing.

    `topic` begins the names of its log events, `where` goes with them.
    """

    def __init__(self, topic: str, **where: str) -> None:
        self._topic = topic
        self._log = structlog.get_logger().bind(**where)
        self._results = {"success": 0, "failure": 0}
        self._failing: str | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def families(self) -> list[Metric]:
        """Return what there is to say of the deliveries so far."""

    @abstractmethod
    def _deliver(self, take: Callable[[], Snapshot]) -> None:
        """Deliver the snapshot that `take` returns, or raise `DeliveryError`."""

    @abstractmethod
    def _run(self, take: Callable[[], Snapshot]) -> None:
        """Deliver until `_stop` is set, then take back what was delivered."""

    def deliver(self, take: Callable[[], Snapshot]) -> bool:
        """Deliver the snapshot that `take` returns, count what became of it, and tell if it went well."""
        try:
            self._deliver(take)
        except DeliveryError as error:
            self._failed(error.reason, error.detail)
            return False
        except Exception as error:  # noqa: BLE001  one bad delivery must not end those to come
            self._failed(type(error).__name__, _line(error))
            return False
        self._succeeded()
        return True

    def start(self, take: Callable[[], Snapshot]) -> None:
        """Begin to deliver, each time the snapshot that `take` returns then."""
        self._thread = threading.Thread(target=self._run, args=(take,), name=self._topic, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new snapshot."""
        self._wake.set()

    def stop(self) -> None:
        """Begin to end; wait for nothing."""
        self._stop.set()
        self._wake.set()

    def join(self, seconds: float) -> None:
        """Wait so long for the end."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                self._left_behind("timeout")

    def _left_behind(self, reason: str) -> None:
        self._log.warning(f"{self._topic}.left_behind", reason=reason)

    def _succeeded(self) -> None:
        self._results["success"] += 1
        if self._failing is not None:
            self._failing = None
            self._log.info(f"{self._topic}.recovered")

    def _failed(self, reason: str, detail: str) -> None:
        """Count it; log it where it went well before, or failed for another reason."""
        self._results["failure"] += 1
        if reason != self._failing:
            self._failing = reason
            self._log.warning(f"{self._topic}.failed", reason=reason, detail=detail)


class Pusher(_Outlet):
    """Replaces a Pushgateway's group once an interval, also while Docker is down; deletes it at the end.

    What may pass is tried again, with the snapshot of that moment, until the next push is due.
    """

    def __init__(self, settings: Settings) -> None:
        self._gateway = Gateway(settings)
        super().__init__("push", url=self._gateway.url)
        self._interval = settings.push_interval
        self._last = 0.0
        self._expiry_told = False
        self._retrying = Retrying(
            stop=stop_any(stop_before_delay(self._interval), stop_when_event_set(self._stop)),
            wait=wait_random_exponential(multiplier=0.5, max=self._interval / 3),
            sleep=sleep_using_event(self._stop),
            retry=retry_if_exception(lambda e: isinstance(e, DeliveryError) and e.may_pass),
            reraise=True,
        )

    def families(self) -> list[Metric]:
        """Return the pushes by result and the time of the last one that succeeded."""
        return push_families(self._results, self._last)

    def _deliver(self, take: Callable[[], Snapshot]) -> None:
        self._retrying(self._push, take, time.monotonic() + self._interval)
        self._last = time.time()

    def _push(self, take: Callable[[], Snapshot], deadline: float) -> None:
        seconds = min(_SECONDS_FOR_A_REQUEST, max(deadline - time.monotonic(), 0.1))
        self._gateway.replace(snapshot_families(take()), seconds)

    def _run(self, take: Callable[[], Snapshot]) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            if self.deliver(take) and not self._expiry_told:
                self._tell_expiry()
            due = max(due + self._interval, time.monotonic())
            self._stop.wait(due - time.monotonic())
        try:
            self._gateway.delete(_SECONDS_TO_DELETE)
        except DeliveryError as error:
            self._left_behind(str(error))

    def _tell_expiry(self) -> None:
        """Say once what becomes of a group that nobody replaces any more."""
        self._expiry_told = True
        try:
            seconds = self._gateway.time_to_live(min(_SECONDS_FOR_A_REQUEST, self._interval))
        except DeliveryError as error:
            self._log.warning("push.expiry_unknown", reason=error.reason, detail=error.detail)
            return
        if seconds is None:
            self._log.info(
                "push.never_expires", advice="stale groups stay until deleted: use DockerPushStale"
            )
        elif seconds < 3 * self._interval:
            self._log.warning(
                "push.expires_early",
                time_to_live=seconds,
                push_interval=self._interval,
                advice="set --push-interval to a third of the time to live or less",
            )


class TextFile(_Outlet):
    """Keeps a file up to date for node_exporter's textfile collector; removes it at the end.

    It is replaced whole, by a file beside it that no `*.prom` matches. Raises `OutletError` where none can be
    made there.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.textfile or "")
        self._temporary = self._path.with_name(f".{self._path.name}.tmp")
        super().__init__("textfile", path=str(self._path))
        self._pause = min(settings.poll_interval, _SECONDS_BETWEEN_WRITES)
        self._due = 0.0
        self._shown: tuple[object, ...] = ()
        self._try_out()

    def families(self) -> list[Metric]:
        """Return the writes by result."""
        return textfile_families(self._results)

    def _deliver(self, take: Callable[[], Snapshot]) -> None:
        text = generate_latest(snapshot_families(take()))
        try:
            with self._create() as file:
                file.write(text)
            self._temporary.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                self._temporary.unlink()
            raise DeliveryError(_line(error), "the file stays as it was; look at its mtime") from error

    def _run(self, take: Callable[[], Snapshot]) -> None:
        while not self._stop.is_set():
            self._refresh(take())
            self._wake.wait(min(self._pause, max(self._due - time.monotonic(), 0)))
            self._wake.clear()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._left_behind(_line(error))

    def _refresh(self, snapshot: Snapshot) -> None:
        """Write a snapshot that says something else than the file, or any when a minute is over."""
        shown = (snapshot.up, snapshot.listed, snapshot.containers)
        if shown != self._shown or time.monotonic() >= self._due:
            self._shown = shown if self.deliver(lambda: snapshot) else ()
            self._due = time.monotonic() + _SECONDS_BETWEEN_WRITES

    def _create(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        file = os.fdopen(os.open(self._temporary, flags, _MODE), "wb")
        os.fchmod(file.fileno(), _MODE)  # the umask may have taken some of it away
        return file

    def _try_out(self) -> None:
        try:
            self._create().close()
            self._temporary.unlink()
            if self._path.is_dir():
                raise IsADirectoryError("it is a directory")
        except OSError as error:
            raise OutletError(f"can't write --textfile {self._path}: {_line(error)}") from error
        if self._path.suffix != ".prom":
            self._log.warning("textfile.ignored", reason="node_exporter reads only what is named *.prom")


class Outlets:
    """The outlets that the settings ask for, if any. Raises `OutletError` where one lacks what it needs."""

    def __init__(self, settings: Settings) -> None:
        self._outlets: list[_Outlet] = []
        if settings.push_url is not None:
            self._outlets.append(Pusher(settings))
        if settings.textfile is not None:
            self._outlets.append(TextFile(settings))

    def deliver(self, snapshot: Snapshot) -> bool:
        """Deliver one snapshot to each, leave it there, and tell whether all went well."""
        delivered = [outlet.deliver(lambda: snapshot) for outlet in self._outlets]
        return all(delivered)

    def families(self) -> list[Metric]:
        """Return what there is to say of the deliveries so far."""
        return [family for outlet in self._outlets for family in outlet.families()]

    def start(self, take: Callable[[], Snapshot]) -> None:
        """Begin to deliver, each time the snapshot that `take` returns then."""
        for outlet in self._outlets:
            outlet.start(take)

    def wake(self) -> None:
        """Say that there is a new snapshot. Returns at once."""
        for outlet in self._outlets:
            outlet.wake()

    def stop(self) -> None:
        """Begin to delete the group and remove the file. Returns at once."""
        for outlet in self._outlets:
            outlet.stop()

    def join(self, deadline: float) -> None:
        """Wait for that to be done, until a time on the monotonic clock."""
        for outlet in self._outlets:
            outlet.join(max(deadline - time.monotonic(), 0))


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OutletError(f"can't read --push-ca-file {ca_file}: {_line(error)}") from error


@contextmanager
def _bounded(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Use the connection for so many seconds at most, then close it. Raises `DeliveryError`.

    Its timeout is only for each read: a gateway that drips is ended by a timer.
    """
    deadline = time.monotonic() + seconds
    timer = threading.Timer(seconds, _shut_down, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
            raise DeliveryError("timeout", f"no answer within {seconds:.3g} s") from error
        raise DeliveryError("unreachable", _line(error)) from error
    finally:
        timer.cancel()
        connection.close()


def _shut_down(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _status_error(response: http.client.HTTPResponse, body: bytes) -> DeliveryError:
    status = response.status
    if 300 <= status < 400:
        detail = f"redirects are not followed; it leads to {response.getheader('Location')}: set --push-url"
    else:
        said = " ".join(body.decode("utf-8", "replace").split())
        detail = _ADVICE_BY_STATUS.get(status) or said
    return DeliveryError(f"{status} {response.reason}".rstrip(), detail[:_MOST_DETAIL], status)


def _line(error: Exception) -> str:
    """Return what the system calls the error, else its own words, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())[:_MOST_DETAIL] or type(error).__name__


def _seconds(duration: str) -> float | None:
    """Read a duration as Go writes it, like `1m30s`; None for none or zero."""
    return (
        sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(duration))
        or None
    )
