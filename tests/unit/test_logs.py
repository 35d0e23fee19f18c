"""The log is one line an event, in three forms, and nothing waits for it."""

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
    """Return what configures the log, does something, and returns what was written meanwhile."""

    def log(level: str, form: str, act: Callable[[], object]) -> str:
        writer = logs.configure(level, form)
        act()
        writer.close(10)
        captured = capfd.readouterr()
        return captured.out + captured.err

    return log


def find(engine: str = "Docker Desktop") -> None:
    structlog.get_logger().info("docker.found", containers=3, watched=True, engine=engine)


def test_logfmt(log: Log) -> None:
    """Time, level and event come first, then what the event has to say."""
    expected = (
        rf'time={TIME} level=info event=docker\.found containers=3 watched=true engine="Docker Desktop"\n'
    )

    assert re.fullmatch(expected, log("info", "logfmt", find))


def test_json(log: Log) -> None:
    """One object a line."""
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
    """For people, and without colours where it's no terminal."""
    expected = rf"{TIME} \[info +\] docker\.found +containers=3 engine='?Docker Desktop'? watched=True\n"

    assert re.fullmatch(expected, log("info", "console", find))


def test_auto_is_for_people_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        writer = logs.configure("info", "auto")
        find()
        writer.close(10)
        line = os.read(ours, 1000)
    os.close(ours)

    assert re.match(rb"\x1b\[.*docker\.found", line)


def test_auto_is_logfmt_elsewhere(log: Log) -> None:
    """A file or a pipe."""
    assert log("info", "auto", find).startswith("time=")


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
    """What is below the level is left out; the order is kept."""

    def act() -> None:
        for each in ("debug", "info", "warning", "error"):
            structlog.get_logger().log(getattr(logging, each.upper()), each)

    assert expected == [json.loads(line)["event"] for line in log(level, "json", act).splitlines()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    ["two\nlines", "a\rb", "\x1b[31mred", "nul\0", "a\x85b", "a\u2028b", "\u202egnp.exe", "\ud800", "\x9b2J"],
)
def test_control_characters_stay_on_one_line(form: str, text: str, log: Log) -> None:
    """A foreign text neither breaks a line nor moves a terminal's cursor, as a value or as the event."""

    def act() -> None:
        structlog.get_logger().info("container.label_ignored", name=text)
        structlog.get_logger().info(text)

    lines = log("info", form, act).splitlines()

    assert 2 == len(lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("form", FORMS)
def test_plain_text_is_written_as_it_is(form: str, log: Log) -> None:
    """What can be read stays readable, in any script."""
    assert "café-データ" in log("info", form, lambda: find("café-データ"))


@pytest.mark.parametrize("form", FORMS)
def test_exceptions_are_logged(form: str, log: Log) -> None:
    """An exception's type and message are in the log, in logfmt and json on the event's line."""
    text = log(
        "info",
        form,
        lambda: structlog.get_logger().error("poll.failed", exc_info=ValueError("so sad")),
    )

    assert "ValueError: so sad" in text
    assert form == "console" or text.count("\n") == 1


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_exceptions_are_logged_without_control_characters(form: str, log: Log) -> None:
    """An exception's message can hold what an engine answered, and moves no cursor either."""
    error = ValueError("so\x1b[31m\r\x9b2J\u2028sad")
    text = log("info", form, lambda: structlog.get_logger().error("poll.failed", exc_info=error))

    assert text.removesuffix("\n").isprintable()


@pytest.mark.parametrize("library", ["docker.utils.config", "urllib3.connectionpool", "asyncio"])
def test_libraries_stay_silent(library: str, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What libraries log by themselves doesn't get out, not even by Python's handler of last resort."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    assert "" == log(
        "debug", "logfmt", lambda: logging.getLogger(library).critical("Connection pool is full")
    )


def test_a_closed_standard_error_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor may be another file's by now."""
    monkeypatch.setattr(sys, "stderr", None)
    writer = logs.configure("info", "auto")
    find()

    assert writer._descriptor is None
    writer.close(10)


@contextmanager
def pipe() -> Iterator[tuple[TextIOWrapper, logs.Writer]]:
    """Yield the end of a pipe to read from, and a writer to the other end."""
    end, other = os.pipe()
    with os.fdopen(end) as reader:
        yield reader, logs.Writer(other, lambda lost: f"{lost} lost")
    os.close(other)


def stuff(writer: logs.Writer) -> None:
    """Write as much as the pipe takes, and one line more."""
    writer.msg("x" * 2**20)
    wait_for(lambda: not writer._lines and writer._is_writing, what="the pipe to be full")


def test_a_pipe_that_nobody_reads_costs_the_oldest_lines() -> None:
    """They are counted, and the newest are there in their order once somebody reads."""
    with pipe() as (reader, writer):
        stuff(writer)
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
    """A full disk costs the line; the next one that can be written comes after the count."""
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
    """Another process may have made it so; a line is written in pieces then."""
    with pipe() as (reader, writer):
        os.set_blocking(writer._descriptor or 0, False)
        line = "x" * 2**20
        writer.msg(line)

        assert line + "\n" == reader.readline()
