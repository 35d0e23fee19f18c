"""The four requests to an engine; each returns its answer or raises an `EngineError`."""

from __future__ import annotations

import math
import re
import time
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from docker_prom_exporter.deadline import Deadline, call, call_each
from docker_prom_exporter.engine.advice import advise
from docker_prom_exporter.engine.client import (
    NO_VERSION,
    InFlight,
    new_client,
    parse_rows,
)
from docker_prom_exporter.engine.errors import (
    BadAnswerError,
    BadTargetError,
    EngineError,
    engine_error,
)
from docker_prom_exporter.engine.target import Target, find_target
from docker_prom_exporter.snapshot import ENDPOINTS, EngineInfo
from docker_prom_exporter.texts import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from docker_prom_exporter.engine.client import Client

__all__ = [
    "BadAnswerError",
    "BadTargetError",
    "Engine",
    "EngineError",
    "Inspects",
    "Pong",
    "Target",
    "advise",
    "find_target",
]

T = TypeVar("T")

_VERSION: Final = re.compile(r"\d{1,3}\.\d{1,4}")
_INSPECTS_AT_A_TIME: Final = 4

# Docker 20.10 to 28 and from 29.3 on, and Podman, support it.
_USUAL_API_VERSION: Final = "1.41"


class Pong(NamedTuple):
    """A ping: whether the connected engine answered, and its clock in Unix seconds."""

    same_engine: bool
    date: float | None


class Inspects(NamedTuple):
    """The outcome of several inspects."""

    # The parsed answer or the error by container id. An inspect that was not begun, or was cut
    # by the deadline, has none.
    answers: dict[str, Any | EngineError]
    # The containers whose inspect took the whole timeout, or that of a proxy in between.
    late: tuple[str, ...]
    # Whether another inspect was answered after the last of them began: then it is not the
    # engine that hangs.
    outlasted: bool


class Engine:
    """A Docker engine, or another engine with its API, behind one long-lived docker-py client.

    `timeout` is in seconds, for one request from its first byte to its last. `connect`
    comes first. Each request raises `EngineError`; its deadline can only shorten the
    timeout. Only one thread makes requests; any may call `abort`.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        # The seconds that one request may take.
        self.timeout = timeout

        # Requests by endpoint since the start.
        self.requests = dict.fromkeys(ENDPOINTS, 0)

        self._target = target
        self._in_flight = InFlight()
        self._client: Client | None = None
        self._aborted = False

        # Headers of the last ping that identify the engine.
        self._pinged: tuple[str | None, ...] | None = None

        # The last list: what was requested with a digest of the answer, and the parsed rows.
        self._listed: tuple[Any, Any] = (None, None)

    @property
    def url(self) -> str:
        """The engine's address, as `Target.url`."""
        return self._target.url

    @property
    def connected(self) -> bool:
        """Whether a version was negotiated since the last failure."""
        return self._client is not None

    def connect(self, deadline: Deadline) -> EngineInfo:
        """Request `/version`, and use the API version it names for all later requests."""
        self.disconnect()
        with closing(self._new_client(NO_VERSION)) as client:
            answer = self._ask("version", deadline, partial(client.version, api_version=False))
        info = _engine_info(answer)
        self._client = self._new_client(info.api_version)
        return info

    def connect_without_version(self, deadline: Deadline) -> None:
        """Use the API version that a ping names, else a usual one, when `/version` fails.

        moby names its version in each answer, even in one that refuses the request's
        version.
        """
        self.disconnect()
        self._client = client = self._new_client(_USUAL_API_VERSION)
        with suppress(EngineError):
            self._ask("ping", deadline, client.ping)
        named = client.pinged.get("Api-Version", "")
        if _VERSION.fullmatch(named):
            self.disconnect()
            self._client = self._new_client(named)

    def disconnect(self) -> None:
        """Close the client; the next request must be `connect`."""
        if self._client is not None:
            self._client.close()
        self._client = self._pinged = None
        self._listed = None, None

    def ping(self, deadline: Deadline) -> Pong:
        """Request `/_ping`; its headers show whether it is the same engine as before."""
        client = self._connected()
        if not self._ask("ping", deadline, client.ping):
            raise EngineError("ping", "bad_response", "the answer is not OK")
        before = self._pinged
        self._pinged = client.pinged.get("Server"), client.pinged.get("Api-Version")
        return Pong(before in (None, self._pinged), _unix_time(client.pinged.get("Date", "")))

    def list(
        self,
        deadline: Deadline,
        parse: Callable[[list[Any]], Any] = lambda rows: rows,
        *,
        limit: int = -1,
        **filters: Collection[str],
    ) -> Any:
        """List all containers, or those that match every filter; return `parse` of the rows.

        The filters are moby's: `label`, `id`, and `since` and `before`, each with the
        full id of one container. Rows are large and not kept. If the same request gets
        the same bytes again, the last result is returned without a call of `parse`.
        """
        client = self._connected()
        query = limit, {name: [*values] for name, values in filters.items()}

        def changed_rows() -> tuple[Any, list[Any]] | None:
            body = client.list_unparsed(*query)
            request = parse, query, sha256(body).digest()
            if request == self._listed[0]:
                return None
            return request, parse_rows(body)

        if changed := self._ask("list", deadline, changed_rows):
            request, rows = changed
            self._listed = request, parse(rows)
        return self._listed[1]

    def inspect(
        self,
        ids: Collection[str],
        deadline: Deadline,
        parse: Callable[[str, dict[str, Any]], Any] = lambda _, answer: answer,
    ) -> Inspects:
        """Inspect containers, a few at a time.

        `parse` gets the id and the answer, a JSON object; no answer is kept. No further
        inspect begins after a denied one.
        """
        if not ids:
            # As in most polls of list mode, which need no thread for it.
            return Inspects({}, (), outlasted=False)
        run = _InspectRun(self._connected(), parse)

        def actions() -> Iterator[tuple[str, Callable[[], Any]]]:
            for container_id in ids:
                if run.denied or self._aborted:
                    return
                # Here and not in the thread, which may be slow to start.
                run.began[container_id] = time.monotonic()
                yield container_id, partial(run.inspect, container_id)

        futures = call_each(
            actions(),
            self.timeout,
            deadline,
            at_a_time=min(_INSPECTS_AT_A_TIME, len(ids)),
            cut=self._in_flight.cut,
        )
        self.requests["inspect"] += len(run.began)
        no_answer = EngineError("inspect", "timeout", f"no answer within {self.timeout:.3g} s")
        answers, late = {}, []
        for container_id, future in futures.items():
            answer = no_answer if future.cancelled() else future.result()
            answers[container_id] = answer
            if isinstance(answer, EngineError) and answer.reason == "timeout":
                late.append(container_id)
        last_began = max((run.began[i] for i in late), default=0)
        return Inspects(answers, tuple(late), outlasted=run.last_answer > last_began)

    def abort(self) -> None:
        """End every running request, and refuse further ones."""
        self._aborted = True
        self._in_flight.cut_all()

    def _connected(self) -> Client:
        if self._client is None:
            raise RuntimeError("connect first")
        return self._client

    def _new_client(self, version: str) -> Client:
        return new_client(self._target, self.timeout, version, self._in_flight)

    def _ask(self, endpoint: str, deadline: Deadline, question: Callable[[], T]) -> T:
        self.requests[endpoint] += 1
        seconds = min(self.timeout, deadline.left())
        if not seconds or self._aborted:
            raise EngineError(endpoint, "timeout", "the poll ran out of time")
        try:
            return call(question, seconds, self._in_flight.cut)
        except TimeoutError as error:
            raise EngineError(
                endpoint, "timeout", f"no answer within {seconds:.3g} s"
            ) from error
        except Exception as error:
            # Its frames would hold the answer, which may be large, until a garbage collection.
            error.__traceback__ = None
            raise engine_error(endpoint, error) from error


class _InspectRun:
    """Inspects containers in several threads, and notes when."""

    def __init__(self, client: Client, parse: Callable[[str, dict[str, Any]], Any]) -> None:
        # An inspect was refused; all others would be, too.
        self.denied = False

        # Times on the monotonic clock: the beginning of each inspect, the last answer.
        self.began: dict[str, float] = {}
        self.last_answer = -math.inf

        self._client = client
        self._parse = parse

    def inspect(self, container_id: str) -> Any:
        """Return the parsed answer, or the error."""
        try:
            answer = self._client.inspect_container(container_id)
            self.last_answer = time.monotonic()
            if not isinstance(answer, dict):
                raise BadAnswerError("the answer is not a JSON object")  # noqa: TRY301  as `parse`
            return self._parse(container_id, answer)
        except Exception as error:  # noqa: BLE001  every error is returned
            failed = engine_error("inspect", error)
            # The engine's own answer, and not that of a proxy which waited for it.
            if failed.status is not None and failed.reason not in ("timeout", "unreachable"):
                self.last_answer = time.monotonic()
            self.denied = self.denied or failed.reason == "denied"
            return failed


def _unix_time(date: str) -> float | None:
    with suppress(ValueError, OverflowError):
        return parsedate_to_datetime(date).timestamp()
    return None


def _engine_info(answer: Any) -> EngineInfo:
    """Parse `/version`: Podman's has a component `Podman Engine`, Docker's an `Engine`."""
    fields = answer if isinstance(answer, dict) else {}
    api_version = fields.get("ApiVersion")
    if not isinstance(api_version, str) or not _VERSION.fullmatch(api_version):
        raise EngineError("version", "bad_response", "it names no API version")
    name = "Docker"
    components = fields.get("Components")
    if isinstance(components, list):
        for component in components:
            if isinstance(component, dict) and component.get("Name") == "Podman Engine":
                name = "Podman"
    version, system, arch = (as_text(fields.get(key)) for key in ("Version", "Os", "Arch"))
    return EngineInfo(name, version, api_version, system, arch)
