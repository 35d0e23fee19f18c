"""CPU time and memory of processes, medians of several rounds, and the table of the results."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_CPU_CLOCK_OF_A_PROCESS = (
    2  # CPUCLOCK_SCHED: all threads, ended ones included; clock_getcpuclockid(3)
)


class Row(NamedTuple):
    """One line of the table. `met` is None if there is no goal."""

    what: str
    measured: str
    reference: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None


def at_most(
    limit: float, what: str, measured: float, reference: float, unit: str = "ms"
) -> Row:
    """Return a row for two measurements, whose goal is a ratio of at most `limit`."""
    ratio = measured / reference
    return Row(
        what,
        f"{measured:.3g} {unit}",
        f"{reference:.3g} {unit}",
        f"{ratio:.2g}",
        f"≤ {limit:.3g}",
        met=ratio <= limit,
    )


def compared(
    limit: float,
    what: str,
    subject: Callable[[], float],
    reference: Callable[[], float],
    *,
    rounds: int,
) -> Row:
    """Measure two subjects in ms, in turns; the goal is a ratio of at most `limit`."""
    measured = medians(rounds, {"subject": subject, "reference": reference})
    return at_most(limit, what, measured["subject"], measured["reference"])


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table with aligned columns."""
    head = ("what", "measured", "reference", "ratio", "goal", "met")
    met = {True: "yes", False: "NO", None: ""}
    cells = [head, *((*row[:-1], met[row.met]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    return "\n".join([lines[0], _line(["-" * width for width in widths], widths), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (
        "| "
        + " | ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        + " |"
    )


def medians(rounds: int, subjects: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Measure all subjects in turns and return the medians; a first round warms up and does not count."""
    results = [
        {name: measure() for name, measure in subjects.items()} for _ in range(rounds + 1)
    ][1:]
    return {name: statistics.median(result[name] for result in results) for name in subjects}


def cpu(*pids: int) -> float:
    """Return the CPU time of these processes so far, or of this one without any, in milliseconds."""
    return 1e3 * sum(
        time.clock_gettime(~pid << 3 | _CPU_CLOCK_OF_A_PROCESS)
        for pid in pids or (os.getpid(),)
    )


def cost(question: Callable[[], object], *pids: int, times: int = 1) -> float:
    """Return the CPU time of a call in these processes, or in this one without any, in milliseconds."""
    before = cpu(*pids)
    for _ in range(times):
        question()
    return (cpu(*pids) - before) / times


def run_cost(*command: str) -> float:
    """Run a command until it ends; return its CPU time in milliseconds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return 1e3 * (usage.ru_utime + usage.ru_stime)


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a Python process with these arguments; kill it afterwards."""
    command = [sys.executable, *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line of a process."""
    if process.stdout is None or not (line := process.stdout.readline()):
        raise RuntimeError("a process of the benchmark ended early")
    return line.strip()


def say(line: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
