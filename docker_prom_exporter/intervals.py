"""The interval at which a thread repeats its work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event


def each_interval(seconds: float, stop: Event) -> Iterator[None]:
    """Yield now and then once an interval until `stop` is set; at once if the caller took longer than one."""
    due = time.monotonic()
    while not stop.is_set():
        yield
        due = max(due + seconds, time.monotonic())
        stop.wait(due - time.monotonic())
