"""Booleans in labels and options."""

from __future__ import annotations

from typing import Final

_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def parse_boolean(text: str) -> bool | None:
    """Parse `true/1/yes/on` or `false/0/no/off` in any case; return `None` for anything else."""
    return _BOOLEANS.get(text.strip().lower())
