"""Owns the four questions to an engine: each has an answer, or an `EngineError` with endpoint and reason."""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

from docker.utils import parse_host

from docker_prom_exporter.containers import as_text, read_inspect, read_row
from docker_prom_exporter.engine.advice import NONE_WATCHED, advise
from docker_prom_exporter.engine.client import (
    NO_VERSION,
    BadTargetError,
    ForbiddenRequestError,
    InFlight,
    find_target,
    new_client,
)
from docker_prom_exporter.engine.errors import EngineError, reason_of
from docker_prom_exporter.json_array import elements
from docker_prom_exporter.snapshot import EngineInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from docker_prom_exporter.containers import Details, Row
    from docker_prom_exporter.engine.client import Client

__all__ = ["NONE_WATCHED", "BadTargetError", "Engine", "EngineError", "advise", "find_target"]

_VERSION: Final = re.compile(r"\d{1,3}\.\d{1,4}")


class Engine:
    """One Docker engine, or one that speaks its API, asked through one long-lived docker-py client.

    `timeout` is in seconds, for one request from its first byte to its last. Nothing is asked before
    `connect`; each question raises `EngineError` and takes a `deadline` on the monotonic clock that can only
    shorten the timeout. `inspect` may be called by several threads at once; `abort` by any.
    """

    def __init__(self, target: Mapping[str, Any], timeout: float) -> None:
        self._target = dict(target)
        self._timeout = timeout
        self._in_flight = InFlight()
        self._client: Client | None = None
        self._health_listed = True
        self._listed: tuple[bytes, list[Row | None]] = (b"", [])
        self._aborted = False

    @property
    def url(self) -> str:
        """Where the engine is asked: `unix:///PATH`, `http://HOST:PORT` or `https://HOST:PORT`."""
        address = parse_host(self._target.get("base_url"), tls=bool(self._target.get("tls")))
        return str(address).removeprefix("http+")

    @property
    def connected(self) -> bool:
        """Whether a version was negotiated since the last failure."""
        return self._client is not None

    def connect(self, deadline: float) -> EngineInfo:
        """Ask `/version`, and speak the engine's own API version from here on."""
        self.disconnect()
        client = self._new_client(NO_VERSION)
        try:
            answer = self._ask("version", deadline, lambda: client.version(api_version=False))
        finally:
            client.close()
        info = _engine_info(answer)
        self._client = self._new_client(info.api_version)
        self._health_listed = info.health_listed
        return info

    def assume(self, api_version: str) -> None:
        """Speak this API version from here on: for who asks on although `/version` got no good answer."""
        self.disconnect()
        self._client = self._new_client(api_version)
        self._health_listed = True

    def disconnect(self) -> None:
        """Forget the client; the next question must be `connect`."""
        if self._client is not None:
            self._client.close()
            self._client = None
            self._listed = (b"", [])

    def ping(self, deadline: float) -> bool:
        """Ask `/_ping`; False where another engine than the connected one answers at its place."""
        client = self._connected()
        if not self._ask("ping", deadline, client.ping):
            raise EngineError("ping", "bad_response", "the answer is not OK")
        return client.is_same_engine()

    def containers(self, deadline: float) -> list[Row | None]:
        """Ask for all containers: the rows of `/containers/json`; None for each that names no container."""
        client = self._connected()
        rows: list[Row | None] = self._ask("list", deadline, lambda: self._read(client.containers(all=True)))
        return rows

    def _read(self, pieces: Sequence[bytes]) -> list[Row | None]:
        """Read a list, but for one that says what the last one said: from poll to poll they rarely differ.

        A row that says what it said last time is the same object.
        """
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        if digest.digest() != self._listed[0]:
            before = {row.container.id: row for row in self._listed[1] if row}
            self._listed = digest.digest(), [self._row(element, before) for element in elements(pieces)]
        return self._listed[1]

    def _row(self, element: Any, before: Mapping[str, Row]) -> Row | None:
        row = read_row(element, health_listed=self._health_listed)
        known = before.get(row.container.id) if row else None
        return known if known == row else row

    def inspect(self, container_id: str, deadline: float) -> Details | None:
        """Ask for one container; None where it is gone."""
        client = self._connected()
        try:
            answer = self._ask("inspect", deadline, lambda: client.inspect_container(container_id))
        except EngineError as error:
            if error.reason == "not_found":
                return None
            raise
        if not isinstance(answer, dict):
            raise EngineError(
                "inspect", "bad_response", f"an object was expected, not {type(answer).__name__}"
            )
        return read_inspect(answer)

    def abort(self) -> None:
        """End every request under way, and any to come."""
        self._aborted = True
        self._in_flight.abort()

    def _connected(self) -> Client:
        if self._client is None:
            raise RuntimeError("connect first")
        return self._client

    def _new_client(self, version: str) -> Client:
        try:
            return new_client(self._target, self._timeout, version, self._in_flight)
        except BadTargetError as error:
            raise EngineError("version", "error", str(error)) from error

    def _ask(self, endpoint: str, deadline: float, question: Callable[[], Any]) -> Any:
        seconds = min(self._timeout, deadline - time.monotonic())
        if seconds <= 0 or self._aborted:
            raise EngineError(endpoint, "timeout", "the poll ran out of time")
        with self._in_flight.bounded(seconds) as bound:
            try:
                answer = question()
            except ForbiddenRequestError:
                raise
            except Exception as error:
                if not bound.expired:
                    raise EngineError(endpoint, *reason_of(error)) from error
        if bound.expired:  # even after an answer: cut off, it may read like a whole one
            raise EngineError(endpoint, "timeout", f"no answer within {seconds:.3g} s")
        return answer


def _engine_info(answer: Any) -> EngineInfo:
    """Read `/version`, where Podman names itself in `Components`, as Docker names its `Engine`."""
    fields = answer if isinstance(answer, dict) else {}
    api_version = fields.get("ApiVersion")
    if not isinstance(api_version, str) or not _VERSION.fullmatch(api_version):
        raise EngineError("version", "bad_response", "it names no API version")
    components = fields.get("Components")
    names = (
        [part.get("Name") for part in components if isinstance(part, dict)]
        if isinstance(components, list)
        else []
    )
    podman = "Podman Engine" in names
    version, system, arch = (as_text(fields.get(key)) for key in ("Version", "Os", "Arch"))
    return EngineInfo(
        "Podman" if podman else "Docker", version, api_version, system, arch, health_listed=not podman
    )
