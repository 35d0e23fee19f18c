"""The simulated engine gives the same answers as moby, in the same wording."""

import json
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter.containers import (
    LABEL,
    Container,
    Details,
    Healthcheck,
    parse_inspect,
    parse_row,
)
from docker_prom_exporter.demo import SimulatedContainer, SimulatedEngine
from support.builders import container
from support.simulated import Simulation
from support.wordings import human_duration

BEGIN = 1714979289
HOUR, DAY = 3600, 86400


def test_an_inspect() -> None:
    """An inspect answer is read as the container that it was made from."""
    simulated = SimulatedContainer(
        "web",
        state="exited",
        health="healthy",
        failing_streak=1,
        restart_policy="on-failure",
        created=BEGIN + 0.5,
        started=BEGIN + 1,
        finished=BEGIN + 2,
        restarts=4,
        exit_code=3,
        oom_killed=True,
        error="no such file",
        memory=2**26,
        cpus=0.5,
        pids=7,
    )
    expected = container(
        id=simulated.id,
        image="demo:1",
        image_id=simulated.image_id,
        state="exited",
        health_status="unhealthy",
        created_ns=BEGIN * 10**9 + 500_000_123,
        details=Details(
            started=BEGIN + 1,
            finished=BEGIN + 2,
            restarts=4,
            exit_code=3,
            oom_killed=True,
            failing_streak=1,
            restart_policy="on-failure",
            start_failed=True,
            memory_limit=2**26,
            cpu_limit=0.5,
            pids_limit=7,
            healthcheck=Healthcheck(interval=5, timeout=5, retries=3),
        ),
    )

    assert expected == parse_inspect(simulated.inspect())


def checked(now: float, **what: Any) -> Container:
    """Return a container that started at BEGIN, inspected so many seconds after that."""
    simulated = SimulatedContainer("web", **{"started": BEGIN, "health": "healthy", **what})
    found = parse_inspect(simulated.inspect(BEGIN + now), now=BEGIN + now)
    assert found is not None
    return found


def last_probe(found: Container) -> tuple[float, int] | None:
    """Return when the last probe ended, in whole seconds after BEGIN, and its exit code."""
    probe = found.details and found.details.probe
    return (int(probe.ended - BEGIN), probe.exit_code) if probe else None


@pytest.mark.parametrize(
    ("now", "what", "expected"),
    [
        (4.9, {}, None),
        (5, {}, (5, 0)),
        (999_999_999, {}, (999_999_995, 0)),
        (62, {"failing_streak": 2}, (60, 1)),
        (7, {"health": "starting"}, (5, 1)),
        (7, {"interval": 2}, (6, 0)),
        (7, {"interval": 0}, None),
        (30, {"probes_end": BEGIN + 12}, (10, 0)),
        (30, {"health": None}, None),
    ],
)
def test_probes(now: float, what: dict[str, Any], expected: tuple[float, int] | None) -> None:
    """A probe ends once an interval; those of the failing streak failed."""
    assert expected == last_probe(checked(now, **what))


def test_the_log_has_five_probes() -> None:
    """The log has the last five probes, the newest last, as in moby."""
    simulated = SimulatedContainer("web", health="unhealthy", failing_streak=3, started=BEGIN)
    log = simulated.inspect(BEGIN + 100)["State"]["Health"]["Log"]

    assert [0, 0, 1, 1, 1] == [entry["ExitCode"] for entry in log]


@pytest.mark.parametrize("streak", [0, 2, 3])
def test_a_pause(streak: int) -> None:
    """From a pause on a container is `unhealthy`, with its streak, until the next probe."""
    what = {"paused": BEGIN + 21, "failing_streak": streak}
    paused = checked(40, state="paused", **what)
    seen = [checked(now, unpaused=BEGIN + 40, **what) for now in (41, 44.9, 45, 50)]

    assert (1, None) == (paused.health, last_probe(paused))
    assert ["unhealthy", "unhealthy", "healthy", "healthy"] == [
        each.health_status for each in seen
    ]
    assert [(20, int(streak > 0))] * 2 == [last_probe(each) for each in seen[:2]]
    assert [45, 50] == [(last_probe(each) or (0, 0))[0] for each in seen[2:]]
    assert ("pending" if streak < 3 else None) == seen[0].doubt


def test_probes_that_ended() -> None:
    """A verdict stalls a minute after the last probe; the engine's status stays."""
    seen = [checked(now, probes_end=BEGIN + 12) for now in (69, 71)]

    assert [(4, None), (0, "stalled")] == [(each.health, each.doubt) for each in seen]
    assert {"healthy"} == {each.health_status for each in seen}


STAGE = [
    SimulatedContainer("old", created=BEGIN, labels={LABEL: "true"}),
    SimulatedContainer("new", created=BEGIN + 3, labels={LABEL: "no"}),
    SimulatedContainer("plain", created=BEGIN + 2),
    SimulatedContainer("young", created=BEGIN + 1),
]
IDS = {each.name: each.id for each in STAGE}


def asked(
    limit: int = -1, engine: SimulatedEngine | None = None, **names: list[str]
) -> tuple[int, list[str]]:
    """Ask for a list with container names in its filters; return its status and the names in it."""
    filters = {key: [IDS.get(name, name) for name in values] for key, values in names.items()}
    if engine is None:
        engine = Simulation(Path())
        engine.containers = lambda: STAGE
    code, answer = engine.answer(
        "list", "", {"limit": str(limit), "filters": json.dumps(filters)}
    )
    return code, [row["Names"][0] for row in answer] if code == 200 else []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["/new", "/plain", "/young", "/old"]),
        ({"limit": 2}, ["/new", "/plain"]),
        ({"limit": 2, "before": ["plain"]}, ["/young", "/old"]),
        ({"before": ["old"]}, []),
        ({"since": ["young"]}, ["/new", "/plain"]),
        ({"since": ["new"]}, []),
        ({"since": ["old"], "before": ["new"]}, ["/plain", "/young"]),
        ({"id": ["old", "new", "gone"]}, ["/new", "/old"]),
        ({"label": [LABEL]}, ["/new", "/old"]),
        ({"label": [LABEL], "since": ["old"]}, ["/new"]),
    ],
)
def test_a_list(query: dict[str, Any], expected: list[str]) -> None:
    """A list is sorted by creation, newest first, and has only containers that pass all filters."""
    assert (200, expected) == asked(**query)


def test_a_list_of_the_demo() -> None:
    """The engine of `demo` supports the filters that the exporter sends to an engine with cheap lists."""
    demo = SimulatedEngine(Path(), lambda: STAGE)

    assert (200, ["/old", "/new", "/plain", "/young"]) == asked(engine=demo)
    assert (200, ["/old", "/new"]) == asked(engine=demo, label=[LABEL])
    assert (200, ["/old"]) == asked(engine=demo, id=["old", "gone"])


def test_a_list_relative_to_a_removed_container() -> None:
    """A list relative to a removed container is a 404, as in Docker since 28."""
    assert (404, []) == asked(since=["gone"])
    assert (404, []) == asked(before=["gone"])


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("running", "Up 2 minutes (unhealthy)"),
        ("paused", "Up 2 minutes (Paused)"),
        ("exited", "Exited (137) About a minute ago"),
        ("restarting", "Restarting (137) About a minute ago"),
        ("created", "Created"),
        ("dead", "Dead"),
        ("removing", "Removal In Progress"),
    ],
)
def test_wording_of_status(state: str, expected: str) -> None:
    """`Status` has the wording of every engine from 1.12 to 29; the demo words ages in a simpler way."""
    simulated = SimulatedContainer(
        "web",
        state=state,
        health="unhealthy",
        started=BEGIN,
        finished=BEGIN + 60,
        exit_code=137,
    )
    of_demo = simulated.row(BEGIN + 120)["Status"]

    assert expected == simulated.status(BEGIN + 120, human_duration)
    assert expected.replace("About a minute", "60 seconds") == of_demo


@pytest.mark.parametrize("state", ["running", "paused", "restarting", "exited"])
@pytest.mark.parametrize(
    "age", [0, 1, 59, 60, 119, 120, HOUR, 2 * HOUR, 47 * HOUR, 2 * DAY, 30 * DAY]
)
def test_the_ages_of_the_demo_are_read(state: str, age: int) -> None:
    """The minimum age read from the demo's wording is not above the true age, and not far below."""
    row = parse_row(
        SimulatedContainer("web", state, started=BEGIN, finished=BEGIN).row(BEGIN + age)
    )

    assert row is not None
    assert row.min_age <= age <= 2 * row.min_age + HOUR


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "Less than a second"),
        (0.999, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119.9, "About a minute"),
        (120, "2 minutes"),
        (HOUR - 1, "59 minutes"),
        (HOUR, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (47.4999 * HOUR, "47 hours"),
        (47.5 * HOUR, "2 days"),
        (3 * DAY - HOUR, "2 days"),
        (3 * DAY - 0.5 * HOUR, "3 days"),
        (14 * DAY - 0.5 * HOUR, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY - 0.5 * HOUR, "2 months"),
        (730 * DAY - 0.5 * HOUR, "1 years"),
        (730 * DAY, "2 years"),
    ],
)
def test_human_duration(seconds: float, expected: str) -> None:
    """The wording is that of go-units' HumanDuration, also at the edges."""
    assert expected == human_duration(seconds)
