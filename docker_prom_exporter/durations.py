"""Durations as Prometheus and Go write them."""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_SECONDS: Final = {
    "y": 365 * 86400,
    "w": 7 * 86400,
    "d": 86400,
    "h": 3600,
    "m": 60,
    "s": 1,
    "ms": 1e-3,
}
_DURATION: Final = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _SECONDS))


def parse_duration(text: str) -> float:
    """Return the seconds of `15`, `0.5`, `500ms`, `15s`, `1m30s` or `1h`; raise `ValueError` for others."""
    if re.fullmatch(_NUMBER, text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"not a duration: {text!r}")
    counts = zip(match.groups("0"), _SECONDS.values(), strict=True)
    return sum(float(count) * seconds for count, seconds in counts)
