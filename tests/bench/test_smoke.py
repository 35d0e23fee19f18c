"""The benchmarks run, and their calculations are right; no test checks a duration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import PARTS
from bench.measuring import Row, at_most, medians
from support.processes import completed

TESTS = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command `tests/bench/run`."""
    env = {**os.environ, "PYTHON": sys.executable}
    return completed([TESTS / "bench/run", *arguments], env=env)


def cells(output: str) -> dict[str, list[str]]:
    """Return the cells of each row of a table by the row's first cell."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()
    ]
    return {first: others for first, *others in rows[2:]}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs(part: str) -> None:
    """Each part prints a table with few containers; a part without its engine prints the reason."""
    done = run(part, "--small")
    if "could not run" in done.stdout and not os.environ.get("CI"):
        pytest.skip(done.stdout.splitlines()[-1])

    assert 0 == done.returncode, done.stderr
    assert "could not run" not in done.stdout
    assert cells(done.stdout)


def test_unknown_part() -> None:
    """An unknown part ends the benchmarks with exit code 2 and a message that names it."""
    done = run("pols")

    assert 2 == done.returncode
    assert "no such part: pols" in done.stderr


@pytest.mark.parametrize(
    ("measured", "ratio", "met"), [(1, "0.5", True), (2, "1", True), (3, "1.5", False)]
)
def test_goal(measured: float, ratio: str, met: bool) -> None:  # noqa: FBT001  a column of the table
    """A goal is met if the ratio is at most its limit."""
    row = at_most(1, "it", measured, 2, unit="ms")

    assert Row("it", f"{measured} ms", "2 ms", ratio, "≤ 1", met=met) == row


def test_medians() -> None:
    """`medians` measures the subjects in turns and ignores the first round."""
    values = iter([100.0, 100.0, 1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    assert {"a": 2.0, "b": 20.0} == medians(
        3, {"a": lambda: next(values), "b": lambda: next(values)}
    )
