"""Time limits that hold whatever a request waits for: a name, a connection, an answer that drips."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

K = TypeVar("K", bound="Hashable")
T = TypeVar("T")

_CUT_INTERVAL: Final = 0.1
_SHORTEST_WAIT: Final = 0.01


class DeadlineError(TimeoutError):
    """An action took longer than it may; it may still be running, in a thread of its own."""


def _nothing_to_cut(_: int) -> None:
    """Do nothing."""


def call(action: Callable[[], T], seconds: float, cut: Callable[[int], object] = _nothing_to_cut) -> T:
    """Return what `action` returns, or raise what it raises; `DeadlineError` once the seconds are over.

    It runs in a daemon thread, because a look-up of a name can't be interrupted. When its time is over, `cut`
    is called with that thread's identifier until the thread has ended: a connection may be made after that.
    """
    outcome = call_each({None: action}, seconds, time.monotonic() + seconds, at_a_time=1, cut=cut)[None]
    return outcome.value()


def call_each(
    actions: Mapping[K, Callable[[], T]],
    seconds: float,
    deadline: float,
    *,
    at_a_time: int,
    cut: Callable[[int], object] = _nothing_to_cut,
) -> dict[K, Outcome[T]]:
    """Call each action for at most `seconds`, `at_a_time` at once; return an outcome for each that began.

    None begins after `deadline`, a time on the monotonic clock, and none lasts beyond it.
    """
    return _Calls(actions, seconds, deadline, cut).run(at_a_time)


class Outcome(Generic[T]):
    """What became of an action: `value` returns what it returned, or raises what it raised."""

    def __init__(self, value: Callable[[], T]) -> None:
        self.value = value


def _outcome(action: Callable[[], T]) -> Outcome[T]:
    try:
        result = action()
    except BaseException as error:  # noqa: BLE001  it's raised again where the outcome is looked at
        return _failed(error)
    return Outcome(lambda: result)


def _failed(error: BaseException) -> Outcome[T]:
    def value() -> NoReturn:
        raise error

    return Outcome(value)


class _Calls(Generic[K, T]):
    """The actions still to be called, and the workers that call them."""

    def __init__(
        self,
        actions: Mapping[K, Callable[[], T]],
        seconds: float,
        deadline: float,
        cut: Callable[[int], object],
    ) -> None:
        self._todo = iter(actions.items())
        self._count = len(actions)
        self._seconds = seconds
        self._deadline = deadline
        self._cut = cut
        self._outcomes: dict[K, Outcome[T]] = {}
        self._under_way: dict[threading.Thread, tuple[K, float] | None] = {}
        self._changed = threading.Condition()

    def run(self, at_a_time: int) -> dict[K, Outcome[T]]:
        """Start the workers, replace each whose action takes too long, and wait for all."""
        with self._changed:
            for _ in range(min(at_a_time, self._count)):
                self._start_worker()
            while self._under_way:
                self._changed.wait(max(self._next_expiry() - time.monotonic(), _SHORTEST_WAIT))
                self._replace_late()
        return self._outcomes

    def _next_expiry(self) -> float:
        """Return when the next action may be late, be it one that begins from now on."""
        expiries = [begun[1] for begun in self._under_way.values() if begun]
        return min([time.monotonic() + self._seconds, self._deadline, *expiries])

    def _start_worker(self) -> None:
        worker = threading.Thread(target=self._work, name="deadline", daemon=True)
        self._under_way[worker] = None
        worker.start()

    def _work(self) -> None:
        """Take one action after the other, until none is left or this worker was replaced."""
        worker = threading.current_thread()
        while (begun := self._begin(worker)) is not None:
            key, action = begun
            outcome = _outcome(action)
            with self._changed:
                if worker not in self._under_way:
                    return
                self._outcomes[key] = outcome
                self._under_way[worker] = None

    def _begin(self, worker: threading.Thread) -> tuple[K, Callable[[], T]] | None:
        with self._changed:
            now = time.monotonic()
            begun = next(self._todo, None) if now < self._deadline else None
            if begun is None:
                del self._under_way[worker]
                self._changed.notify()
            else:
                self._under_way[worker] = begun[0], min(now + self._seconds, self._deadline)
            return begun

    def _replace_late(self) -> None:
        now = time.monotonic()
        late = [(worker, begun[0]) for worker, begun in self._under_way.items() if begun and begun[1] <= now]
        for worker, key in late:
            del self._under_way[worker]
            self._outcomes[key] = _failed(DeadlineError())
            threading.Thread(target=_cut_until_ended, args=(worker, self._cut), daemon=True).start()
            self._start_worker()


def _cut_until_ended(worker: threading.Thread, cut: Callable[[int], object]) -> None:
    while worker.is_alive():
        cut(worker.ident or 0)
        worker.join(_CUT_INTERVAL)
