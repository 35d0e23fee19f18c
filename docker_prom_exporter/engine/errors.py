"""What a failed engine request raises, and how its reason is found."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING, Final

import requests
import urllib3

from docker_prom_exporter.engine.client import StatusError, TooLargeError, one_line

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


class EngineError(Exception):
    """A question failed: `endpoint` and `reason` as `snapshot` lists them, and one line of detail.

    The detail never holds what the engine answered, so that no text of a container can reach a log. `status`
    is the HTTP status where an answer came at all.
    """

    def __init__(self, endpoint: str, reason: str, detail: str, status: int | None = None) -> None:
        super().__init__(f"{endpoint}: {detail}")
        self.endpoint = endpoint
        self.reason = reason
        self.detail = detail
        self.status = status


# The first of these that has a cause of its kind tells; certificate errors are ValueErrors, too.
# urllib3 counts a connection that was refused, or a name that is unknown, among the timeouts.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((urllib3.exceptions.NewConnectionError,), "unreachable"),
    ((requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError), "timeout"),
    ((PermissionError,), "denied"),
    ((ssl.SSLError,), "error"),
    ((ConnectionError,), "unreachable"),
    ((TooLargeError, http.client.HTTPException, ValueError, RecursionError), "bad_response"),
    ((requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError), "bad_response"),
    ((requests.ConnectionError,), "unreachable"),
)


def reason_of(error: Exception) -> tuple[str, str, int | None]:
    """Name what docker-py, requests, urllib3 or the system raised, as `EngineError` takes it."""
    if isinstance(error, StatusError):
        fallback = "error" if error.status >= 400 else "bad_response"
        return _REASONS_BY_STATUS.get(error.status, fallback), str(error), error.status
    found = list(causes(error))
    reason = next((reason for kinds, reason in _REASONS if any(isinstance(c, kinds) for c in found)), "error")
    system = next((c.strerror for c in found if isinstance(c, OSError) and c.strerror), None)
    return reason, system or one_line(found[-1]), None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Walk from what was raised to what caused it: requests and urllib3 hide it in `args` and `reason`."""
    yield error
    hidden = (*error.args, getattr(error, "reason", None), error.__cause__)
    inner = next((one for one in hidden if isinstance(one, BaseException)), None)
    if inner is not None:
        yield from causes(inner)
