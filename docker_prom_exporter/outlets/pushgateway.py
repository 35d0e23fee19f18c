"""Push the exposition to a Pushgateway."""

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
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import structlog
import tenacity
from prometheus_client.exposition import delete_from_gateway, push_to_gateway

from docker_prom_exporter import __version__
from docker_prom_exporter.deadline import call
from docker_prom_exporter.exposition import Families
from docker_prom_exporter.outlets.errors import MAX_DETAIL, OutletError, one_line
from docker_prom_exporter.outlets.metrics import push_families
from docker_prom_exporter.texts import parse_duration

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from prometheus_client.core import Metric

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


class GatewayRequest(NamedTuple):
    """A request to a Pushgateway."""

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class Gateway:
    """A Pushgateway. Each request opens a connection.

    Redirects are not followed and the environment's proxies are not used, so that only
    `--push-url` gets the password. Raises `OutletError` if the password or the certificates
    can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = settings.push_url or ""
        self._username = settings.push_username
        self._password_file = settings.push_password_file
        self._authorization()
        parts, ca_file = urlsplit(self.url), settings.push_ca_file
        host, is_https = parts.hostname or "", parts.scheme == "https"
        tls = (
            _tls(ca_file) if is_https or ca_file else None
        )  # the system's certificates take a megabyte
        self._connect: Callable[..., http.client.HTTPConnection] = (
            partial(http.client.HTTPSConnection, host, parts.port, context=tls)
            if is_https
            else partial(http.client.HTTPConnection, host, parts.port)
        )

    def send(
        self,
        request: GatewayRequest,
        seconds: float,
        parse: Callable[[http.client.HTTPResponse], T],
    ) -> T:
        """Send a request, and return what `parse` makes of a 2xx answer, all within `seconds`.

        Raises `OutletError`; `parse` may raise it, too.
        """
        agent = f"docker-prom-exporter/{__version__}"
        headers = {**dict(request.headers), **self._authorization(), "User-Agent": agent}
        connection = self._connect(timeout=seconds)
        sockets: list[socket.socket] = []

        def exchange() -> T:
            with closing(connection):
                connection.request(
                    request.method, urlsplit(request.url).path, request.body, headers
                )
                sockets.append(connection.sock)  # `connection.sock` may be None later
                with connection.getresponse() as response:
                    if not 200 <= response.status < 300:
                        raise _status_error(response)
                    return parse(response)

        try:
            return call(exchange, seconds, lambda _: _shut_down(*sockets, connection.sock))
        except TimeoutError as error:
            raise OutletError("timeout", f"no answer within {seconds:.3g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise OutletError("unreachable", one_line(error)) from error

    def _authorization(self) -> dict[str, str]:
        if self._username is None or self._password_file is None:
            return {}
        try:
            password = Path(self._password_file).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            detail = (
                f"can't read --push-password-file {self._password_file}: {one_line(error)}"
            )
            raise OutletError("no_password", detail) from error
        token = base64.b64encode(self._username.encode() + b":" + password).decode()
        return {"Authorization": f"Basic {token}"}


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OutletError(
            "no_ca", f"can't read --push-ca-file {ca_file}: {one_line(error)}"
        ) from error


def _shut_down(*sockets: socket.socket | None) -> None:
    """Shut down sockets, so that no thread waits for them.

    A socket is None during the name lookup.
    """
    for each in filter(None, sockets):
        with suppress(OSError):
            socket.socket.shutdown(each, socket.SHUT_RDWR)


def _status_error(response: http.client.HTTPResponse) -> OutletError:
    status = response.status
    if 300 <= status < 400:
        target = response.getheader("Location")
        detail = f"redirects are not followed; it leads to {target}: set --push-url"
    else:
        said = _beginning(response).decode("utf-8", "replace")
        detail = _ADVICE_BY_STATUS.get(status) or " ".join(said.split())
    return OutletError(f"{status} {response.reason}".rstrip(), detail[:MAX_DETAIL], status)


def _beginning(response: http.client.HTTPResponse) -> bytes:
    return response.read(_MAX_BYTES)


class Pusher:
    """Replaces a Pushgateway's group once an interval, also while Docker is down.

    Deletes it at the end. prometheus-client's push functions make the requests. A transient
    failure is retried with the current content of the exposition until the next push is due.
    Methods that send requests raise `OutletError`.
    """

    topic = "push"

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._gateway = Gateway(settings)
        self.log = structlog.get_logger().bind(url=self._gateway.url)
        self._job = settings.push_job
        self._grouping_key = {"instance": settings.push_instance}
        self._gzips = True
        self._interval = settings.push_interval
        self._due = time.monotonic()
        self._last = 0.0
        self._expiry_logged = False
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_before_delay(self._interval)
            | tenacity.stop_when_event_set(stop),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=self._interval / 3),
            sleep=tenacity.sleep_using_event(stop),
            retry=tenacity.retry_if_exception(
                lambda e: isinstance(e, OutletError) and e.is_transient
            ),
            reraise=True,
        )

    def families(self, results: Mapping[str, int]) -> list[Metric]:
        """Return the pushes by result and the time of the last success."""
        return push_families(results, self._last)

    def is_due(self, _: Exposition) -> bool:
        """Return whether an interval has passed; the content does not matter."""
        return time.monotonic() >= self._due

    def pause(self) -> float:
        """Return the seconds until the next push."""
        return max(self._due - time.monotonic(), 0)

    def deliver(self, exposition: Exposition) -> None:
        """Push, and retry transient failures."""
        try:
            self._retrying(self._push, exposition, time.monotonic() + self._interval)
        finally:
            self._due = max(self._due + self._interval, time.monotonic())
        self._last = time.time()

    def withdraw(self) -> None:
        """Delete the group."""
        url, job, key = self._gateway.url, self._job, self._grouping_key
        delete_from_gateway(url, job, key, _DELETE_TIMEOUT, self._handle)

    def delivered(self) -> None:
        """Log once if groups expire never or too early, or if that is unknown."""
        if self._expiry_logged:
            return
        self._expiry_logged = True
        try:
            seconds = self._time_to_live()
        except OutletError as error:
            self.log.warning("push.expiry_unknown", reason=error.reason, detail=error.detail)
            return
        if not seconds:
            self.log.info(
                "push.never_expires",
                advice="stale groups stay until deleted: use DockerPushStale",
            )
        elif seconds < 3 * self._interval:
            self.log.warning(
                "push.expires_early",
                time_to_live=seconds,
                push_interval=self._interval,
                advice="set --push-interval to a third of the time to live or less",
            )

    def _push(self, exposition: Exposition, deadline: float) -> None:
        seconds = min(_REQUEST_TIMEOUT, max(deadline - time.monotonic(), 0.1))
        families, key = Families(exposition.families()), self._grouping_key
        try:
            push_to_gateway(self._gateway.url, self._job, families, key, seconds, self._handle)
        except OutletError as error:
            if error.status != 400 or not self._gzips:
                raise
            self._gzips = False  # a Pushgateway before 1.5 reads gzip as invalid metrics
            self._push(exposition, deadline)

    def _time_to_live(self) -> float:
        """Return for how many seconds the gateway keeps a group.

        0 means for ever, as upstream's does. Builds that expire groups, like k0s's, have a
        flag for it, which `/api/v1/status` shows (from 1.2).
        """
        request = GatewayRequest("GET", f"{self._gateway.url}/api/v1/status")
        text = self._gateway.send(request, min(_REQUEST_TIMEOUT, self._interval), _beginning)
        try:
            return parse_duration(
                json.loads(text)["data"]["flags"].get("metric.timetolive") or "0"
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            raise OutletError(
                "bad_response", "/api/v1/status tells no time to live", 200
            ) from None

    def _handle(
        self,
        url: str,
        method: str,
        timeout: float | None,
        headers: list[tuple[str, str]],
        data: bytes,
    ) -> Callable[[], bytes]:
        """Return a function that sends the request: a handler for prometheus-client."""
        if data and self._gzips:
            headers = [*headers, ("Content-Encoding", "gzip")]
            data = gzip.compress(data)
        request = GatewayRequest(method, url, headers, data)
        return partial(self._gateway.send, request, timeout or 0, _beginning)
