"""Time limits for requests, whether they wait for a name lookup, a connection or a slow answer."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

K = TypeVar("K")
T = TypeVar("T")

_CUT_INTERVAL: Final = 0.1
_SHORTEST_WAIT: Final = 0.01


def call(
    action: Callable[[], T],
    seconds: float,
    cut: Callable[[threading.Thread], object] = lambda _: None,
) -> T:
    """Call `action` and return its result or raise its error; raise `TimeoutError` after `seconds`.

    The action runs in a daemon thread, because a name lookup can't be interrupted. After a timeout, `cut` is
    called with that thread again and again until it ends: it may open a connection after a call of `cut`.
    """
    try:
        return call_each([(None, action)], seconds, cut=cut)[None].result()
    except CancelledError as error:
        raise TimeoutError from error


def call_each(
    actions: Iterable[tuple[K, Callable[[], T]]],
    seconds: float,
    deadline: float = math.inf,
    *,
    at_a_time: int = 1,
    cut: Callable[[threading.Thread], object] = lambda _: None,
) -> dict[K, Future[T]]:
    """Call each action for at most `seconds`, `at_a_time` in parallel; return futures of those that began.

    No action begins or lasts after `deadline`, a time on the monotonic clock. The future of an action that
    took too long is cancelled, but its thread may still run.
    """
    todo = iter(actions)
    futures: dict[K, Future[T]] = {}
    workers: dict[
        threading.Thread, tuple[Future[T], float]
    ] = {}  # the current action's future and end
    changed = threading.Condition()

    def start_worker() -> None:
        worker = threading.Thread(target=work, name="deadline", daemon=True)
        workers[worker] = Future(), math.inf
        worker.start()

    def work() -> None:
        for action, future in iter(begin, None):
            with suppress(InvalidStateError):  # it was cancelled meanwhile
                try:
                    future.set_result(action())
                except BaseException as error:  # noqa: BLE001  the future raises it again
                    future.set_exception(error)

    def begin() -> tuple[Callable[[], T], Future[T]] | None:
        """Return the calling worker's next action; `None` if none is left or the worker was replaced."""
        worker = threading.current_thread()
        with changed:
            now = time.monotonic()
            begun = next(todo, None) if worker in workers and now < deadline else None
            if begun is None:
                workers.pop(worker, None)
                changed.notify()
                return None
            key, action = begun
            futures[key] = future = Future[T]()
            workers[worker] = future, min(now + seconds, deadline)
            return action, future

    with changed:
        for _ in range(at_a_time):
            start_worker()
        while workers:
            now = time.monotonic()
            for worker in [
                w for w, (future, end) in workers.items() if end <= now and future.cancel()
            ]:
                del workers[worker]
                threading.Thread(
                    target=_cut_until_ended, args=(worker, cut), daemon=True
                ).start()
                start_worker()
            next_end = min([now + seconds, deadline, *(end for _, end in workers.values())])
            changed.wait(max(next_end - now, _SHORTEST_WAIT))
    return futures


def _cut_until_ended(
    worker: threading.Thread, cut: Callable[[threading.Thread], object]
) -> None:
    while worker.is_alive():
        cut(worker)
        worker.join(_CUT_INTERVAL)
