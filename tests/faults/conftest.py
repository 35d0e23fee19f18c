"""Fixtures of the fault tests, and the table of faults that pytest prints at the end."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from support.clients import Client
from support.exporters import exporter
from support.real import Engine
from support.watching import Watch, watching

Row = tuple[str, str, str]
Table = list[Row]
Watched = Callable[..., AbstractContextManager[Watch]]

_TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = []


@pytest.fixture
def table(pytestconfig: pytest.Config) -> Table:
    """Return the rows of the table so far: the fault, the expected samples, the seen samples."""
    return pytestconfig.stash[_TABLE]


@pytest.fixture
def watched(table: Table) -> Watched:
    """Return a context manager that runs an exporter, watches its scrapes and adds a row to the table."""

    @contextmanager
    def watch_over(fault: str, url: str, *options: str) -> Iterator[Watch]:
        with exporter(f"--docker-host={url}", "--log-level=debug", *options) as process:
            try:
                with watching(Client(process)) as watch:
                    yield watch
            finally:
                table.append((fault, *watch.row()))

    return watch_over


@pytest.fixture
def docker(docker_26: Engine) -> Engine:
    """Return the real Docker that the tests disturb."""
    return docker_26


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of faults."""
    rows = config.stash[_TABLE]
    if not rows:
        return
    widths = [
        max(len(cell) for cell in column) for column in list(zip(*rows, strict=True))[:2]
    ]
    terminalreporter.section("faults: fault, expected, seen")
    for fault, expected, seen in rows:
        terminalreporter.write_line(f"{fault:<{widths[0]}}  {expected:<{widths[1]}}  {seen}")
