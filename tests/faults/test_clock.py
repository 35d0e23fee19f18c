"""Wall time may jump: what is believed of Docker depends on time passed, not on time of day."""

import time

import pytest

from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import Publications
from support.expositions import parse
from support.simulated import poller_for, simulation

DAY = 86400


@pytest.mark.parametrize("jumps", [[DAY, -DAY, 365 * DAY], [-365 * DAY, DAY], [-time.time()]])
def test_a_jump_changes_nothing_but_timestamps(jumps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the next poll; a poll that is too old stays so when time of day goes back."""
    wall = time.time
    with simulation() as engine:
        engine.stage.add("web", health="healthy")
        poller = poller_for(engine.url)
        passed = 0.0
        exposition, publications = Exposition(clock=lambda: time.monotonic() + passed), Publications()
        exposition.publish(publications.of(poller.poll()))
        seen = []
        for jump in jumps:
            monkeypatch.setattr(time, "time", lambda jump=jump: wall() + jump)
            for _ in range(2):
                scrape = parse(b"".join(exposition.render().body).decode())
                seen.append((scrape.value("docker_up"), scrape.value("container_health", name="web")))
                exposition.publish(publications.of(poller.poll()))
        passed = 3 * 0.5 + 2 + 0.1
        stale = parse(b"".join(exposition.render().body).decode())

    assert [(1, 4)] * len(seen) == seen
    assert (0, 0) == (stale.value("docker_up"), stale.value("container_health", name="web"))
