"""What an engine answers becomes a container, and nonsense becomes nothing that isn't so."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from docker_prom_exporter.booleans import parse_boolean
from docker_prom_exporter.containers import (
    HEALTH_STATUSES,
    LABEL,
    STATES,
    ContainerHealth,
    Row,
    is_watched,
    read_inspect,
    read_row,
)
from docker_prom_exporter.demo.engine import human_duration
from support.builders import container, details, inspect, old_row, row

UNKNOWN, STOPPED, ALIVE, UNHEALTHY, HEALTHY = ContainerHealth
YEAR = 365 * 86400
NO_NUMBERS: list[Any] = [None, True, "3", [3], {}, math.nan, math.inf, -math.inf, 10**400]
CONTAINER_ID = row()["Id"]

WHILE_RUNNING = {
    "none": ALIVE,
    "NONE": ALIVE,
    "": ALIVE,
    "starting": UNKNOWN,
    "healthy": HEALTHY,
    "unhealthy": UNHEALTHY,
    "splendid": UNKNOWN,
}


def read(answer: Any, *, health_listed: bool = True) -> Row:
    result = read_row(answer, health_listed=health_listed)
    assert result is not None
    return result


def health_of(answer: Any) -> ContainerHealth:
    return read(answer).container.health


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("status", WHILE_RUNNING)
def test_health_is_the_listed_one_while_running(state: str, status: str) -> None:
    """From API 1.52 on the list's `Health` counts, but only while the container runs."""
    expected = WHILE_RUNNING[status] if state == "running" else STOPPED

    assert expected == health_of(row(State=state, Health={"Status": status, "FailingStreak": 0}))


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("running", "Up 5 minutes", ALIVE),
        ("running", "Up Less than a second", ALIVE),
        ("running", "Up 5 minutes (healthy)", HEALTHY),
        ("running", "Up About an hour (unhealthy)", UNHEALTHY),
        ("running", "Up 1 second (health: starting)", UNKNOWN),
        ("running", "Up 5 minutes (splendid)", UNKNOWN),
        ("running", "Up 5 minutes (Healthy!)", UNKNOWN),
        ("running", "Up 3 seconds (Paused)", UNKNOWN),
        ("running", "Created (healthy)", UNKNOWN),
        ("running", "", UNKNOWN),
        ("running", None, UNKNOWN),
        ("paused", "Up 3 seconds (Paused)", STOPPED),
        ("paused", "Up 3 seconds (healthy)", STOPPED),
        ("created", "Created", STOPPED),
        ("dead", "Dead", STOPPED),
        ("removing", "Removal In Progress", STOPPED),
        ("exited", "Exited (1) 4 seconds ago", STOPPED),
        ("exited", "", STOPPED),
        ("restarting", "Restarting (1) 2 seconds ago", STOPPED),
    ],
)
def test_health_is_the_suffix_of_status_before_api_1_52(
    state: str, status: Any, expected: ContainerHealth
) -> None:
    """Without `Health` the suffix that every moby writes into `Status` counts."""
    assert expected == health_of(old_row(State=state, Status=status))


def test_listed_health_outdoes_the_suffix() -> None:
    """Where a row has both, `Health` is what the engine means."""
    both = row(Status="Up 5 minutes (healthy)", Health={"Status": "unhealthy"})

    assert UNHEALTHY == health_of(both)


@pytest.mark.parametrize("health", [None, {}, {"Status": None}, {"Status": ""}])
def test_suffix_counts_where_health_is_blank(health: Any) -> None:
    """A `Health` that says nothing leaves it to the suffix."""
    assert HEALTHY == health_of(row(Status="Up 5 minutes (healthy)", Health=health))


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (None, ALIVE),
        ({}, ALIVE),
        ({"Status": ""}, ALIVE),
        ({"Status": "healthy"}, HEALTHY),
        ({"Status": "unhealthy"}, UNHEALTHY),
        ({"Status": "starting"}, UNKNOWN),
        ({"Status": "reset"}, UNKNOWN),
        ({"Status": "stopped"}, UNKNOWN),
    ],
)
def test_health_comes_from_inspect_where_the_list_hides_it(health: Any, expected: ContainerHealth) -> None:
    """Podman's list never says health: unknown until inspect does."""
    hidden = read(old_row(Status="Up 5 minutes"), health_listed=False)
    told = hidden.with_health_of(read_inspect(inspect({"Health": health})))

    assert hidden.health_hidden
    assert UNKNOWN == hidden.container.health
    assert expected == told.health


def test_inspect_of_one_that_no_longer_runs_tells_no_health() -> None:
    """Between list and inspect it stopped, and its health there is the stale one."""
    hidden = read(old_row(), health_listed=False)
    stopped = read_inspect(inspect({"Status": "exited", "Health": {"Status": "healthy"}}))

    assert UNKNOWN == hidden.with_health_of(stopped).health


@pytest.mark.parametrize("state", sorted({*STATES} - {"running"}))
def test_no_health_is_hidden_of_one_that_does_not_run(state: str) -> None:
    """Podman's stopped containers need no inspect for their health."""
    stopped = read(old_row(State=state, Status=""), health_listed=False)

    assert not stopped.health_hidden
    assert STOPPED == stopped.container.health


def test_health_is_not_hidden_where_podman_lists_it() -> None:
    """The day Podman's list says health, it counts."""
    listed = read(row(Health={"Status": "healthy"}), health_listed=False)

    assert not listed.health_hidden
    assert HEALTHY == listed.container.health


@pytest.mark.parametrize("state", [None, "", 7, "melting", ["running"]])
def test_unknown_state_has_unknown_health(state: Any) -> None:
    """A state nobody knows is none, and neither stopped nor alive."""
    unknown = read(row(State=state, Health={"Status": "healthy"})).container

    assert ("", UNKNOWN) == (unknown.state, unknown.health)


@pytest.mark.parametrize(
    ("engines_state", "expected"),
    [
        ("Running", "running"),
        ("stopped", "exited"),
        ("stopping", "exited"),
        ("configured", "created"),
        ("initialized", "created"),
    ],
)
def test_other_words_for_states(engines_state: str, expected: str) -> None:
    """What Podman calls its states becomes Docker's words, in list and inspect."""
    assert expected == read(row(State=engines_state)).container.state
    assert expected == read_inspect(inspect({"Status": engines_state})).state


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["/web"], "web"),
        (["web"], "web"),
        (["/web", "/proxy/backend"], "web"),
        (["/proxy/backend", "/web"], "web"),
        (["/a/b", "/web", "/c/d"], "web"),
        (["/caf\ud800"], "caf?"),
        (["/proxy/backend"], "4c01db0b339c"),
        (["/", "", None, 7], "4c01db0b339c"),
        ([], "4c01db0b339c"),
        (None, "4c01db0b339c"),
        ("/web", "4c01db0b339c"),
    ],
)
def test_own_name(names: Any, expected: str) -> None:
    """The own name is the one with one slash, whatever legacy links add; without one, it's the short id."""
    assert expected == read(row(Names=names)).container.name


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        "row",
        [],
        {},
        *(row(Id=bad) for bad in (None, "", 7, "/etc", "a/b", "a b", "a\n", "..", "ü", "\ud800", "a?b")),
    ],
)
def test_row_without_an_id_is_none(answer: Any) -> None:
    """What can't be asked for, and could lead elsewhere in a path, is no container."""
    assert read_row(answer, health_listed=True) is None


def test_row_becomes_a_container() -> None:
    """All that the list says is there, id and image as they are."""
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web", LABEL: "TRUE"}
    expected = container(
        id=CONTAINER_ID, compose_project="shop", compose_service="web", health_status="healthy"
    )

    read_one = read(row(Labels=labels, Health={"Status": "healthy", "FailingStreak": 0}))

    assert expected == read_one.container
    assert "TRUE" == read_one.label


@pytest.mark.parametrize("labels", [None, [], "a=b", {}, {LABEL: None}])
def test_without_labels(labels: Any) -> None:
    """`Labels` may be null, and is then as empty."""
    read_one = read(row(Labels=labels))

    assert read_one.label is None
    assert ("", "") == (read_one.container.compose_project, read_one.container.compose_service)


def test_lone_surrogates_are_replaced() -> None:
    """JSON can say what UTF-8 can't; every text that goes out can be encoded."""
    labels = {
        "com.docker.compose.project": "\ud800",
        "com.docker.compose.service": "a\udfff",
        LABEL: "\ud800",
    }
    read_one = read(row(Image="img\ud800", Labels=labels))

    assert ("img?", "?", "a?", "?") == (
        read_one.container.image,
        read_one.container.compose_project,
        read_one.container.compose_service,
        read_one.label,
    )


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_numbers_that_are_none(number: Any) -> None:
    """What is no finite number is left out, in the list and in inspect."""
    ended = inspect(
        {"Status": "exited", "ExitCode": number, "Health": {"Status": "healthy", "FailingStreak": number}},
        RestartCount=number,
    )
    read_details = read_inspect(ended)

    assert read(row(Created=number)).container.created is None
    assert (0, None, None) == (read_details.restarts, read_details.exit_code, read_details.failing_streak)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-06T07:08:09Z", 1714979289),
        ("2024-05-06T07:08:09.5Z", 1714979289.5),
        ("2024-05-06T07:08:09.123456789Z", 1714979289.123456),
        ("2024-05-06T09:08:09.123456789+02:00", 1714979289.123456),
        ("2024-05-06T00:08:09-07:00", 1714979289),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("1969-12-31T23:59:59Z", None),
        ("1970-01-01T00:00:00Z", None),
        ("10000-01-01T00:00:00Z", None),
        ("yesterday", None),
        ("\ud800", None),
        ("", None),
        (None, None),
        (1714979289, None),
    ],
)
def test_timestamps(text: Any, expected: float | None) -> None:
    """Times are RFC 3339 with nanoseconds and any offset; Go's zero time and nonsense are none."""
    read_details = read_inspect(inspect({"StartedAt": text, "FinishedAt": text}))

    assert (expected, expected) == (read_details.started, read_details.finished)


@pytest.mark.parametrize("flag", [None, False, 1, "true", [True]])
def test_only_true_is_out_of_memory(flag: Any) -> None:
    """What is no boolean kills nobody."""
    assert read_inspect(inspect({"OOMKilled": flag})).oom_killed is False


@pytest.mark.parametrize("state", STATES)
def test_exit_code_is_of_the_ended(state: str) -> None:
    """Only what exited or is dead has an exit code; moby says 0 for the others."""
    expected = 3 if state in ("exited", "dead") else None

    assert expected == read_inspect(inspect({"Status": state, "ExitCode": 3})).exit_code


def test_inspect_becomes_details() -> None:
    """All that only inspect says is there."""
    answer = inspect(
        {
            "Status": "exited",
            "Health": {"Status": "unhealthy", "FailingStreak": 4},
            "StartedAt": "2024-05-06T07:08:09Z",
            "FinishedAt": "2024-05-06T07:08:10Z",
            "ExitCode": 137,
            "OOMKilled": True,
        },
        RestartCount=2,
    )
    expected = details(
        state="exited",
        health_status="unhealthy",
        started=1714979289,
        finished=1714979290,
        restarts=2,
        exit_code=137,
        oom_killed=True,
        failing_streak=4,
    )

    assert expected == read_inspect(answer)


@pytest.mark.parametrize("health", [None, {}, {"Status": "none", "FailingStreak": 2}])
def test_no_streak_without_a_healthcheck(health: Any) -> None:
    """The engine says 0 there, which would read as a healthcheck that passes."""
    assert read_inspect(inspect({"Health": health})).failing_streak is None


@pytest.mark.parametrize("health", [7, "x", [], {"Status": 5}, {"Status": "odd"}, {"Status": ["healthy"]}])
def test_a_health_of_nonsense_is_unknown(health: Any) -> None:
    """Neither a verdict nor the lack of a healthcheck can be read from it, in an inspect or in a row."""
    found = read_row(row(Health=health), health_listed=True)

    assert read_inspect(inspect({"Health": health})).health_status is None
    assert found is not None
    assert ContainerHealth.UNKNOWN == found.container.health


def test_restarts_are_never_negative() -> None:
    """A counter that is would be none."""
    assert 0 == read_inspect(inspect({}, RestartCount=-3)).restarts


@pytest.mark.parametrize("answer", [None, 7, "x", [], {}, {"State": []}])
def test_inspect_of_nonsense_is_empty(answer: Any) -> None:
    """Nonsense is left out, and no state means no health either."""
    expected = details(state="", started=None)

    assert expected == read_inspect(answer)
    assert UNKNOWN == read(old_row(), health_listed=False).with_health_of(read_inspect(answer)).health


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["true", "TRUE", "True", "1", "yes", "YES", "on", " on "], True),
        (["false", "False", "0", "no", "NO", "off", "oFF\n"], False),
        (["", "maybe", "2", "y", "truefalse", "ja"], None),
    ],
)
def test_booleans(texts: list[str], expected: bool | None) -> None:  # noqa: FBT001  it's the table's column
    """Four words for each, in any case; all else is none."""
    assert {expected} == {parse_boolean(text) for text in texts}


@pytest.mark.parametrize(
    ("label", "when_only_labelled", "otherwise"),
    [
        ("true", True, True),
        ("Yes", True, True),
        ("false", False, False),
        ("OFF", False, False),
        ("maybe", False, True),
        ("", False, True),
        (None, False, True),
    ],
)
def test_watched(label: str | None, when_only_labelled: bool, otherwise: bool) -> None:  # noqa: FBT001
    """True is always watched, false never; without either the filter decides."""
    watched = is_watched(label, only_labelled=True), is_watched(label, only_labelled=False)

    assert (when_only_labelled, otherwise) == watched


@pytest.mark.parametrize("label", [True, 1, ["true"], {}])
def test_label_that_is_no_text_is_no_boolean(label: Any) -> None:
    """A value Docker can't have is as one that nobody can read."""
    assert "" == read(row(Labels={LABEL: label})).label


def min_age(status: str) -> float:
    return read(row(Status=status)).min_age


@pytest.mark.parametrize(
    ("wording", "least"),
    [
        ("Less than a second", 0),
        ("1 second", 1),
        ("59 seconds", 59),
        ("About a minute", 60),
        ("59 minutes", 59 * 60),
        ("About an hour", 3600),
        ("2 hours", 1.5 * 3600),
        ("47 hours", 46.5 * 3600),
        ("2 days", 47.5 * 3600),
        ("2 weeks", 14 * 86400 - 1800),
        ("2 months", 60 * 86400 - 1800),
        ("1 years", YEAR - 1800),
        ("3 years", 3 * YEAR - 1800),
    ],
)
@pytest.mark.parametrize("status", ["Up {}", "Up {} (healthy)", "Up {} (Paused)", "Exited (7) {} ago"])
def test_age_of_every_wording(status: str, wording: str, least: float) -> None:
    """Each wording of go-units stands for what it cuts off, and half an hour less where it rounds."""
    assert least == min_age(status.format(wording))


@pytest.mark.parametrize("status", ["", "Up a while", "Up 1e9 years", "Exited (0)"])
def test_no_age(status: str) -> None:
    """Where `Status` tells no age, it may be none."""
    assert 0 == min_age(status)


@pytest.mark.parametrize(
    ("state", "status"), [("created", "Created"), ("removing", "Removal In Progress"), ("dead", "Dead")]
)
def test_states_that_last(state: str, status: str) -> None:
    """No start or stop leads back to these, so that the same row is proof that there was none."""
    assert math.inf == read(row(State=state, Status=status)).min_age


def near_each_unit() -> st.SearchStrategy[float]:
    """Ages of all sizes, above all those close to where the wording changes."""
    changes = st.sampled_from([0, 1, 60, 3600, 48 * 3600, 14 * 86400, 60 * 86400, 2 * YEAR])
    near = st.builds(lambda change, off: max(0.0, change + off), changes, st.floats(-3700, 3700))
    return near | st.floats(0, 100 * YEAR)


@given(age=near_each_unit(), status=st.sampled_from(["Up {}", "Up {} (healthy)", "Restarting (1) {} ago"]))
def test_the_true_age_is_no_less(age: float, status: str) -> None:
    """Whatever the age, moby's wording of it leads to a bound below it, and not far below."""
    least = min_age(status.format(human_duration(age)))

    assert least <= age <= 2 * least + 3600


@given(one=near_each_unit(), other=near_each_unit())
def test_fingerprint_is_without_the_age(one: float, other: float) -> None:
    """A row that only grew older is the row it was."""
    for status in ("Up {}", "Up {} (unhealthy)", "Exited (1) {} ago"):
        rows = [read(row(Status=status.format(human_duration(age)))) for age in (one, other)]

        assert rows[0].fingerprint == rows[1].fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row(), row(State="paused")),
        (row(), row(Status="Up 5 minutes (Paused)")),
        (old_row(Status="Up 5 minutes"), old_row(Status="Up 5 minutes (healthy)")),
        (old_row(Status="Up 5 minutes (unhealthy)"), old_row(Status="Up 5 minutes (healthy)")),
        (row(Health={"Status": "healthy"}), row(Health={"Status": "unhealthy"})),
        (
            row(Health={"Status": "unhealthy", "FailingStreak": 3}),
            row(Health={"Status": "unhealthy", "FailingStreak": 4}),
        ),
        (row(Status="Exited (1) 5 seconds ago"), row(Status="Exited (2) 5 seconds ago")),
        (row(Status="Exited (1) 5 seconds ago"), row(Status="Restarting (1) 5 seconds ago")),
    ],
)
def test_fingerprint_differs(one: dict[str, Any], other: dict[str, Any]) -> None:
    """State, health, streak and exit code are what an inspect's answer depends on."""
    assert read(one).fingerprint != read(other).fingerprint


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXT,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=4),
    max_leaves=8,
)
STATE = st.sampled_from([*STATES, "Running", "stopped", "melting"])
HEALTH = st.sampled_from([*HEALTH_STATUSES, "HEALTHY", "", "reset", "splendid"])


def answers(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with some of these fields, each as it should be or anything at all; or no such object."""
    spoilt = {name: values | JSON for name, values in fields.items()}
    return st.fixed_dictionaries({}, optional=spoilt) | JSON


ROWS = answers(
    Names=st.lists(TEXT.map("/{}".format) | JSON, max_size=3),
    Image=TEXT,
    Created=st.integers(0, 2**40),
    Labels=answers(**{LABEL: st.sampled_from(["true", "false"]), "com.docker.compose.project": TEXT}),
    State=STATE,
    Status=st.sampled_from(
        ["", "Up 5 minutes", "Up 5 minutes (healthy)", "(healthy)", "Exited (0) (healthy)"]
    ),
    Health=answers(Status=HEALTH, FailingStreak=st.integers(0, 9)),
)
INSPECTS = answers(
    RestartCount=st.integers(0, 9),
    State=answers(
        Status=STATE,
        Health=answers(Status=HEALTH, FailingStreak=st.integers(0, 9)),
        StartedAt=TEXT | st.datetimes().map("{:%Y-%m-%dT%H:%M:%S}Z".format),
        ExitCode=st.integers(0, 255),
        OOMKilled=st.booleans(),
    ),
)


def at(answer: Any, *path: str) -> str:
    """Return the lower-case text at the end of a path, or none where there is no such text."""
    for key in path:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer.lower() if isinstance(answer, str) else ""


@given(answer=ROWS, container_id=st.just(CONTAINER_ID) | JSON, health_listed=st.booleans())
def test_any_row_can_be_read(answer: Any, container_id: Any, *, health_listed: bool) -> None:
    """Nothing an engine lists raises, and nothing is healthy that isn't said to run and be healthy."""
    named = answer | {"Id": container_id} if isinstance(answer, dict) else answer
    read_one = read_row(named, health_listed=health_listed)
    if read_one is None:
        return
    found = read_one.container
    says_healthy = at(answer, "Health", "Status") == "healthy" or at(answer, "Status").endswith("(healthy)")

    assert found.health != HEALTHY or (at(answer, "State") == "running" and says_healthy)
    assert found.state in ("", *STATES)
    assert found.health_status in (None, *HEALTH_STATUSES)
    assert found.created is None or math.isfinite(found.created)
    assert f"{found.name}{found.image}{found.compose_project}{found.compose_service}".encode()
    assert found.name
    assert 0 <= read_one.min_age


@given(answer=INSPECTS)
@example(inspect({"Health": {"Status": "healthy"}}))
@example(inspect({"Status": "paused", "Health": {"Status": "healthy"}}))
def test_any_inspect_can_be_read(answer: Any) -> None:
    """Nothing an engine says of a container raises, and health is what it says while it runs."""
    found = read_inspect(answer)
    health = read(old_row(), health_listed=False).with_health_of(found).health
    says_healthy = at(answer, "State", "Health", "Status") == "healthy"

    assert (health == HEALTHY) == (at(answer, "State", "Status") == "running" and says_healthy)
    assert health == UNKNOWN or at(answer, "State", "Status") == "running"
    assert found.state in ("", *STATES)
    assert all(time is None or 0 < time < math.inf for time in (found.started, found.finished))
    assert found.exit_code is None or found.state in ("exited", "dead")
