"""Errors of outlets."""

from __future__ import annotations

from typing import Final

MAX_DETAIL: Final = 200


class OutletError(Exception):
    """An outlet can't start or deliver."""

    reason: str  # a word, or the answer's status and phrase
    detail: str  # one line
    status: int | None  # of the Pushgateway's answer, `None` without one

    def __init__(self, reason: str, detail: str, status: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.status = status

    @property
    def is_transient(self) -> bool:
        """Whether a retry of the request may succeed."""
        # Without an answer the gateway may be restarting.
        return self.status is None or self.status >= 500


def one_line(error: Exception) -> str:
    """Return the system's text for the error, or else its message, in one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return " ".join(text.split())[:MAX_DETAIL] or type(error).__name__
