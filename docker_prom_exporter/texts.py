"""Texts that options, labels and answers share: booleans, durations, label names."""

from __future__ import annotations

import re
from typing import Any, Final

_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

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


def span(seconds: float) -> str:
    """Format seconds with their two largest units: `2 h 5 min`."""
    minutes, s = divmod(max(int(seconds), 0), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    units = ((days, "d"), (h, "h"), (m, "min"), (s, "s"))
    first = next((place for place, (count, _) in enumerate(units) if count), 3)
    largest = [f"{count} {unit}" for count, unit in units[first : first + 2] if count]
    return " ".join(largest) or "0 s"


def parse_boolean(text: str) -> bool | None:
    """Parse `true/1/yes/on` or `false/0/no/off` in any case.

    Return `None` for anything else.
    """
    return _BOOLEANS.get(text.strip().lower())


def parse_duration(text: str) -> float:
    """Return the seconds of a duration as Prometheus and Go write it, or of a plain number.

    `15`, `0.5`, `500ms`, `15s`, `1m30s`, `1h`. Raises `ValueError` for other texts.
    """
    if re.fullmatch(_NUMBER, text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"not a duration: {text!r}")
    counts = zip(match.groups("0"), _SECONDS.values(), strict=True)
    return sum(float(count) * seconds for count, seconds in counts)


def label_name(key: str) -> str:
    """Return the metric label for a container label: `label_com_example_team`.

    Each character outside `[a-zA-Z0-9_]` becomes `_`.
    """
    return "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)


def as_text(value: Any) -> str:
    """Return a string with lone surrogates replaced, or an empty one if it is no string.

    JSON allows lone surrogates, UTF-8 does not.
    """
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
