"""A clock that tests can move forward."""

import time

import pytest


class Clock:
    """Moves the clock of the exporter and of the simulated engine forward by `later` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later = 0.0
        monotonic, wall = time.monotonic, time.time
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self.later)
        monkeypatch.setattr(time, "time", lambda: wall() + self.later)
