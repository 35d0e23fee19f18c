"""Time limits: what an action returns or raises, and what becomes of one that takes too long."""

import threading
import time
from functools import partial

import pytest

from docker_prom_exporter.deadline import DeadlineError, call, call_each
from support.waiting import wait_for


def test_the_result() -> None:
    """What the action returns is returned."""
    assert call(lambda: 7, 1) == 7


def test_the_error() -> None:
    """What the action raises is raised."""
    with pytest.raises(KeyError, match="gone"):
        call(lambda: dict[str, int]()["gone"], 1)


def test_a_late_action_is_cut_until_it_ends() -> None:
    """The caller goes on at once; the thread is cut again and again, as it may connect only later."""
    released = threading.Event()
    cuts: list[int] = []

    def cut(thread: int) -> None:
        cuts.append(thread)
        if len(cuts) == 3:
            released.set()

    began = time.monotonic()
    with pytest.raises(DeadlineError):
        call(lambda: released.wait(30), 0.05, cut)
    waited = time.monotonic() - began
    wait_for(released.is_set, what="the third cut")

    assert waited < 5
    assert len(set(cuts)) == 1


def test_one_late_action_holds_up_no_other() -> None:
    """The others are called by workers that replace the one that hangs."""
    released = threading.Event()
    actions = {"stuck": lambda: released.wait(30)} | {n: partial(str, n) for n in "abcdef"}
    outcomes = call_each(actions, 0.2, time.monotonic() + 20, at_a_time=1)
    released.set()

    with pytest.raises(DeadlineError):
        outcomes.pop("stuck").value()
    assert {n: n for n in "abcdef"} == {n: outcome.value() for n, outcome in outcomes.items()}


def test_only_so_many_at_a_time() -> None:
    """No more than `at_a_time` actions are under way at once."""
    lock, running, most = threading.Lock(), 0, 0

    def action() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    outcomes = call_each(dict.fromkeys(range(50), action), 5, time.monotonic() + 20, at_a_time=4)

    assert len(outcomes) == 50
    assert most <= 4


def test_none_begins_after_the_deadline() -> None:
    """What could not begin has no outcome; what had begun is late."""
    outcomes = call_each(
        {n: partial(time.sleep, 1) for n in range(9)}, 5, time.monotonic() + 0.1, at_a_time=2
    )

    assert {0, 1} == outcomes.keys()
    for outcome in outcomes.values():
        with pytest.raises(DeadlineError):
            outcome.value()


def test_nothing_to_call() -> None:
    """No action, no outcome."""
    assert call_each({}, 1, time.monotonic() + 1, at_a_time=4) == {}
