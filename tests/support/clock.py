"""A clock that tests take on."""

import time

import pytest


class Clock:
    """Takes the exporter's clock and the simulated engine's on by as much as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later = 0.0
        monotonic, wall = time.monotonic, time.time
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self.later)
        monkeypatch.setattr(time, "time", lambda: wall() + self.later)
