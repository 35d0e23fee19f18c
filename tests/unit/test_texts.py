"""What options and labels have in common: booleans, durations as in Prometheus, names of labels."""

import pytest

from docker_prom_exporter.texts import label_name, parse_boolean, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("15", 15),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("15s", 15),
        ("1m", 60),
        ("1m30s", 90),
        ("1h0m0.5s", 3600.5),
        ("30d", 30 * 86400),
        ("1y2w3d4h5m6s7ms", 33019506.007),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    """A duration is a number of seconds or has units."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "s",
        "-1s",
        "+1",
        "1 s",
        "1S",
        "30s1m",
        "1s1s",
        "1m30",
        "1.s",
        "1e1",
        "٩",
        "1_0",
        "nan",
    ],
)
def test_not_a_duration(text: str) -> None:
    """A duration has each unit at most once and the largest unit first; other texts are refused."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["true", "TRUE", "True", "1", "yes", "YES", "on", " on "], True),
        (["false", "False", "0", "no", "NO", "off", "oFF\n"], False),
        (["", "maybe", "2", "y", "truefalse", "ja"], None),
    ],
)
def test_booleans(texts: list[str], expected: bool | None) -> None:  # noqa: FBT001  a column of the table
    """True and false have four words each, in any case; other texts are not booleans."""
    assert {expected} == {parse_boolean(text) for text in texts}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("team", "label_team"),
        ("com.example.team", "label_com_example_team"),
        ("com.example/Team-Name", "label_com_example_Team_Name"),
        ("1_é ", "label_1___"),
    ],
)
def test_label_name(key: str, expected: str) -> None:
    """Characters that Prometheus does not allow in the name of a label become underscores; case is kept."""
    assert expected == label_name(key)
