"""The four questions to an engine: each has an answer, or an `EngineError` with endpoint and reason."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from docker.utils import parse_host

from docker_prom_exporter.containers import LABEL, as_text
from docker_prom_exporter.deadline import DeadlineError, call, call_each
from docker_prom_exporter.engine.advice import LISTING_IS_EXPENSIVE, NONE_WATCHED, advise
from docker_prom_exporter.engine.client import (
    NO_VERSION,
    BadTargetError,
    ForbiddenRequestError,
    InFlight,
    find_target,
    new_client,
)
from docker_prom_exporter.engine.errors import EngineError, engine_error
from docker_prom_exporter.snapshot import EngineInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from docker_prom_exporter.engine.client import Client

__all__ = [
    "LISTING_IS_EXPENSIVE",
    "NONE_WATCHED",
    "BadTargetError",
    "Engine",
    "EngineError",
    "Pong",
    "advise",
    "find_target",
]

T = TypeVar("T")

_VERSION: Final = re.compile(r"\d{1,3}\.\d{1,4}")
_INSPECTS_AT_A_TIME: Final = 4

# Engines 20.10 to 28, those from 29.3 on and Podman speak it.
_USUAL_API_VERSION: Final = "1.41"


class Pong(NamedTuple):
    """What a ping's answer shows: whether the engine is the connected one, and its clock in Unix seconds."""

    same_engine: bool
    date: float | None


class Engine:
    """One Docker engine, or one that speaks its API, asked through one long-lived docker-py client.

    `timeout` is in seconds, for one request from its first byte to its last. Nothing is asked before
    `connect`; each question raises `EngineError` and takes a `deadline` on the monotonic clock that can only
    shorten the timeout. One thread asks; `abort` may be called by any.
    """

    def __init__(self, target: Mapping[str, Any], timeout: float) -> None:
        self._target = dict(target)
        self._timeout = timeout
        self._in_flight = InFlight()
        self._client: Client | None = None
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
        return info

    def connect_without_version(self, deadline: float) -> None:
        """Speak the API version that a ping names, else a usual one: for `check`, where `/version` failed.

        moby names its version in each answer, even where it refuses the one that it was asked in.
        """
        self.disconnect()
        self._client = client = self._new_client(_USUAL_API_VERSION)
        with suppress(EngineError):
            self._ask("ping", deadline, client.ping)
        named = client.named_api_version
        if named is not None and _VERSION.fullmatch(named):
            self.disconnect()
            self._client = self._new_client(named)

    def disconnect(self) -> None:
        """Forget the client; the next question must be `connect`."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ping(self, deadline: float) -> Pong:
        """Ask `/_ping`; it also tells whether another engine than the connected one answers in its place."""
        client = self._connected()
        if not self._ask("ping", deadline, client.ping):
            raise EngineError("ping", "bad_response", "the answer is not OK")
        return Pong(client.is_same_engine(), client.date)

    def list(  # noqa: PLR0913  the filters that moby's list knows
        self,
        deadline: float,
        *,
        labelled: bool = False,
        since: str | None = None,
        before: str | None = None,
        ids: Collection[str] = (),
        limit: int = -1,
    ) -> list[Any]:
        """Ask for all containers, or those that every given filter lets through; return the raw rows.

        `labelled`: only those that have `LABEL`, whatever its value. `since` and `before` are full ids: only
        those created after or before that container. An unchanged answer is the same object.
        """
        filters: dict[str, list[str]] = {
            **({"label": [LABEL]} if labelled else {}),
            **({"since": [since]} if since else {}),
            **({"before": [before]} if before else {}),
            **({"id": [*ids]} if ids else {}),
        }
        question = partial(self._connected().containers, all=True, limit=limit, filters=filters or None)
        rows = self._ask("list", deadline, question)
        if not isinstance(rows, list):
            raise EngineError("list", "bad_response", "the answer is no JSON array")
        return rows

    def inspect(
        self,
        ids: Collection[str],
        deadline: float,
        seconds: float | None = None,
        read: Callable[[dict[str, Any]], Any] = lambda answer: answer,
    ) -> dict[str, Any | EngineError]:
        """Ask for each of some containers, a few at a time, and each for at most `seconds`.

        Returns for each what `read` makes of the answer, a JSON object, or the error. The rest is left out
        once one is denied, and once the deadline is over. Answers are large: none is kept once it is read.
        """
        seconds = min(self._timeout, seconds or self._timeout)
        client, denied = self._connected(), False

        def question(container_id: str) -> Any:
            nonlocal denied
            if denied or self._aborted:
                return None
            try:
                return read(_json_object(client.inspect_container(container_id)))
            except Exception as error:
                failed = engine_error("inspect", error)
                denied = denied or failed.reason == "denied"
                raise failed from error
            finally:
                self._in_flight.forget()

        outcomes = call_each(
            {container_id: partial(question, container_id) for container_id in ids},
            seconds,
            deadline,
            at_a_time=_INSPECTS_AT_A_TIME,
            cut=self._in_flight.cut,
        )
        answers = {
            container_id: _answer_or_error(outcome.value) for container_id, outcome in outcomes.items()
        }
        return {container_id: answer for container_id, answer in answers.items() if answer is not None}

    def abort(self) -> None:
        """End every request under way, and refuse any to come."""
        self._aborted = True
        self._in_flight.cut_all()

    def _connected(self) -> Client:
        if self._client is None:
            raise RuntimeError("connect first")
        return self._client

    def _new_client(self, version: str) -> Client:
        try:
            return new_client(self._target, self._timeout, version, self._in_flight)
        except BadTargetError as error:
            raise engine_error("version", error) from error

    def _ask(self, endpoint: str, deadline: float, question: Callable[[], T]) -> T:
        seconds = min(self._timeout, deadline - time.monotonic())
        if seconds <= 0 or self._aborted:
            raise EngineError(endpoint, "timeout", "the poll ran out of time")

        def asked() -> T:
            try:
                return question()
            finally:
                self._in_flight.forget()

        try:
            return call(asked, seconds, self._in_flight.cut)
        except ForbiddenRequestError:
            raise
        except DeadlineError as error:
            raise EngineError(endpoint, "timeout", f"no answer within {seconds:.3g} s") from error
        except Exception as error:
            raise engine_error(endpoint, error) from error


def _json_object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  a bad answer, as malformed JSON is
    return answer


def _answer_or_error(value: Callable[[], Any]) -> Any | EngineError:
    try:
        return value()
    except DeadlineError as error:
        return engine_error("inspect", error)
    except EngineError as error:
        return error


def _engine_info(answer: Any) -> EngineInfo:
    """Read `/version`, where Podman names itself in `Components`, as Docker names its `Engine`."""
    fields = answer if isinstance(answer, dict) else {}
    api_version = fields.get("ApiVersion")
    if not isinstance(api_version, str) or not _VERSION.fullmatch(api_version):
        raise EngineError("version", "bad_response", "it names no API version")
    components = fields.get("Components")
    names = [part.get("Name") for part in components or () if isinstance(part, dict)]
    version, system, arch = (as_text(fields.get(key)) for key in ("Version", "Os", "Arch"))
    name = "Podman" if "Podman Engine" in names else "Docker"
    return EngineInfo(name, version, api_version, system, arch)
