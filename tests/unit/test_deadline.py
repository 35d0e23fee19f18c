"""Time limits: the results and errors of actions, and what happens to late actions."""

import threading
import time
from functools import partial

import pytest

from docker_prom_exporter.deadline import Deadline, call, call_each
from support.waiting import wait_for


def test_the_result() -> None:
    """`call` returns what the action returns."""
    assert call(lambda: 7, 1) == 7


def test_the_error() -> None:
    """`call` raises what the action raises."""
    with pytest.raises(KeyError, match="gone"):
        call(lambda: dict[str, int]()["gone"], 1)


def test_a_late_action_is_cut_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """`call` does not wait for a late action; `cut` is called for its thread until the thread ends."""
    monkeypatch.setattr("docker_prom_exporter.deadline._CUT_INTERVAL", 0.01)
    released = threading.Event()
    cuts: list[threading.Thread] = []

    def cut(thread: threading.Thread) -> None:
        cuts.append(thread)
        if len(cuts) == 3:
            released.set()

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        call(lambda: released.wait(30), 0.05, cut)
    waited = time.monotonic() - began
    wait_for(released.is_set, what="the third cut")

    assert waited < 5
    assert len(set(cuts)) == 1


def test_a_late_action_does_not_delay_others() -> None:
    """A late action does not delay the others, because a new worker replaces its worker."""
    released = threading.Event()
    actions = {"stuck": lambda: released.wait(30)} | {n: partial(str, n) for n in "abcdef"}
    futures = call_each(actions.items(), 1, Deadline.after(20))
    released.set()

    assert futures.pop("stuck").cancelled()
    assert {n: n for n in "abcdef"} == {n: future.result() for n, future in futures.items()}


def test_the_result_of_a_late_action_is_dropped() -> None:
    """The error of a late action is dropped, and its replaced worker starts no further action."""
    released = threading.Event()
    taken: dict[str, threading.Thread] = {}

    def action(name: str, seconds: float) -> None:
        taken[name] = threading.current_thread()
        released.wait(seconds)
        raise KeyError(name)

    actions = [("late", partial(action, "late", 30)), ("next", partial(action, "next", 0))]
    futures = call_each(actions, 1)
    released.set()
    taken["late"].join(5)

    assert futures["late"].cancelled()
    assert "KeyError('next')" == repr(futures["next"].exception())
    assert taken["late"] != taken["next"]


def test_at_a_time() -> None:
    """No more than `at_a_time` actions run at once."""
    lock, running, most = threading.Lock(), 0, 0

    def action() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    futures = call_each(((n, action) for n in range(50)), 5, Deadline.after(20), at_a_time=4)

    assert len(futures) == 50
    assert most <= 4


def test_nothing_outlasts_the_deadline() -> None:
    """What the deadline cuts, or does not let begin, has no future: it is not the action's fault."""
    released = threading.Event()
    begun: list[int] = []

    def action(number: int) -> None:
        begun.append(number)
        released.wait(30)

    actions = [(n, partial(action, n)) for n in range(9)]
    futures = call_each(actions, 60, Deadline.after(1), at_a_time=2)
    released.set()

    assert {} == futures
    assert [0, 1] == sorted(begun)


def test_a_deadline_has_a_reserve() -> None:
    """A deadline says how much time is left, never less than none; the reserve comes after it."""
    passed = Deadline.after(-1, reserve=10)

    assert 0 == passed.left()
    assert 5 < passed.with_reserve().left() <= 9


def test_no_actions() -> None:
    """Without actions, `call_each` returns no futures."""
    assert call_each([], 1, Deadline.after(1), at_a_time=4) == {}


def test_quick_actions_share_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is added only where actions take their time, because threads cost CPU time."""
    monkeypatch.setattr("docker_prom_exporter.deadline._SECONDS_BETWEEN_WORKERS", 60)
    workers: set[threading.Thread] = set()
    actions = [(n, lambda: workers.add(threading.current_thread())) for n in range(9)]
    call_each(actions, 60, at_a_time=4)

    assert 1 == len(workers)


def test_slow_actions_run_side_by_side() -> None:
    """As many actions as may run at once do so, if they take their time."""
    together = threading.Barrier(4)
    futures = call_each([(n, partial(together.wait, 60)) for n in range(4)], 60, at_a_time=4)

    assert {0, 1, 2, 3} == {future.result() for future in futures.values()}


def test_no_worker_is_added_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the last action runs, no further worker is started."""
    started: list[str] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    call_each([(1, partial(threading.Event().wait, 0.5))], 60, at_a_time=4)

    assert started.count("deadline") <= 2
