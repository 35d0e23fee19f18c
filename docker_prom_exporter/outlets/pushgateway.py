"""Requests to a Pushgateway, and the exposition on it."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import socket
import ssl
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import structlog
from prometheus_client.exposition import delete_from_gateway, push_to_gateway
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
from docker_prom_exporter.deadline import call
from docker_prom_exporter.durations import parse_duration
from docker_prom_exporter.exposition import Families
from docker_prom_exporter.metrics import push_families
from docker_prom_exporter.outlets.errors import MAX_DETAIL, DeliveryError, OutletError, one_line

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from docker_prom_exporter.exposition import Exposition
    from docker_prom_exporter.settings import Settings

T = TypeVar("T")

_MAX_BYTES: Final = 64 * 1024
_REQUEST_TIMEOUT: Final = 5
_DELETE_TIMEOUT: Final = 0.65

_ADVICE_BY_STATUS: Final = {
    401: "check --push-username and --push-password-file",
    403: "check --push-username and --push-password-file",
    404: "check the path of --push-url",
    407: "check --push-url: it leads to a proxy",
}


class Request(NamedTuple):
    """What is asked of a Pushgateway."""

    method: str
    url: str
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""


def _beginning(response: http.client.HTTPResponse) -> bytes:
    return response.read(_MAX_BYTES)


class Gateway:
    """A Pushgateway. Each request has a connection of its own.

    Redirects are not followed and the environment's proxies not used: the password goes to `--push-url` or
    nowhere. Raises `OutletError` where the password or the certificates can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = settings.push_url or ""
        self._username = settings.push_username
        self._password_file = settings.push_password_file
        self._context = _tls_context(settings.push_ca_file)
        try:
            self._authorization()
        except DeliveryError as error:
            raise OutletError(error.detail) from error

    def send(self, request: Request, seconds: float, read: Callable[[http.client.HTTPResponse], T]) -> T:
        """Send a request and return what `read` makes of a good answer, all within so many seconds.

        Raises `DeliveryError`, as `read` may, too.
        """
        agent = f"docker-prom-exporter/{__version__}"
        headers = {**request.headers, **self._authorization(), "User-Agent": agent}
        connection = self._connection(request.url, seconds)
        sockets: list[socket.socket] = []

        def exchange() -> T:
            with closing(connection):
                connection.request(request.method, urlsplit(request.url).path, request.body, headers)
                sockets.append(connection.sock)  # the connection forgets it where the answer ends with it
                with connection.getresponse() as response:
                    if not 200 <= response.status < 300:
                        raise _status_error(response, _beginning(response))
                    return read(response)

        try:
            return call(exchange, seconds, lambda _: _shut_down(*sockets, connection.sock))
        except TimeoutError as error:
            raise DeliveryError("timeout", f"no answer within {seconds:.3g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeliveryError("unreachable", one_line(error)) from error

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
            detail = f"can't read --push-password-file {self._password_file}: {one_line(error)}"
            raise DeliveryError("no_password", detail) from error
        token = base64.b64encode(self._username.encode() + b":" + password).decode()
        return {"Authorization": f"Basic {token}"}


class _Group:
    """One group of a Pushgateway, by prometheus-client's own push.

    All methods raise `DeliveryError`, and take the seconds they may last.
    """

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self._gateway = gateway
        self._job = settings.push_job
        self._grouping_key = {"instance": settings.push_instance}
        self._gzips = True

    def replace(self, families: Collector, seconds: float) -> None:
        """Put the families in the place of the whole group.

        A Pushgateway before 1.5 takes gzip for bad metrics: it gets the same again as plain text.
        """
        try:
            self._put(families, seconds)
        except DeliveryError as error:
            if error.status != 400 or not self._gzips:
                raise
            self._gzips = False
            self._put(families, seconds)

    def delete(self, seconds: float) -> None:
        """Delete the group."""
        delete_from_gateway(self._gateway.url, self._job, self._grouping_key, seconds, self._handle)

    def time_to_live(self, seconds: float) -> float:
        """Ask for how many seconds the gateway keeps a group; 0 where for ever, as upstream's does.

        Builds that expire groups, like k0s's, have a flag for it, which `/api/v1/status` shows (from 1.2).
        """
        text = self._gateway.send(Request("GET", f"{self._gateway.url}/api/v1/status"), seconds, _beginning)
        try:
            return parse_duration(json.loads(text)["data"]["flags"].get("metric.timetolive") or "0")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DeliveryError("bad_response", "/api/v1/status tells no time to live", 200) from None

    def _put(self, families: Collector, seconds: float) -> None:
        push_to_gateway(self._gateway.url, self._job, families, self._grouping_key, seconds, self._handle)

    def _handle(
        self, url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], bytes]:
        """Be a handler as prometheus-client takes it: return what sends the request."""
        more = {}
        if data and self._gzips:
            more["Content-Encoding"] = "gzip"
            data = gzip.compress(data)
        request = Request(method, url, {**dict(headers), **more}, data)
        return partial(self._gateway.send, request, timeout or 0, _beginning)


class Pusher:
    """Replaces a Pushgateway's group once an interval, also while Docker is down; deletes it at the end.

    A failure that may pass is tried again, with what the exposition then holds, until the next push is due.
    """

    topic = "push"

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        gateway = Gateway(settings)
        self._group = _Group(gateway, settings)
        self.place = {"url": gateway.url}
        self._interval = settings.push_interval
        self._due = time.monotonic()
        self._last = 0.0
        self._expiry_logged = False
        self._retrying = Retrying(
            stop=stop_any(stop_before_delay(self._interval), stop_when_event_set(stop)),
            wait=wait_random_exponential(multiplier=0.5, max=self._interval / 3),
            sleep=sleep_using_event(stop),
            retry=retry_if_exception(lambda e: isinstance(e, DeliveryError) and e.is_transient),
            reraise=True,
        )

    def families(self, results: Mapping[str, int]) -> list[Metric]:
        """Return the pushes by result and the time of the last one that succeeded."""
        return push_families(results, self._last)

    def is_due(self, _: Exposition) -> bool:
        """Tell whether an interval has passed, whatever there is to push."""
        return time.monotonic() >= self._due

    def pause(self) -> float:
        """Return the seconds until the next push."""
        return max(self._due - time.monotonic(), 0)

    def deliver(self, exposition: Exposition) -> None:
        """Push, again and again if need be."""
        try:
            self._retrying(self._push, exposition, time.monotonic() + self._interval)
        finally:
            self._due = max(self._due + self._interval, time.monotonic())
        self._last = time.time()

    def _push(self, exposition: Exposition, deadline: float) -> None:
        seconds = min(_REQUEST_TIMEOUT, max(deadline - time.monotonic(), 0.1))
        self._group.replace(Families(exposition.families()), seconds)

    def withdraw(self) -> None:
        """Delete the group."""
        self._group.delete(_DELETE_TIMEOUT)

    def delivered(self) -> None:
        """Log, after the first push, what becomes of a group that is no longer replaced."""
        if self._expiry_logged:
            return
        self._expiry_logged = True
        log = structlog.get_logger().bind(**self.place)
        try:
            seconds = self._group.time_to_live(min(_REQUEST_TIMEOUT, self._interval))
        except DeliveryError as error:
            log.warning("push.expiry_unknown", reason=error.reason, detail=error.detail)
            return
        if not seconds:
            log.info("push.never_expires", advice="stale groups stay until deleted: use DockerPushStale")
        elif seconds < 3 * self._interval:
            log.warning(
                "push.expires_early",
                time_to_live=seconds,
                push_interval=self._interval,
                advice="set --push-interval to a third of the time to live or less",
            )


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OutletError(f"can't read --push-ca-file {ca_file}: {one_line(error)}") from error


def _shut_down(*sockets: socket.socket | None) -> None:
    """End what is waited for; there is no socket yet while a name is looked up."""
    for each in filter(None, sockets):
        with suppress(OSError):
            socket.socket.shutdown(each, socket.SHUT_RDWR)


def _status_error(response: http.client.HTTPResponse, body: bytes) -> DeliveryError:
    status = response.status
    if 300 <= status < 400:
        detail = f"redirects are not followed; it leads to {response.getheader('Location')}: set --push-url"
    else:
        said = " ".join(body.decode("utf-8", "replace").split())
        detail = _ADVICE_BY_STATUS.get(status) or said
    return DeliveryError(f"{status} {response.reason}".rstrip(), detail[:MAX_DETAIL], status)
