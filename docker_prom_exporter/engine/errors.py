"""What a failed request raises: the endpoint, the reason, and a line that holds nothing of the answer."""

from __future__ import annotations

import http.client
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import requests
import urllib3

from docker_prom_exporter.deadline import DeadlineError
from docker_prom_exporter.engine.client import BadTargetError, StatusError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterator

_REASONS_BY_STATUS: Final = {
    401: "denied",
    403: "denied",
    404: "not_found",
    407: "denied",
    408: "timeout",
    502: "unreachable",
    503: "unreachable",
    504: "timeout",
}

# The first of these that has a cause of its kind decides; certificate errors are ValueErrors, too.
# urllib3 counts a connection that was refused, or a name that is unknown, among the timeouts.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str, str], ...]] = (
    ((urllib3.exceptions.NewConnectionError,), "unreachable", "can't connect"),
    (
        (DeadlineError, requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError),
        "timeout",
        "no answer",
    ),
    ((PermissionError,), "denied", "permission denied"),
    ((ssl.SSLError,), "error", "TLS failed"),
    ((ConnectionError,), "unreachable", "the connection was lost"),
    ((TooLargeError,), "bad_response", "the answer is larger than 64 MiB"),
    ((requests.JSONDecodeError,), "bad_response", "the answer is no JSON"),
    ((http.client.HTTPException, ValueError, RecursionError), "bad_response", "the answer is malformed"),
    (
        (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError),
        "bad_response",
        "the answer is malformed",
    ),
    ((requests.ConnectionError,), "unreachable", "the connection was lost"),
)


class EngineError(Exception):
    """A request failed: `endpoint` and `reason` as `snapshot` lists them, and one line of detail.

    The detail never holds what the engine answered, so that no text of a container can reach a log. `status`
    is the HTTP status where an answer came at all.
    """

    def __init__(self, endpoint: str, reason: str, detail: str, status: int | None = None) -> None:
        super().__init__(f"{endpoint}: {detail}")
        self.endpoint = endpoint
        self.reason = reason
        self.detail = detail
        self.status = status


def engine_error(endpoint: str, error: Exception) -> EngineError:
    """Return the `EngineError` for what docker-py, requests, urllib3 or the system raised."""
    if isinstance(error, StatusError):
        fallback = "error" if error.status >= 400 else "bad_response"
        reason = _REASONS_BY_STATUS.get(error.status, fallback)
        return EngineError(endpoint, reason, _status_line(error.status), error.status)
    if isinstance(error, BadTargetError):
        return EngineError(endpoint, "error", str(error))
    found = list(causes(error))
    for kinds, reason, detail in _REASONS:
        if any(isinstance(cause, kinds) for cause in found):
            return EngineError(endpoint, reason, _system_words(found) or detail)
    return EngineError(endpoint, "error", _system_words(found) or type(found[-1]).__name__)


def _status_line(status: int) -> str:
    try:
        return f"the answer is {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the answer is {status}"


def _system_words(errors: list[BaseException]) -> str:
    """Return what the system or OpenSSL says of an error, neither of which repeats an answer."""
    return next((e.strerror for e in errors if isinstance(e, OSError) and e.errno and e.strerror), "")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Walk from what was raised to what caused it: requests and urllib3 hide it in `args` and `reason`."""
    yield error
    hidden = (*error.args, getattr(error, "reason", None), error.__cause__)
    inner = next((one for one in hidden if isinstance(one, BaseException)), None)
    if inner is not None:
        yield from causes(inner)
