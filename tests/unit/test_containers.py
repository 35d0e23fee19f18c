"""Rows and inspect answers become containers; malformed values become absent or unknown."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from docker_prom_exporter.containers import (
    HEALTH_STATUSES,
    LABEL,
    RESTART_POLICIES,
    STATES,
    Container,
    ContainerHealth,
    Details,
    Row,
    parse_inspect,
    parse_row,
    stores_images_in_containerd,
)
from docker_prom_exporter.demo import SimulatedContainer
from support.builders import CONTAINER_ID, container, details, inspect, old_row, row
from support.malformed import INSPECTS, ROWS
from support.simulated import Simulation
from support.wordings import human_duration

UNKNOWN, STOPPED, ALIVE, UNHEALTHY, HEALTHY = ContainerHealth
YEAR = 365 * 86400
SECOND = 10**9
ENDED = ("exited", "dead", "restarting")
NOT_ENDED = sorted({*STATES} - {*ENDED})
NOT_NUMBERS: list[Any] = [None, True, "3", [3], {}, math.nan, math.inf, -math.inf, 10**400]

WHILE_RUNNING = {
    "none": ALIVE,
    "NONE": ALIVE,
    "": ALIVE,
    "starting": UNKNOWN,
    "reset": UNKNOWN,
    "stopped": UNKNOWN,
    "splendid": UNKNOWN,
    "healthy": HEALTHY,
    "unhealthy": UNHEALTHY,
}


def read(answer: Any, *label_keys: str, health_listed: bool = True) -> Container:
    """Read a row, or an inspect answer, which has an object in its `State`."""
    if isinstance(answer["State"], dict):
        found = parse_inspect(answer, label_keys)
    else:
        row = parse_row(answer, label_keys, health_listed=health_listed)
        found = row and row.container
    assert found is not None
    return found


def listed(answer: Any) -> Row:
    found = parse_row(answer)
    assert found is not None
    return found


def detailed(answer: Any) -> Details:
    found = read(answer).details
    assert found is not None
    return found


@pytest.mark.parametrize("status", WHILE_RUNNING)
def test_health_counts_while_running(status: str) -> None:
    """The `Health` of a row, from API 1.52 on, and of an inspect counts only while the container runs."""
    health = {"Status": status, "FailingStreak": 3}
    expected = {
        state: WHILE_RUNNING[status] if state == "running" else STOPPED for state in STATES
    }

    assert expected == {
        state: read(row(State=state, Health=health)).health for state in STATES
    }
    assert expected == {
        state: read(inspect({"Status": state, "Health": health})).health for state in STATES
    }


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
    """Without `Health`, a row's health is the suffix that every version of moby writes into `Status`."""
    assert expected == read(old_row(State=state, Status=status)).health


def test_listed_health_overrides_the_suffix() -> None:
    """If a row has both, `Health` takes precedence over the suffix of `Status`."""
    both = row(Status="Up 5 minutes (healthy)", Health={"Status": "unhealthy"})

    assert UNHEALTHY == read(both).health


@pytest.mark.parametrize("health", [None, {}, {"Status": None}, {"Status": ""}])
def test_a_blank_health(health: Any) -> None:
    """If `Health` is blank, a row's health is the suffix of `Status`, and an inspect shows no healthcheck."""
    assert HEALTHY == read(row(Status="Up 5 minutes (healthy)", Health=health)).health
    assert ALIVE == read(inspect({"Health": health})).health


@pytest.mark.parametrize("health", [7, "x", [], {"Status": 5}, {"Status": ["healthy"]}])
def test_a_malformed_health(health: Any) -> None:
    """If `Health` is malformed, the container's health is unknown."""
    assert UNKNOWN == read(row(Health=health)).health
    assert UNKNOWN == read(inspect({"Health": health})).health


@pytest.mark.parametrize("state", STATES)
def test_health_where_the_list_has_none(state: str) -> None:
    """If the list has no health, as on Podman, the health of a running container is unknown."""
    found = read(old_row(State=state, Status="Up 5 minutes"), health_listed=False)

    assert found.health_status is None
    assert (UNKNOWN if state == "running" else STOPPED) == found.health


def test_health_counts_where_podman_lists_it() -> None:
    """If a row of Podman has a `Health`, that is the container's health."""
    assert HEALTHY == read(row(Health={"Status": "healthy"}), health_listed=False).health


@pytest.mark.parametrize("state", [None, "", 7, "melting", ["running"]])
def test_unknown_state_has_unknown_health(state: Any) -> None:
    """A container in an unknown state has an empty state and unknown health."""
    for answer in (
        row(State=state, Health={"Status": "healthy"}),
        inspect({"Status": state, "Health": {"Status": "healthy"}}),
    ):
        assert ("", UNKNOWN) == (read(answer).state, read(answer).health)


@pytest.mark.parametrize(
    ("engines_state", "expected"),
    [
        ("Running", "running"),
        ("stopped", "exited"),
        ("stopping", "running"),
        ("configured", "created"),
        ("initialized", "created"),
    ],
)
def test_other_words_for_states(engines_state: str, expected: str) -> None:
    """Podman's names of states become Docker's, in a list and in an inspect."""
    assert expected == read(row(State=engines_state)).state
    assert expected == read(inspect({"Status": engines_state})).state


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
    """The own name is the entry with one slash, as legacy links have two; the default is the short id."""
    assert expected == read(row(Names=names)).name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("/web", "web"), ("web", "web"), ("", "4c01db0b339c"), (7, "4c01db0b339c")],
)
def test_name_of_an_inspect(name: Any, expected: str) -> None:
    """An inspect has a single name; if it is unusable, the container's name is the short id."""
    assert expected == read(inspect({}, Name=name)).name


@pytest.mark.parametrize(
    "container_id", [None, "", 7, "/etc", "a/b", "a b", "a\n", "..", "ü", "\ud800", "a?b"]
)
def test_invalid_ids(container_id: Any) -> None:
    """An answer is not a container if its id is invalid, for example one that changes a request's path."""
    assert parse_row(row(Id=container_id)) is None
    assert parse_inspect(inspect({}, Id=container_id)) is None


LABELS = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "web",
    LABEL: "TRUE",
}
LABELLED = container(
    id=CONTAINER_ID,
    compose_project="shop",
    compose_service="web",
    health_status="healthy",
    watch_label="TRUE",
)


def test_row_becomes_a_container() -> None:
    """A row becomes a container without details."""
    answer = row(Labels=LABELS, Health={"Status": "healthy", "FailingStreak": 0})

    assert LABELLED == read(answer)


def test_without_verdict() -> None:
    """`without_verdict` removes the state, health and details, and keeps the rest."""
    before = LABELLED._replace(details=details())
    expected = LABELLED._replace(state="", health_status=None)

    assert expected == before.without_verdict()
    assert UNKNOWN == before.without_verdict().health


def labelled(labels: Any, *label_keys: str) -> list[Container]:
    """Read a row and an inspect answer of a container with these labels."""
    config = {"Image": "nginx:1.27", "Labels": labels}
    return [
        read(answer, *label_keys)
        for answer in (row(Labels=labels), inspect({}, Config=config))
    ]


@pytest.mark.parametrize("labels", [None, [], "a=b", {}, {LABEL: None}])
def test_without_labels(labels: Any) -> None:
    """`Labels` that are null, empty or malformed count as no labels."""
    for found in labelled(labels, "team"):
        assert found.watch_label is None
        assert ("", "", ("",)) == (found.compose_project, found.compose_service, found.labels)


def test_chosen_labels() -> None:
    """Chosen labels are in the order in which the user named them, and empty if the container lacks them."""
    for found in labelled(
        {"team": "payments", "com.example.Tier": "1\ud800"}, "com.example.Tier", "x", "team"
    ):
        assert ("1?", "", "payments") == found.labels


def test_lone_surrogates_are_replaced() -> None:
    """Lone surrogates, which JSON allows but UTF-8 does not, become question marks."""
    labels = {
        "com.docker.compose.project": "\ud800",
        "com.docker.compose.service": "a\udfff",
        LABEL: "\ud800",
    }
    found = read(row(Image="img\ud800", Labels=labels))

    assert ("img?", "?", "a?", "?") == (
        found.image,
        found.compose_project,
        found.compose_service,
        found.watch_label,
    )


@pytest.mark.parametrize("label", [True, 1, ["true"], {}])
def test_a_watch_label_that_is_not_a_string(label: Any) -> None:
    """A watch label that is not a string is empty, which is not a boolean."""
    assert ["", ""] == [found.watch_label for found in labelled({LABEL: label})]


@pytest.mark.parametrize("number", NOT_NUMBERS)
def test_values_that_are_not_numbers(number: Any) -> None:
    """A value that is not a finite number counts as absent, in a list and in an inspect."""
    ended = detailed(
        inspect(
            {
                "Status": "exited",
                "ExitCode": number,
                "Health": {"Status": "healthy", "FailingStreak": number},
            },
            RestartCount=number,
        )
    )

    assert read(row(Created=number)).created is None
    assert (0, None, None) == (ended.restarts, ended.exit_code, ended.failing_streak)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-06T07:08:09Z", 1714979289 * SECOND),
        ("2024-05-06T07:08:09.5Z", 1714979289 * SECOND + 500_000_000),
        ("2024-05-06T07:08:09.000000001Z", 1714979289 * SECOND + 1),
        ("2024-05-06T09:08:09.123456789+02:00", 1714979289 * SECOND + 123_456_789),
        ("2024-05-06T00:08:09-07:00", 1714979289 * SECOND),
        ("2024-05-06T07:08:09.1234567890Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("1969-12-31T23:59:59Z", None),
        ("1970-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:60Z", None),
        ("10000-01-01T00:00:00Z", None),
        ("yesterday", None),
        ("\ud800", None),
        ("", None),
        (None, None),
        (1714979289, None),
    ],
)
def test_times(text: Any, expected: int | None) -> None:
    """Times are RFC 3339 with at most nanoseconds; malformed times and times before 1970 are absent."""
    found = read(inspect({"StartedAt": text, "FinishedAt": text}, Created=text))
    seconds = None if expected is None else expected // 1000 / 1_000_000

    assert expected == found.created_ns
    assert found.details is not None
    assert (seconds, seconds) == (found.details.started, found.details.finished)


def test_order_of_creation() -> None:
    """Times are compared as numbers: as texts their order is wrong, because Go omits trailing zeros."""
    second = "2024-05-06T07:08:09"
    texts = [
        f"{second}Z",
        *(f"{second}.{fraction}Z" for fraction in ("09", "1", "100000001", "11", "2")),
    ]
    created = [read(inspect({}, Created=text)).created_ns or 0 for text in texts]

    assert sorted(texts) != texts
    assert sorted(set(created)) == created
    assert {1714979289} == {read(inspect({}, Created=text)).created for text in texts}


@pytest.mark.parametrize("seconds", [0, -5, 0.5])
def test_a_malformed_creation_of_a_row(seconds: float) -> None:
    """`Created` of a row is absent unless it is a positive whole number."""
    assert not read(row(Created=seconds)).created


def policy(value: Any) -> dict[str, Any]:
    return inspect({}, HostConfig={"RestartPolicy": value})


DETAILS: list[tuple[str, Any, dict[str, Any]]] = [
    # A counter can't be negative.
    ("restarts", 0, inspect({}, RestartCount=-3)),
    # moby has no policy in place of `no`; an unknown one is absent.
    *(("restart_policy", name, policy({"Name": name})) for name in RESTART_POLICIES),
    ("restart_policy", "no", policy({"Name": ""})),
    ("restart_policy", "no", policy(None)),
    ("restart_policy", "no", inspect({}, HostConfig=None)),
    ("restart_policy", None, policy({"Name": "sometimes"})),
    ("restart_policy", None, policy({"Name": ["always"]})),
    # Only ended containers have an exit code; moby reports 0 for all others.
    *(("exit_code", 3, inspect({"Status": each, "ExitCode": 3})) for each in ENDED),
    *(("exit_code", None, inspect({"Status": each, "ExitCode": 3})) for each in NOT_ENDED),
    # Only a text shows that the last start failed.
    ("start_failed", True, inspect({"Error": "no such file"})),
    *(("start_failed", False, inspect({"Error": error})) for error in ("", None, 7)),
    # Any value other than true counts as false.
    *(
        ("oom_killed", False, inspect({"OOMKilled": flag}))
        for flag in (None, 1, "true", [True])
    ),
]


@pytest.mark.parametrize(("field", "expected", "answer"), DETAILS)
def test_a_detail(field: str, expected: Any, answer: dict[str, Any]) -> None:
    """A detail that is missing or malformed has a default, or is absent."""
    assert expected == getattr(detailed(answer), field)
    assert "no such file" not in repr(read(answer))  # the text of an error is not kept


@pytest.mark.parametrize("health", [None, {}, {"Status": "none", "FailingStreak": 2}])
def test_no_streak_without_a_healthcheck(health: Any) -> None:
    """Without a healthcheck the failing streak is absent: 0 would mean a healthcheck that passes."""
    assert detailed(inspect({"Health": health})).failing_streak is None
    assert listed(row(Health=health)).failing_streak is None


@pytest.mark.parametrize("state", [None, [], 7])
def test_an_inspect_without_a_state(state: Any) -> None:
    """An inspect with a malformed `State` gives an empty state, unknown health and no details."""
    found = read(inspect({}, State=state))

    assert ("", UNKNOWN, None) == (found.state, found.health, found.details)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"Driver": "overlayfs"}, True),
        ({"Driver": "overlay2"}, False),
        ({}, False),
        ([], False),
        (None, False),
    ],
)
def test_image_store(answer: Any, expected: bool) -> None:  # noqa: FBT001  a column of the table
    """The name of the driver shows the containerd image store."""
    assert expected == stores_images_in_containerd(answer)


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
    """A container labelled true is watched, one labelled false is not; otherwise the filter decides."""
    one = container(watch_label=label)

    assert when_only_labelled == one.is_watched(only_labelled=True)
    assert otherwise == one.is_watched(only_labelled=False)


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
@pytest.mark.parametrize(
    "status", ["Up {}", "Up {} (healthy)", "Up {} (Paused)", "Exited (7) {} ago"]
)
def test_age_of_every_wording(status: str, wording: str, least: float) -> None:
    """The minimum age is the shortest age in go-units' wording, less half an hour if the wording rounds."""
    assert least == listed(row(Status=status.format(wording))).min_age


@pytest.mark.parametrize(
    ("state", "status", "least"),
    [
        ("running", "", 0),
        ("running", "Up a while", 0),
        ("running", "Up 1e9 years", 0),
        ("exited", "Exited (0)", 0),
        ("created", "Created", math.inf),
        ("removing", "Removal In Progress", math.inf),
        ("dead", "Dead", math.inf),
    ],
)
def test_no_age(state: str, status: str, least: float) -> None:
    """Without an age the minimum is 0, or infinite in the states in which no container restarts."""
    assert least == listed(row(State=state, Status=status)).min_age


def near_each_unit() -> st.SearchStrategy[float]:
    """Return ages of all sizes, many of them close to where the wording changes."""
    changes = st.sampled_from([0, 1, 60, 3600, 48 * 3600, 14 * 86400, 60 * 86400, 2 * YEAR])
    near = st.builds(
        lambda change, off: max(0.0, change + off), changes, st.floats(-3700, 3700)
    )
    return near | st.floats(0, 100 * YEAR)


@given(
    age=near_each_unit(),
    status=st.sampled_from(["Up {}", "Up {} (healthy)", "Restarting (1) {} ago"]),
)
def test_the_minimum_age(age: float, status: str) -> None:
    """For any age, the minimum age read from moby's wording is not above it, and not far below."""
    least = listed(row(Status=status.format(human_duration(age)))).min_age

    assert least <= age <= 2 * least + 3600


@given(one=near_each_unit(), other=near_each_unit())
def test_a_row_that_only_grew_older(one: float, other: float) -> None:
    """A row that only grew older is equal to the earlier one, except for the minimum age."""
    for status in ("Up {}", "Up {} (unhealthy)", "Exited (1) {} ago"):
        rows = [
            listed(row(Status=status.format(human_duration(age))))._replace(min_age=0)
            for age in (one, other)
        ]

        assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row(), row(State="paused")),
        (row(), row(Status="Up 5 minutes (Paused)")),
        (old_row(Status="Up 5 minutes"), old_row(Status="Up 5 minutes (healthy)")),
        (old_row(Status="Up 5 minutes (unhealthy)"), old_row(Status="Up 5 minutes (healthy)")),
        (row(Health={"Status": "healthy"}), row(Health={"Status": "unhealthy"})),
        (row(Status="Exited (1) 5 seconds ago"), row(Status="Exited (2) 5 seconds ago")),
        (row(Status="Exited (1) 5 seconds ago"), row(Status="Restarting (1) 5 seconds ago")),
    ],
)
def test_a_row_that_changed(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Rows are unequal if state, health or exit code differ, which an inspect's answer depends on."""
    keys = [(found.container, found.summary) for found in (listed(one), listed(other))]

    assert keys[0] != keys[1]


def test_streak_of_a_row() -> None:
    """A row has a failing streak only from API 1.52 on."""
    failing = {"Status": "unhealthy", "FailingStreak": 4}

    assert 4 == listed(row(Health=failing)).failing_streak
    assert listed(old_row(Status="Up 5 minutes (unhealthy)")).failing_streak is None


def test_a_row_whose_image_was_looked_up() -> None:
    """`ImageManifestDescriptor` shows that the engine looks up the image of each listed container."""
    assert listed(row(ImageManifestDescriptor={"digest": "sha256:0"})).described_image
    assert not listed(row()).described_image


def at(answer: Any, *path: str) -> str:
    """Return the lower-case text at the end of a path, or an empty text if there is none."""
    for key in path:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer.lower() if isinstance(answer, str) else ""


def assert_exportable(found: Container) -> None:
    """Assert that a container has a name, a known state and health, and texts that UTF-8 can encode."""
    compose = found.compose_project + found.compose_service

    assert found.name
    assert (
        f"{found.name}{found.image}{found.image_id}{compose}{''.join(found.labels)}".encode()
    )
    assert found.state in ("", *STATES)
    assert found.health_status in (None, *HEALTH_STATUSES)
    assert found.created is None or found.created >= 0


@given(answer=ROWS, health_listed=st.booleans())
@example(answer=row(Health={"Status": "healthy"}), health_listed=True)
def test_any_row_can_be_read(answer: Any, *, health_listed: bool) -> None:
    """No row raises an error, and a container is healthy only if its row says that it runs and is healthy."""
    found = parse_row(answer, ("team",), health_listed=health_listed)
    if found is None:
        return
    says_healthy = at(answer, "Health", "Status") == "healthy" or at(
        answer, "Status"
    ).endswith("(healthy)")

    assert_exportable(found.container)
    assert found.container.health != HEALTHY or (
        at(answer, "State") == "running" and says_healthy
    )
    assert found.min_age >= 0


def limits(of: Details) -> tuple[float | None, ...]:
    """Return the limits of a container, and the settings of its healthcheck above 0."""
    check = of.healthcheck
    numbers = (check.interval, check.timeout, check.retries) if check else ()
    return of.memory_limit, of.cpu_limit, of.pids_limit, *numbers


@given(answer=INSPECTS, is_podman=st.booleans())
@example(answer=inspect({"Health": {"Status": "healthy"}}), is_podman=True)
@example(
    answer=inspect({"Status": "paused", "Health": {"Status": "healthy"}}), is_podman=False
)
def test_any_inspect_can_be_read(answer: Any, *, is_podman: bool) -> None:
    """No inspect raises an error, and a container is healthy only if it says so while it runs.

    Where it says so, only a probe that is too old stands against it.
    """
    found = parse_inspect(answer, ("team",), now=1714979999, is_podman=is_podman)
    if found is None:
        return
    says_healthy = at(answer, "State", "Health", "Status") == "healthy"

    assert_exportable(found)
    assert (at(answer, "State", "Status") == "running" and says_healthy) == (
        found.health == HEALTHY
        or (found.doubt == "stalled" and found.health_status == "healthy")
    )
    assert found.doubt is None or found.health == UNKNOWN
    if found.details is not None:
        assert all(
            0 < each < math.inf
            for each in (found.details.started, found.details.finished)
            if each
        )
        assert found.details.exit_code is None or found.state in (
            "exited",
            "dead",
            "restarting",
        )
        assert found.details.restart_policy in (None, *RESTART_POLICIES)
        assert all(
            0 < limit < math.inf for limit in limits(found.details) if limit is not None
        )
        assert found.details.probe is None or found.details.probe.duration >= 0


TIMES = st.integers(1, 2**34).map(lambda eighths: eighths / 8)
SIMULATED = st.builds(
    SimulatedContainer,
    name=st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8),
    state=st.sampled_from(STATES),
    health=st.sampled_from([None, "starting", "healthy", "unhealthy"]),
    failing_streak=st.integers(0, 9),
    image=st.text(st.characters(codec="utf-8"), max_size=8),
    restart_policy=st.sampled_from(RESTART_POLICIES),
    labels=st.dictionaries(
        st.sampled_from([LABEL, "team", "com.docker.compose.service"]), st.text(max_size=5)
    ),
    created=TIMES,
    started=TIMES,
    finished=TIMES,
    restarts=st.integers(0, 9),
    exit_code=st.integers(0, 255),
    oom_killed=st.booleans(),
)
GENERATIONS = [
    Simulation(Path(), api_version="1.41"),
    Simulation(Path(), api_version="1.45"),
    Simulation(Path(), api_version="1.52"),
    Simulation(Path(), podman=True),
]


def shown_by_both(found: Container, *, health_listed: bool = True) -> Container:
    """Remove what only an inspect shows, as the health of a container that does not run."""
    created_ns = None if found.created is None else found.created * SECOND
    verdict = found.health_status if found.running and health_listed else None
    return found._replace(
        details=None, created_ns=created_ns, health_status=verdict, doubt=None
    )


@given(simulated=SIMULATED)
@example(SimulatedContainer("web", created=1714979289.999999, health="healthy"))
def test_row_and_inspect_of_a_container_agree(simulated: SimulatedContainer) -> None:
    """On every engine, a row and an inspect of a container agree in everything that both show."""
    inspected = read(simulated.inspect(), "team")
    for engine in GENERATIONS:
        health_listed = not engine.podman
        of_row = read(engine.rows([simulated])[0], "team", health_listed=health_listed)

        assert inspected.details is not None
        assert shown_by_both(inspected, health_listed=health_listed) == shown_by_both(of_row)
        assert of_row.created_ns == shown_by_both(inspected).created_ns


@pytest.mark.parametrize(
    ("key", "similar"),
    [
        (LABEL.replace("metric.", "metrics."), True),
        (LABEL.replace("container_health", "container-health"), True),
        (LABEL.replace("prometheus", "prom"), True),
        (LABEL.replace(".metric", ""), True),
        (LABEL.upper(), True),
        (LABEL + ".", True),
        ("docker-prom-exporter.builder", False),
        ("com.docker.compose.container-number", False),
        ("org.opencontainers.image.description", False),
        ("", False),
        ("x" * 100_000, False),
    ],
)
def test_a_label_that_resembles_the_exporters(key: str, similar: bool) -> None:  # noqa: FBT001  a column of the table
    """A misspelled key of the label is recognized, unless the container has the label, too."""
    row = {"Id": "a", "Labels": {"other": "x", key: "true"}}
    both = {"Id": "a", "Labels": {key: "true", LABEL: "true"}}
    parsed, labelled = parse_row(row), parse_row(both)

    assert parsed
    assert labelled
    assert (key if similar else "") == parsed.container.similar_label
    assert "" == labelled.container.similar_label
