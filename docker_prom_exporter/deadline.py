"""Time limits for requests, whatever they wait for."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

K = TypeVar("K")
T = TypeVar("T")

# In seconds. Clocks that differ by a tick must not make the wait a busy loop.
_CUT_INTERVAL: Final = 0.1
_SHORTEST_WAIT: Final = 0.01
_SECONDS_BETWEEN_WORKERS: Final = 0.02


class Deadline(NamedTuple):
    """When work must end."""

    # On the monotonic clock.
    at: float = math.inf
    # The seconds that follow, for requests that make up for unfinished ones.
    reserve: float = 0.0

    @classmethod
    def after(cls, seconds: float, reserve: float = 0.0) -> Self:
        """Return the deadline that is this many seconds away."""
        return cls(time.monotonic() + seconds, reserve)

    def left(self) -> float:
        """Return the seconds until the deadline, 0 after it."""
        return max(self.at - time.monotonic(), 0)

    def with_reserve(self) -> Deadline:
        """Return the later deadline that includes the reserve."""
        return Deadline(self.at + self.reserve)


NEVER: Final = Deadline()
"""No deadline: only the timeout of a request limits it."""


def call(
    action: Callable[[], T],
    seconds: float,
    cut: Callable[[threading.Thread], object] = lambda _: None,
) -> T:
    """Call `action` and return its result or raise its error; `TimeoutError` after `seconds`.

    The action runs in a daemon thread, because a name lookup can't be interrupted. After
    a timeout, `cut` is called with that thread again and again until it ends: it may open
    a connection after a call of `cut`.
    """
    try:
        return call_each([(None, action)], seconds, cut=cut)[None].result()
    except CancelledError as error:
        raise TimeoutError from error


def call_each(
    actions: Iterable[tuple[K, Callable[[], T]]],
    seconds: float,
    deadline: Deadline = NEVER,
    *,
    at_a_time: int = 1,
    cut: Callable[[threading.Thread], object] = lambda _: None,
) -> dict[K, Future[T]]:
    """Call each action for at most `seconds`, up to `at_a_time` in parallel.

    Returns the futures of the actions that ended, and cancelled futures of those that
    took all of their `seconds`. An action that was not begun before the deadline, or cut
    by it, has none. The thread of a late action may still run.
    """
    calls = _Calls(actions, seconds, deadline, cut)
    return calls.run(at_a_time)


class _Call(NamedTuple, Generic[K, T]):
    """The running action of a worker, and when it is cancelled."""

    key: K
    action: Callable[[], T]
    future: Future[T]
    end: float


class _Calls(Generic[K, T]):
    """Runs actions in worker threads, and replaces a worker whose action takes too long."""

    def __init__(
        self,
        actions: Iterable[tuple[K, Callable[[], T]]],
        seconds: float,
        deadline: Deadline,
        cut: Callable[[threading.Thread], object],
    ) -> None:
        self._todo = iter(actions)
        self._seconds = seconds
        self._deadline = deadline
        self._cut = cut
        self._futures: dict[K, Future[T]] = {}

        # The action of each worker; None before its first one. A worker that is not in here
        # has been replaced, or has found nothing left to do.
        self._workers: dict[threading.Thread, _Call[K, T] | None] = {}
        # Whether no action is left to begin.
        self._all_begun = False
        self._changed = threading.Condition()

    def run(self, at_a_time: int) -> dict[K, Future[T]]:
        with self._changed:
            self._start_worker()
            while self._workers:
                self._replace_late_workers()
                ends = [running.end for running in self._workers.values() if running]
                next_end = min([self._deadline.at, *ends])
                wait = min(next_end - time.monotonic(), self._seconds)
                may_add = len(self._workers) < at_a_time and not self._all_begun
                if may_add:
                    # Where actions are quick, as on a local engine, further threads only cost.
                    wait = min(wait, _SECONDS_BETWEEN_WORKERS)
                ended = self._changed.wait(max(wait, _SHORTEST_WAIT))
                if may_add and not ended:
                    self._start_worker()
        return self._futures

    def _start_worker(self) -> None:
        worker = threading.Thread(target=self._work, name="deadline", daemon=True)
        self._workers[worker] = None
        worker.start()

    def _work(self) -> None:
        while running := self._begin():
            # A future that was cancelled meanwhile takes neither.
            with suppress(InvalidStateError):
                try:
                    result = running.action()
                except BaseException as error:  # noqa: BLE001  the future raises it again
                    running.future.set_exception(error)
                else:
                    running.future.set_result(result)

    def _begin(self) -> _Call[K, T] | None:
        """Return the calling worker's next action; `None` if it has none."""
        worker = threading.current_thread()
        with self._changed:
            begun = None
            if worker in self._workers and self._deadline.left():
                begun = next(self._todo, None)
                self._all_begun = begun is None
            if begun is None:
                self._workers.pop(worker, None)
                self._changed.notify()
                return None
            key, action = begun
            end = min(time.monotonic() + self._seconds, self._deadline.at)
            running = _Call(key, action, Future[T](), end)
            self._futures[key] = running.future
            self._workers[worker] = running
            return running

    def _replace_late_workers(self) -> None:
        now = time.monotonic()
        for worker, running in list(self._workers.items()):
            if running is None or running.end > now or not running.future.cancel():
                continue
            if running.end == self._deadline.at:
                del self._futures[running.key]
            del self._workers[worker]
            cutting = threading.Thread(
                target=_cut_until_ended, args=(worker, self._cut), daemon=True
            )
            cutting.start()
            self._start_worker()


def _cut_until_ended(
    worker: threading.Thread, cut: Callable[[threading.Thread], object]
) -> None:
    while worker.is_alive():
        cut(worker)
        worker.join(_CUT_INTERVAL)
