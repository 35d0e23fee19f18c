"""Time limits: what an action returns or raises, and what becomes of one that takes too long."""

import threading
import time
from functools import partial

import pytest

from docker_prom_exporter.deadline import call, call_each
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


def test_one_late_action_holds_up_no_other() -> None:
    """The others are called by workers that replace the one that hangs."""
    released = threading.Event()
    actions = {"stuck": lambda: released.wait(30)} | {n: partial(str, n) for n in "abcdef"}
    futures = call_each(actions.items(), 0.2, time.monotonic() + 20)
    released.set()

    assert futures.pop("stuck").cancelled()
    assert {n: n for n in "abcdef"} == {n: future.result() for n, future in futures.items()}


def test_what_a_late_action_returns_is_dropped() -> None:
    """Its future stays cancelled, and its worker, which was replaced, takes no further action."""
    released = threading.Event()
    taken: dict[str, threading.Thread] = {}

    def action(name: str, seconds: float) -> None:
        taken[name] = threading.current_thread()
        released.wait(seconds)
        raise KeyError(name)

    actions = [("late", partial(action, "late", 30)), ("next", partial(action, "next", 0.05))]
    futures = call_each(actions, 0.5)
    released.set()
    taken["late"].join(5)

    assert futures["late"].cancelled()
    assert "KeyError('next')" == repr(futures["next"].exception())
    assert taken["late"] != taken["next"]


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

    futures = call_each(((n, action) for n in range(50)), 5, time.monotonic() + 20, at_a_time=4)

    assert len(futures) == 50
    assert most <= 4


def test_none_begins_after_the_deadline() -> None:
    """What could not begin has no future; what had begun is late."""
    actions = [(n, partial(time.sleep, 1)) for n in range(9)]
    futures = call_each(actions, 5, time.monotonic() + 0.1, at_a_time=2)

    assert {0, 1} == futures.keys()
    assert all(future.cancelled() for future in futures.values())


def test_nothing_to_call() -> None:
    """No action, no future."""
    assert call_each([], 1, time.monotonic() + 1, at_a_time=4) == {}
