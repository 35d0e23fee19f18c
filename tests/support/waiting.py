"""Wait for a condition, with a deadline."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    predicate: Callable[[], T], *, what: str, seconds: float = 60, every: float = 0.05
) -> T:
    """Call `predicate` until its answer is true, and return that answer.

    It is asked after 2 ms, then ever more rarely, in the end once in `every` seconds. The deadline is
    generous, as it costs nothing where nothing is broken: a busy machine takes ten times as long.
    Raises TimeoutError naming `what` and the last answer once `seconds` have passed.
    """
    deadline = time.monotonic() + seconds
    pause = min(0.002, every)
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"waited {seconds:g} s for {what}; the last answer was {answer!r}"
            )
        time.sleep(pause)
        pause = min(1.5 * pause, every)
    return answer


def wait_for_requests_to_end() -> None:
    """Wait until no thread of `docker_prom_exporter.deadline` is left, also none that was given up."""
    wait_for(
        lambda: "deadline" not in {thread.name for thread in threading.enumerate()},
        what="requests to end",
    )
