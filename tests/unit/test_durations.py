"""Durations as Prometheus and Go write them."""

import pytest

from docker_prom_exporter.texts import parse_duration


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
