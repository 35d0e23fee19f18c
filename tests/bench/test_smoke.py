"""The benchmarks run, and what they count is right; how long anything took is not looked at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import PARTS, SMALL
from bench.measuring import Row, at_most, medians, p99, table

TESTS = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks as a user does."""
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(
        [TESTS / "bench/run", *arguments], env=env, capture_output=True, text=True, check=False, timeout=240
    )


def cells(output: str) -> dict[str, list[str]]:
    """Return the table's other cells by the first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()]
    return {first: others for first, *others in rows[2:]}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs(part: str) -> None:
    """Each part, with few containers, comes to its table; one whose engine can't be had says so."""
    done = run(part, "--small")
    if "could not run" in done.stdout and not os.environ.get("CI"):
        pytest.skip(done.stdout.splitlines()[-1])

    assert "Traceback" not in done.stderr
    assert "could not run" not in done.stdout
    assert cells(done.stdout)


def test_unknown_part() -> None:
    """A part there is not ends it with one line that says so."""
    done = run("pols")

    assert 2 == done.returncode
    assert "no such part: pols" in done.stderr


def test_small_is_whole() -> None:
    """What is tried small is all there is."""
    assert [*PARTS] == [*SMALL]


@pytest.mark.parametrize(("measured", "ratio", "met"), [(1, "0.5", True), (2, "1", True), (3, "1.5", False)])
def test_goal(measured: float, ratio: str, met: bool) -> None:  # noqa: FBT001  it's the table's column
    """A goal is met up to its limit."""
    row = at_most(1, "it", measured, 2, unit="ms")

    assert Row("it", f"{measured} ms", "2 ms", ratio, "≤ 1", met=met) == row


def test_medians() -> None:
    """Subjects take turns; the first round warms up and does not count."""
    values = iter([100.0, 100.0, 1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    assert {"a": 2.0, "b": 20.0} == medians(3, {"a": lambda: next(values), "b": lambda: next(values)})


def test_p99() -> None:
    """One in a hundred is above it."""
    assert 99.0 == p99([float(value) for value in reversed(range(101))])


def test_table() -> None:
    """It is Markdown with columns."""
    row = Row("it", "1 ms", "2 ms", "0.5", "≤ 1", met=True)

    assert cells(table([row])) == {"it": ["1 ms", "2 ms", "0.5", "≤ 1", "yes"]}
