"""Texts that options, labels and answers share: booleans, durations, names, passwords."""

from __future__ import annotations

import re
from typing import Any, Final

_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
# In the order in which a duration must have them.
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
    # A clock that was set back gives a negative time.
    seconds = max(int(seconds), 0)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return _two_units(seconds, 60, "min", 1, "s")
    if seconds < 86400:
        return _two_units(seconds, 3600, "h", 60, "min")
    return _two_units(seconds, 86400, "d", 3600, "h")


def _two_units(seconds: int, larger: int, larger_name: str, smaller: int, name: str) -> str:
    count, rest = divmod(seconds, larger)
    if rest < smaller:
        return f"{count} {larger_name}"
    return f"{count} {larger_name} {rest // smaller} {name}"


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
    total = 0.0
    for count, seconds in zip(match.groups("0"), _SECONDS.values(), strict=True):
        total += float(count) * seconds
    return total


def label_name(key: str) -> str:
    """Return the metric label for a container label: `label_com_example_team`.

    Each character outside `[a-zA-Z0-9_]` becomes `_`.
    """
    return "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)


def as_text(value: Any) -> str:
    """Return a string without lone surrogates; an empty one for any other value."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    # JSON allows lone surrogates, UTF-8 does not.
    return value.encode("utf-8", "replace").decode()


def redacted(text: str) -> str:
    """Return a value without passwords.

    The query, and all before the last `@` except the scheme, become `…`.
    """
    text = re.sub(r"(?s)^([a-zA-Z]+://)?.*@", r"\1…@", text)
    return re.sub(r"(?s)\?.*", "?…", text)
