"""The Prometheus label in which a container label is exported."""

from __future__ import annotations

import re


def label_name(key: str) -> str:
    """Return `label_com_example_team` for `com.example.team`."""
    return "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)
