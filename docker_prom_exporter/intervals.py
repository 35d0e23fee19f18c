"""The interval at which a thread repeats its work."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event


def each_interval(seconds: float, stop: Event) -> Iterator[None]:
    """Yield at once, then once an interval, until `stop` is set.

    If the caller took longer than an interval, the next whole interval follows, so that
    what the caller works with rests in between.
    """
    due = time.monotonic()
    while not stop.is_set():
        yield
        late = time.monotonic() - due
        due += max(math.ceil(late / seconds), 1) * seconds
        stop.wait(due - time.monotonic())
