"""A verdict counts if a probe stands behind it; otherwise the health is unknown."""

from datetime import UTC, datetime, timezone
from typing import Any

import pytest

from docker_prom_exporter.containers import (
    STATES,
    Container,
    ContainerHealth,
    Details,
    Healthcheck,
    Probe,
    parse_inspect,
    parse_row,
)
from support.builders import inspect, old_row, row

UNKNOWN, STOPPED, ALIVE, UNHEALTHY, HEALTHY = ContainerHealth
SECOND = 10**9
STARTED = 1714979289.5
"""When the container of `inspect` started."""

TEST = {"Test": ["CMD-SHELL", "true"]}
ONCE_A_SECOND = TEST | {"Interval": SECOND, "Timeout": SECOND}


def rfc3339(seconds: float, zone: timezone = UTC) -> str:
    """Return Unix seconds as Go writes them."""
    text = datetime.fromtimestamp(seconds, zone).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def entry(ended: float, duration: float = 0.25, exit_code: int = 0) -> dict[str, Any]:
    """Return an entry of `State.Health.Log` that ended so many seconds after the start."""
    end = STARTED + ended
    return {
        "Start": rfc3339(end - duration),
        "End": rfc3339(end),
        "ExitCode": exit_code,
        "Output": "",
    }


def inspected(
    status: str,
    streak: Any = 0,
    log: Any = (),
    healthcheck: Any = TEST,
    *,
    now: float | None = None,
    is_podman: bool = False,
    **state: Any,
) -> Container:
    """Read an inspect; `now` is in seconds after the start of the container."""
    health = {"Status": status, "FailingStreak": streak, "Log": log and [*log]}
    answer = inspect(
        {"Health": health, **state},
        Config={"Image": "nginx:1.27", "Labels": {}, "Healthcheck": healthcheck},
    )
    clock = None if now is None else STARTED + now
    found = parse_inspect(answer, now=clock, is_podman=is_podman)
    assert found is not None
    return found


def details(found: Container | None) -> Details:
    assert found is not None
    assert found.details is not None
    return found.details


def verdict(found: Container) -> tuple[ContainerHealth, str | None]:
    return found.health, found.doubt


@pytest.mark.parametrize(
    ("healthcheck", "streak", "doubt"),
    [
        (TEST, 0, "pending"),
        (TEST, 2, "pending"),
        (TEST, 3, None),
        (TEST, 7, None),
        (TEST | {"Retries": 0}, 2, "pending"),
        (TEST | {"Retries": 0}, 3, None),
        (TEST | {"Retries": 5}, 4, "pending"),
        (TEST | {"Retries": 5}, 5, None),
        (TEST | {"Retries": 1}, 0, "pending"),
        (TEST | {"Retries": 1}, 1, None),
        (TEST | {"Retries": "5"}, 2, "pending"),
        (None, 0, "pending"),
        (None, 1, None),
        ([], 1, None),
        (TEST, None, None),
        (TEST, "0", None),
    ],
)
def test_pending(healthcheck: Any, streak: Any, doubt: str | None) -> None:
    """`unhealthy` needs as many failed probes as the healthcheck has retries, by default 3.

    Where the retries are not known, one probe must have failed. An unknown streak shows
    nothing.
    """
    found = inspected("unhealthy", streak, healthcheck=healthcheck)

    assert (UNKNOWN if doubt else UNHEALTHY, doubt) == verdict(found)
    assert (doubt is not None) == found.awaits_probe
    assert "unhealthy" == found.health_status


@pytest.mark.parametrize("streak", [0, 2])
@pytest.mark.parametrize("state", STATES)
def test_pending_only_while_running(state: str, streak: int) -> None:
    """Only a running container is pending; moby sets all others to `unhealthy`, too."""
    found = inspected("unhealthy", streak, Status=state)

    assert ("pending" if state == "running" else None) == found.doubt
    assert (UNKNOWN if state == "running" else STOPPED) == found.health


@pytest.mark.parametrize(("status", "expected"), [("healthy", HEALTHY), ("starting", UNKNOWN)])
def test_only_unhealthy_is_pending(status: str, expected: ContainerHealth) -> None:
    """A streak below the retries is no reason to doubt `healthy`; `starting` is no verdict."""
    assert (expected, None) == verdict(inspected(status, 2))


def unhealthy_row(streak: Any) -> dict[str, Any]:
    return row(Health={"Status": "unhealthy", "FailingStreak": streak})


@pytest.mark.parametrize(
    ("answer", "doubt"),
    [
        (unhealthy_row(0), "pending"),
        (unhealthy_row(1), None),
        (unhealthy_row(3), None),
        (unhealthy_row(None), None),
        (old_row(Status="Up 5 minutes (unhealthy)"), None),
    ],
)
def test_pending_in_a_row(answer: dict[str, Any], doubt: str | None) -> None:
    """From API 1.52 on a row shows that no probe has failed; it does not show the retries."""
    listed = parse_row(answer)
    assert listed is not None

    assert (UNKNOWN if doubt else UNHEALTHY, doubt) == verdict(listed.container)


@pytest.mark.parametrize(
    ("healthcheck", "silence"),
    [
        (ONCE_A_SECOND, 60),
        (TEST | {"Interval": 10 * SECOND, "Timeout": 10 * SECOND}, 60),
        (TEST | {"Interval": 10 * SECOND, "Timeout": 11 * SECOND}, 63),
        (TEST, 180),
        (TEST | {"Interval": 0, "Timeout": -1}, 180),
        (TEST | {"Interval": 3600 * SECOND}, 10890),
        (ONCE_A_SECOND | {"StartPeriod": 900 * SECOND}, 60),
    ],
)
@pytest.mark.parametrize("status", ["healthy", "unhealthy"])
def test_stalled(status: str, healthcheck: Any, silence: float) -> None:
    """A verdict stalls without a probe for three intervals and timeouts, and a minute."""
    log = [entry(1), entry(2)]
    by_age = {
        age: inspected(status, 3, log, healthcheck, now=2 + age)
        for age in (0, silence, silence + 0.001)
    }
    expected = HEALTHY if status == "healthy" else UNHEALTHY

    assert (expected, None) == verdict(by_age[0])
    assert (expected, None) == verdict(by_age[silence])
    assert (UNKNOWN, "stalled") == verdict(by_age[silence + 0.001])
    assert by_age[silence + 0.001].awaits_probe


@pytest.mark.parametrize(
    ("log", "healthcheck", "now", "is_podman"),
    [
        pytest.param([entry(1)], TEST, None, False, id="no clock"),
        pytest.param([entry(1)], TEST, -3600, False, id="a clock that was set back"),
        pytest.param([], TEST, 9999, False, id="no probe yet"),
        pytest.param(None, TEST, 9999, False, id="a log that is null"),
        pytest.param({"Start": 1}, TEST, 9999, False, id="a log that is no list"),
        pytest.param([entry(1), {}], TEST, 9999, False, id="a malformed entry"),
        pytest.param([entry(1), 7], TEST, 9999, False, id="an entry that is no object"),
        pytest.param([entry(-1)], TEST, 9999, False, id="a probe of the run before"),
        pytest.param([entry(0.2)], TEST, 9999, False, id="a probe across a restart"),
        pytest.param([entry(1)], None, 9999, False, id="unknown settings"),
        pytest.param([entry(1)], TEST, 9999, True, id="Podman without an interval"),
    ],
)
def test_not_judged(log: Any, healthcheck: Any, now: float | None, *, is_podman: bool) -> None:
    """Without a probe of this run, an interval or the engine's clock, the verdict stands."""
    found = inspected("healthy", 0, log, healthcheck, now=now, is_podman=is_podman)

    assert (HEALTHY, None) == verdict(found)


def test_starting_does_not_stall() -> None:
    """A container that is still `starting` has no verdict, however old its last probe is."""
    assert (UNKNOWN, None) == verdict(inspected("starting", 1, [entry(1)], now=9999))


def test_pending_before_stalled() -> None:
    """After a long pause the last probe is old, but the next one is under way."""
    assert "pending" == inspected("unhealthy", 2, [entry(1)], now=9999).doubt


def test_the_last_probe() -> None:
    """The last entry of the log is the newest; its end, duration and exit code are read."""
    found = inspected("unhealthy", 3, [entry(1), entry(5, 0.75, 127)])

    assert Probe(STARTED + 5, 0.75, 127) == details(found).probe


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ExitCode": -1}, Probe(1714979300, 2, -1)),
        ({"Start": "2024-05-06T09:08:18.000000001+02:00"}, Probe(1714979300, 1.999999999, 0)),
        (
            {"End": "2024-05-06T01:08:20.123456789-06:00"},
            Probe(1714979300.123456, 2.123456789, 0),
        ),
        ({"Start": "2024-05-06T07:08:21Z"}, Probe(1714979300, 0, 0)),
        ({"Start": "2024-05-06T07:08:09.499999999Z"}, None),
        ({"Start": "2024-05-06T07:08:09.5Z"}, Probe(1714979300, 10.5, 0)),
        ({"Start": "2024-05-06T09:08:09.4+02:00"}, None),
        ({"Start": None}, None),
        ({"Start": "0001-01-01T00:00:00Z"}, None),
        ({"End": "0001-01-01T00:00:00Z"}, None),
        ({"End": "soon"}, None),
        ({"ExitCode": None}, None),
        ({"ExitCode": "0"}, None),
        ({"ExitCode": True}, None),
    ],
)
def test_the_fields_of_a_probe(changes: dict[str, Any], expected: Probe | None) -> None:
    """Times have nanoseconds and an offset; malformed entries and earlier runs are absent."""
    plain = {"Start": "2024-05-06T07:08:18Z", "End": "2024-05-06T07:08:20Z", "ExitCode": 0}

    assert expected == details(inspected("healthy", 0, [plain | changes])).probe


@pytest.mark.parametrize("state", STATES)
def test_a_probe_only_while_running(state: str) -> None:
    """The log of a container that does not run is that of its last run."""
    found = inspected("unhealthy", 3, [entry(1)], Status=state)

    assert (state == "running") == (details(found).probe is not None)


@pytest.mark.parametrize("started", [None, "0001-01-01T00:00:00Z", "now"])
def test_a_probe_of_an_unknown_run(started: Any) -> None:
    """Without the time of the start, a probe belongs to no run."""
    assert details(inspected("healthy", 0, [entry(1)], StartedAt=started)).probe is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (TEST, Healthcheck(30, 30, 3)),
        (
            {
                "Test": ["CMD", "true"],
                "Interval": SECOND // 2,
                "Timeout": 2 * SECOND,
                "Retries": 4,
                "StartPeriod": 5 * SECOND,
            },
            Healthcheck(0.5, 2, 4),
        ),
        (TEST | {"Interval": "5s", "Timeout": None, "Retries": -1}, Healthcheck(30, 30, 3)),
        ({"Interval": SECOND}, Healthcheck(1, 30, 3)),
        (None, None),
        ([], None),
    ],
)
def test_settings(settings: Any, expected: Healthcheck | None) -> None:
    """Settings that are absent, 0 or malformed have Docker's defaults."""
    assert expected == details(inspected("starting", healthcheck=settings)).healthcheck


@pytest.mark.parametrize(("interval", "expected"), [({}, None), ({"Interval": SECOND}, 1)])
def test_settings_of_podman(interval: dict[str, int], expected: float | None) -> None:
    """Podman leaves out an interval that is disabled, and writes its defaults."""
    found = inspected("starting", healthcheck=TEST | interval, is_podman=True)

    assert Healthcheck(expected, 30, 3) == details(found).healthcheck


@pytest.mark.parametrize(
    ("settings", "has_one"),
    [
        (TEST, True),
        ({"Test": ["NONE"], "Interval": SECOND}, False),
        ({"Test": [], "Interval": SECOND}, False),
        ({"Interval": SECOND}, False),
    ],
)
def test_settings_without_health(settings: Any, has_one: bool) -> None:  # noqa: FBT001
    """Before its first start a container has settings, if there is a test, and no health."""
    answer = inspect({"Status": "created"}, Config={"Healthcheck": settings})

    assert has_one == (details(parse_inspect(answer)).healthcheck is not None)


@pytest.mark.parametrize(
    ("host_config", "expected"),
    [
        ({}, (None, None, None)),
        ({"Memory": 0, "NanoCpus": 0, "CpuQuota": 0, "PidsLimit": 0}, (None, None, None)),
        ({"Memory": -1, "CpuQuota": -1, "PidsLimit": -1}, (None, None, None)),
        ({"Memory": None, "NanoCpus": "1", "PidsLimit": []}, (None, None, None)),
        ({"Memory": 2**26, "NanoCpus": 15 * 10**8, "PidsLimit": 50}, (2**26, 1.5, 50)),
        ({"CpuQuota": 50_000}, (None, 0.5, None)),
        ({"CpuQuota": 50_000, "CpuPeriod": 0}, (None, 0.5, None)),
        ({"CpuQuota": 50_000, "CpuPeriod": 25_000}, (None, 2, None)),
        ({"CpuPeriod": 25_000}, (None, None, None)),
        ({"NanoCpus": 10**9, "CpuQuota": 50_000}, (None, 1, None)),
    ],
)
def test_limits(host_config: dict[str, Any], expected: tuple[float | None, ...]) -> None:
    """A limit of 0 or -1 is none. `--cpus` is in `NanoCpus`; a quota has a period."""
    found = details(parse_inspect(inspect({}, HostConfig=host_config)))

    assert expected == (found.memory_limit, found.cpu_limit, found.pids_limit)
