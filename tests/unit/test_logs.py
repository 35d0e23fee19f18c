"""The log writes one line for each event, in three formats, and never blocks its caller."""

import json
import logging
import os
import pty
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import pytest
import structlog

from docker_prom_exporter import logs
from support.waiting import wait_for

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"
FORMS = ["logfmt", "json", "console"]

Log = Callable[..., str]


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str]) -> Log:
    """Return a function that configures the log, calls `act` and returns what was written."""

    def log(level: str, form: str, act: Callable[[], object]) -> str:
        writer = logs.configure(level, form)
        act()
        writer.close(10)
        captured = capfd.readouterr()
        return captured.out + captured.err

    return log


def find(engine: str = "Docker Desktop") -> None:
    structlog.get_logger().info("docker.found", containers=3, watched=True, engine=engine)


@pytest.mark.parametrize("form", ["logfmt", "auto"])
def test_logfmt(form: str, log: Log) -> None:
    """A line has time, level and event, and then its values; in a file or a pipe, `auto` is logfmt."""
    expected = rf'time={TIME} level=info event=docker\.found containers=3 watched=true engine="Docker Desktop"\n'

    assert re.fullmatch(expected, log("info", form, find))


def test_json(log: Log) -> None:
    """A line is one JSON object."""
    expected = {
        "level": "info",
        "event": "docker.found",
        "containers": 3,
        "watched": True,
        "engine": "Docker Desktop",
    }
    line = log("info", "json", find)
    event = json.loads(line)

    assert re.fullmatch(TIME, event.pop("time"))
    assert expected == event
    assert 1 == line.count("\n")


def test_console(log: Log) -> None:
    """The console format has no colours if standard error is not a terminal."""
    expected = rf"{TIME} \[info +\] docker\.found +containers=3 engine='?Docker Desktop'? watched=True\n"

    assert re.fullmatch(expected, log("info", "console", find))


@pytest.mark.parametrize(
    ("no_colour", "begin"), [("", rb"\x1b\["), ("1", TIME.encode() + rb" \[info +\] ")]
)
def test_auto_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, no_colour: str, begin: bytes
) -> None:
    """On a terminal, `auto` is the console format with colours, unless `NO_COLOR` is set."""
    monkeypatch.setenv("NO_COLOR", no_colour)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        writer = logs.configure("info", "auto")
        find()
        writer.close(10)
        line = os.read(ours, 1000)
    os.close(ours)

    assert re.match(begin + rb".*docker\.found", line)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: str, expected: list[str], log: Log) -> None:
    """Events below the level are left out, and the others keep their order."""

    def act() -> None:
        for each in ("debug", "info", "warning", "error"):
            structlog.get_logger().log(getattr(logging, each.upper()), each)

    assert expected == [
        json.loads(line)["event"] for line in log(level, "json", act).splitlines()
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "a\rb",
        "\x1b[31mred",
        "nul\0",
        "a\x85b",
        "a\u2028b",
        "\u202egnp.exe",
        "\ud800",
        "\x9b2J",
    ],
)
def test_control_characters_stay_on_one_line(form: str, text: str, log: Log) -> None:
    """Control characters in values and events neither break a line nor move a terminal's cursor."""

    def act() -> None:
        structlog.get_logger().info("container.label_ignored", name=text)
        structlog.get_logger().info(text)

    lines = log("info", form, act).splitlines()

    assert 2 == len(lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("form", FORMS)
def test_printable_text_is_written_unchanged(form: str, log: Log) -> None:
    """Printable text in any script is written unchanged."""
    assert "café-データ" in log("info", form, lambda: find("café-データ"))


def sulk() -> None:
    raise ValueError("hunter2\x1b[31m")


@pytest.mark.parametrize("form", FORMS)
def test_exceptions_are_logged(form: str, log: Log) -> None:
    """An exception's type and stack are logged, but not its message, which may quote an answer."""

    def fail() -> None:
        try:
            sulk()
        except ValueError as error:
            structlog.get_logger().error("poll.failed", exc_info=error)

    text = log("info", form, fail)

    assert "ValueError" in text
    assert "in sulk" in text
    assert "hunter2\x1b" not in text
    assert 1 == text.count("\n")


@pytest.mark.parametrize(
    "library", ["docker.utils.config", "urllib3.connectionpool", "asyncio"]
)
def test_libraries_stay_silent(
    library: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log messages of libraries are not written, not even by Python's handler of last resort."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    assert "" == log(
        "debug",
        "logfmt",
        lambda: logging.getLogger(library).critical("Connection pool is full"),
    )


def test_a_closed_standard_error_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If standard error is closed, the log writes nothing: the descriptor may belong to another file."""
    monkeypatch.setattr(sys, "stderr", None)
    writer = logs.configure("info", "auto")
    find()

    assert writer._descriptor is None
    writer.close(10)


@contextmanager
def pipe() -> Iterator[tuple[TextIOWrapper, logs.Writer]]:
    """Yield the read end of a pipe, and a writer to its write end."""
    end, other = os.pipe()
    with os.fdopen(end) as reader:
        yield reader, logs.Writer(other, lambda lost: f"{lost} lost")
    os.close(other)


def fill(writer: logs.Writer) -> None:
    """Write a line that is longer than the pipe's capacity, and wait until the writer is blocked."""
    writer.msg("x" * 2**20)
    wait_for(lambda: not writer._lines and writer._is_writing, what="the pipe to be full")


def test_a_pipe_that_nobody_reads_costs_the_oldest_lines() -> None:
    """While nobody reads, the oldest lines are dropped and counted; the newest are kept in order."""
    with pipe() as (reader, writer):
        fill(writer)
        began = time.monotonic()
        for number in range(1500):
            writer.msg(str(number))
        writer.close(0.1)
        waited = time.monotonic() - began
        lines = [reader.readline().strip() for _ in range(1002)]

    assert waited < 5
    assert "500 lost" == lines[1]
    assert [str(number) for number in range(500, 1500)] == lines[2:]


def test_a_line_that_could_not_be_written_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that can't be written, as on a full disk, are counted before the next line."""
    with pipe() as (reader, writer):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _disk_full)
            writer.msg("a")
            writer.msg("b")
            writer.close(10)
        writer.msg("c")

        assert ["2 lost\n", "c\n"] == [reader.readline(), reader.readline()]


def _disk_full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    """A line is written completely to a pipe that another process has made non-blocking."""
    with pipe() as (reader, writer):
        os.set_blocking(writer._descriptor or 0, False)
        line = "x" * 2**20
        writer.msg(line)

        assert line + "\n" == reader.readline()
