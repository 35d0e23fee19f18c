"""Fields of an engine's JSON answers. Missing and invalid values count as absent."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from docker_prom_exporter.containers.model import NANOSECONDS
from docker_prom_exporter.texts import as_text

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def at(answer: Any, *path: str) -> Any:
    """Return the value at a path of keys in nested objects; `None` if there is none."""
    for key in path:
        if not isinstance(answer, dict):
            return None
        answer = answer.get(key)
    return answer


def integer(value: Any) -> int | None:
    """Return a number of at most 64 bits as a whole one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A float may be NaN, which no comparison is true of.
    if not abs(value) < 2**63:
        return None
    return int(value)


def positive(value: Any) -> int | None:
    """Return a number above 0; 0 and -1 stand for the engine's default, or for no limit."""
    number = integer(value)
    if number is None or number <= 0:
        return None
    return number


def seconds(value: Any) -> float | None:
    """Convert a duration above 0 from nanoseconds to seconds."""
    duration = positive(value)
    if duration is None:
        return None
    return duration / NANOSECONDS


def nanoseconds(value: Any) -> int | None:
    """Parse RFC 3339 to nanoseconds since 1970; Go omits trailing zeros of a fraction.

    Go's zero time, and any other before 1970, counts as absent.
    """
    match = _TIME.fullmatch(as_text(value))
    if match is None:
        return None
    moment, fraction, offset = match.groups()
    with suppress(ValueError):  # 30 February
        whole = int(datetime.fromisoformat(moment + offset).timestamp())
        if whole > 0:
            return whole * NANOSECONDS + int((fraction or "").ljust(9, "0"))
    return None


def timestamp(value: Any) -> float | None:
    """Parse RFC 3339 to Unix seconds, as `unix_seconds`."""
    moment = nanoseconds(value)
    if moment is None:
        return None
    return unix_seconds(moment)


def unix_seconds(moment: int) -> float:
    """Convert nanoseconds since 1970 to seconds, exact to a microsecond."""
    return moment // 1000 / 1_000_000
