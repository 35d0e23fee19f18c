"""The interval at which a thread repeats its work."""

import time
from threading import Event

import pytest

from docker_prom_exporter.intervals import each_interval


class _Stop(Event):
    """Notes how long it was waited for, and moves the clock instead of waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now = 100.0
        self.waits: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0)
        self.now += timeout or 0
        return self.is_set()


def waits(monkeypatch: pytest.MonkeyPatch, *durations: float) -> list[float]:
    """Return the pauses of a thread whose work takes these seconds, with an interval of 1 s."""
    stop = _Stop(monkeypatch)
    work = iter(durations)
    for _ in each_interval(1, stop):
        stop.now += next(work)
        if len(stop.waits) == len(durations) - 1:
            stop.set()
    return [round(wait, 6) for wait in stop.waits]


def test_work_that_is_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work begins once an interval, however long it takes within it."""
    assert [0.75, 0.5, 1] == waits(monkeypatch, 0.25, 0.5, 0)


@pytest.mark.parametrize(("duration", "pause"), [(1.25, 0.75), (3.5, 0.5)])
def test_work_that_is_longer(
    monkeypatch: pytest.MonkeyPatch, duration: float, pause: float
) -> None:
    """After work that outlasts the interval, the next whole interval follows, not the next work."""
    assert [pause, 0.75] == waits(monkeypatch, duration, 0.25)
