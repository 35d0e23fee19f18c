"""Errors of engine requests, made from those of docker-py, requests and urllib3."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import TYPE_CHECKING, Final

import requests
import urllib3
from requests.exceptions import ChunkedEncodingError, ContentDecodingError

if TYPE_CHECKING:
    from collections.abc import Iterator

_REASONS_BY_STATUS: Final = {
    **dict.fromkeys((401, 403, 407), "denied"),
    404: "not_found",
    **dict.fromkeys((408, 504), "timeout"),
    **dict.fromkeys((502, 503), "unreachable"),
}


class EngineError(Exception):
    """A request failed: `endpoint` and `reason` as in `snapshot`, and one line of detail.

    The detail never quotes the engine's answer, so that no text of a container can reach
    a log. `status` is the HTTP status, `None` without an answer.
    """

    def __init__(
        self, endpoint: str, reason: str, detail: str, status: int | None = None
    ) -> None:
        super().__init__(detail)
        self.endpoint = endpoint
        self.reason = reason
        self.detail = detail
        self.status = status


class BadTargetError(EngineError):
    """The Docker host, its context or its certificates can't be used."""

    def __init__(self, detail: str) -> None:
        super().__init__("version", "error", detail)


class ForbiddenRequestError(RuntimeError):
    """A request was not a `GET` of one of the four endpoints; nothing was sent."""


class BadAnswerError(Exception):
    """The answer is not of the expected form; the message never quotes the answer."""


# The first entry that matches one of the causes decides. Certificate errors are ValueErrors,
# too. urllib3's errors for a refused connection and for an unknown name are timeouts by class.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str, str], ...]] = (
    ((urllib3.exceptions.NewConnectionError,), "unreachable", "can't connect"),
    (
        (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError),
        "timeout",
        "no answer",
    ),
    ((PermissionError,), "denied", "permission denied"),
    ((ssl.SSLError,), "error", "TLS failed"),
    ((ConnectionError,), "unreachable", "the connection was lost"),
    ((json.JSONDecodeError,), "bad_response", "the answer is not JSON"),
    (
        (http.client.HTTPException, ValueError, RecursionError),
        "bad_response",
        "the answer is malformed",
    ),
    ((ChunkedEncodingError, ContentDecodingError), "bad_response", "the answer is malformed"),
    ((requests.ConnectionError,), "unreachable", "the connection was lost"),
)


def engine_error(endpoint: str, error: Exception) -> EngineError:
    """Return the `EngineError` for an exception of a library or the system."""
    if isinstance(error, BadAnswerError):
        return EngineError(endpoint, "bad_response", str(error))
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        reason = _REASONS_BY_STATUS.get(status, "error" if status >= 400 else "bad_response")
        detail = f"the answer is {status} {http.client.responses.get(status, '')}".rstrip()
        return EngineError(endpoint, reason, detail, status)
    chain = list(causes(error))
    # `strerror` comes from the system or OpenSSL and never quotes an answer.
    words = next(
        (e.strerror for e in chain if isinstance(e, OSError) and e.errno and e.strerror), ""
    )
    for kinds, reason, detail in _REASONS:
        if any(isinstance(cause, kinds) for cause in chain):
            return EngineError(endpoint, reason, words or detail)
    return EngineError(endpoint, "error", words or type(chain[-1]).__name__)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, which libraries keep in `args` and `reason`."""
    yield error
    hidden = (*error.args, getattr(error, "reason", None), error.__cause__)
    inner = next((one for one in hidden if isinstance(one, BaseException)), None)
    if inner is not None:
        yield from causes(inner)
