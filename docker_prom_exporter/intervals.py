"""The interval at which a thread repeats its work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event


def each_interval(seconds: float, stop: Event) -> Iterator[None]:
    """Yield at once, then once an interval, until `stop` is set; without a pause if the caller was late."""
    due = time.monotonic()
    while not stop.is_set():
        yield
        due = max(due + seconds, time.monotonic())
        stop.wait(due - time.monotonic())
