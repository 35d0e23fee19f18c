"""Jumps of the wall clock: whether a poll is trusted depends on the monotonic clock."""

import time

import pytest

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from support.expositions import parse
from support.simulated import poller_for, simulation

DAY = 86400


@pytest.mark.parametrize("jumps", [[DAY, -DAY, 365 * DAY], [-365 * DAY, DAY], [-time.time()]])
def test_a_jump_changes_nothing_but_timestamps(
    jumps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jump of wall time changes no state, and does not make a poll that is too old trusted again."""
    wall = time.time
    with simulation() as engine:
        engine.stage.add("web", health="healthy")
        poller = poller_for(engine.url, poll_interval=0.5, docker_timeout=2)
        passed = 0.0
        exposition, metrics = (
            Exposition(clock=lambda: time.monotonic() + passed),
            SnapshotMetrics(),
        )
        exposition.publish(metrics.families_of(poller.poll()))
        seen = []
        for jump in jumps:
            monkeypatch.setattr(time, "time", lambda jump=jump: wall() + jump)
            for _ in range(2):
                scrape = parse(b"".join(exposition.render().body).decode())
                seen.append(
                    (scrape.value("docker_up"), scrape.value("container_health", name="web"))
                )
                exposition.publish(metrics.families_of(poller.poll()))
        passed = poller.snapshot.trusted_for + 0.1
        stale = parse(b"".join(exposition.render().body).decode())

    assert [(1, 4)] * len(seen) == seen
    assert (0, 0) == (stale.value("docker_up"), stale.value("container_health", name="web"))
