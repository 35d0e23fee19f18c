"""The log is one line an event, in three forms, and never in the way."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest
import structlog

from docker_prom_exporter import logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"
FORMS = ["logfmt", "json", "console"]


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class Broken(io.StringIO):
    """A standard error that can't be written to."""

    def __init__(self, error: Exception) -> None:
        """Raise `error` from now on."""
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        """Fail."""
        raise self.error


def logged(capsys: pytest.CaptureFixture[str], form: str) -> str:
    logs.configure("info", form)
    structlog.get_logger().info("docker.found", containers=3, watched=True, engine="Docker Desktop")
    return capsys.readouterr().err


def test_logfmt(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, level and event come first, then what the event has to say."""
    expected = (
        rf'time={TIME} level=info event=docker\.found containers=3 watched=true engine="Docker Desktop"\n'
    )

    assert re.fullmatch(expected, logged(capsys, "logfmt"))


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line."""
    expected = {
        "level": "info",
        "event": "docker.found",
        "containers": 3,
        "watched": True,
        "engine": "Docker Desktop",
    }
    line = logged(capsys, "json")
    event = json.loads(line)

    assert re.fullmatch(TIME, event.pop("time"))
    assert expected == event
    assert 1 == line.count("\n")


def test_console(capsys: pytest.CaptureFixture[str]) -> None:
    """For people, and without colours where it's no terminal."""
    expected = rf"{TIME} \[info +\] docker\.found +containers=3 engine='Docker Desktop' watched=True\n"

    assert re.fullmatch(expected, logged(capsys, "console"))


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [(Terminal(), r"\x1b\[.*docker\.found"), (io.StringIO(), r"time=.* event=docker\.found")],
)
def test_auto_asks_whether_it_is_a_terminal(
    stderr: io.StringIO, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets colours, anything else logfmt."""
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure("info", "auto")
    structlog.get_logger().info("docker.found")

    assert re.match(expected, stderr.getvalue())


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level is left out."""
    logs.configure(level, "json")
    for each in ("debug", "info", "warning", "error"):
        structlog.get_logger().log(getattr(logging, each.upper()), each)

    assert expected == [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    ["two\nlines", "a\rb", "\x1b[31mred", "nul\0", "a\x85b", "a\u2028b", "\u202egnp.exe", "\ud800", "\x9b2J"],
)
def test_control_characters_stay_on_one_line(
    form: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A foreign text neither breaks a line nor moves a terminal's cursor, as a value or as the event."""
    logs.configure("info", form)
    structlog.get_logger().info("container.label_ignored", name=text)
    structlog.get_logger().info(text)
    lines = capsys.readouterr().err.splitlines()

    assert 2 == len(lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("form", FORMS)
def test_plain_text_is_written_as_it_is(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be read stays readable, in any script."""
    logs.configure("info", form)
    structlog.get_logger().info("docker.found", name="café-データ")

    assert "café-データ" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMS)
def test_exceptions_are_told(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception's type and message are in the log, in logfmt and json on the event's line."""
    logs.configure("info", form)
    structlog.get_logger().error("poll.failed", exc_info=ValueError("so sad"))
    text = capsys.readouterr().err

    assert "ValueError: so sad" in text
    assert form == "console" or text.count("\n") == 1


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_exceptions_are_told_without_control_characters(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception's message can hold what an engine answered, and moves no cursor either."""
    logs.configure("info", form)
    structlog.get_logger().error("poll.failed", exc_info=ValueError("so\x1b[31m\r\x9b2J\u2028sad"))

    assert capsys.readouterr().err.removesuffix("\n").isprintable()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("error", [OSError("disk full"), BrokenPipeError(), ValueError("closed file")])
def test_standard_error_that_fails_stops_nothing(
    form: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or a reader that went away costs the line, not the poll."""
    monkeypatch.setattr(sys, "stderr", Broken(error))
    logs.configure("info", form)

    structlog.get_logger().info("docker.found")


@pytest.mark.parametrize("library", ["docker.utils.config", "urllib3.connectionpool", "asyncio"])
def test_libraries_stay_silent(
    library: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libraries log by themselves doesn't get out, not even by Python's handler of last resort."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logs.configure("debug", "logfmt")
    logging.getLogger(library).critical("Connection pool is full")
    captured = capsys.readouterr()

    assert "" == captured.out + captured.err
