"""Strategies for rows and inspect answers of which any part may be missing or have any value."""

from typing import Any

from hypothesis import strategies as st

from docker_prom_exporter.containers import HEALTH_STATUSES, LABEL, STATES
from support.builders import CONTAINER_ID

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXT,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=4),
    max_leaves=8,
)
STATE = st.sampled_from([*STATES, "Running", "stopped", "melting"])
HEALTH = st.sampled_from([*HEALTH_STATUSES, "HEALTHY", "", "reset", "splendid"])
ID = st.just(CONTAINER_ID) | JSON
LABELS_ANSWER = st.fixed_dictionaries(
    {},
    optional={
        LABEL: st.sampled_from(["true", "false"]),
        "com.docker.compose.project": TEXT,
        "team": JSON,
    },
)


def answers(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return objects with some of these fields, valid or any JSON; or any JSON instead."""
    malformed = {name: values | JSON for name, values in fields.items()}
    return st.fixed_dictionaries({}, optional=malformed) | JSON


ROWS = answers(
    Id=ID,
    Names=st.lists(TEXT.map("/{}".format) | JSON, max_size=3),
    Image=TEXT,
    Created=st.integers(0, 2**40),
    Labels=LABELS_ANSWER,
    State=STATE,
    Status=st.sampled_from(
        ["", "Up 5 minutes", "Up 5 minutes (healthy)", "(healthy)", "Exited (0) (healthy)"]
    ),
    Health=answers(Status=HEALTH, FailingStreak=st.integers(0, 9)),
    ImageManifestDescriptor=st.just({}),
)
TIME_TEXT = TEXT | st.datetimes().map("{:%Y-%m-%dT%H:%M:%S}Z".format)
NUMBER = st.integers(-1, 2**63)
INSPECTS = answers(
    Id=ID,
    Name=TEXT,
    Driver=st.sampled_from(["overlay2", "overlayfs"]),
    Created=TIME_TEXT,
    RestartCount=st.integers(0, 9),
    Config=answers(
        Image=TEXT,
        Labels=LABELS_ANSWER,
        Healthcheck=answers(
            Test=st.sampled_from([["NONE"], ["CMD", "true"]]),
            Interval=NUMBER,
            Timeout=NUMBER,
            Retries=NUMBER,
            StartPeriod=NUMBER,
        ),
    ),
    HostConfig=answers(
        RestartPolicy=answers(Name=TEXT),
        Memory=NUMBER,
        NanoCpus=NUMBER,
        CpuQuota=NUMBER,
        CpuPeriod=NUMBER,
        PidsLimit=NUMBER,
    ),
    State=answers(
        Status=STATE,
        Health=answers(
            Status=HEALTH,
            FailingStreak=st.integers(0, 9),
            Log=st.lists(answers(Start=TIME_TEXT, End=TIME_TEXT, ExitCode=NUMBER), max_size=2),
        ),
        StartedAt=TIME_TEXT,
        Error=TEXT,
        ExitCode=st.integers(0, 255),
        OOMKilled=st.booleans(),
    ),
)
