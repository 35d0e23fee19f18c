"""Settings of hypothesis, a folder for temporary files, and real engines as fixtures, for all tests.

An engine is started when a test first uses it, emptied after each test, and stopped at the end.
"""

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.missing import give_up
from support.real import (
    DOCKER_20,
    DOCKER_26,
    DOCKER_28,
    DOCKER_28_CONTAINERD,
    PODMAN_4,
    PODMAN_5,
    PODMAN_6,
    Engine,
    EngineUnavailableError,
    Kind,
)

# A busy machine is no failure: nothing here depends on how long an example takes.
# `tests/run` takes the thorough profile for a full run.
for profile, examples in (("quick", 20), ("thorough", 100)):
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("quick")

_LEFT = pytest.StashKey[list[Path]]()
"""What a session has left in its folder for temporary files."""


@pytest.hookimpl(tryfirst=True)  # before xdist starts processes, which inherit TMPDIR
def pytest_sessionstart(session: pytest.Session) -> None:
    """Let the tests, and the programs that they start, write temporary files to a new folder.

    pytest keeps the folders of the last three sessions' tests, as ever, in the machine's own.
    """
    if not hasattr(session.config, "workerinput"):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="tests-")
        Path(tempfile.tempdir).chmod(0o1777)  # some programs run as other users


@pytest.hookimpl(trylast=True)  # after xdist has ended its processes
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that has left something in its folder for temporary files, else remove that."""
    if hasattr(session.config, "workerinput"):
        return
    folder = Path(os.environ["TMPDIR"])
    session.config.stash[_LEFT] = left = sorted(folder.iterdir())
    if not left:
        folder.rmdir()
    elif session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what the session has left."""
    if left := config.stash.get(_LEFT, []):
        terminalreporter.section("left in the folder for temporary files", red=True)
        terminalreporter.line("\n".join(map(str, left)))


# A fixture for each engine.
KINDS: dict[str, Kind] = {
    "docker_20": DOCKER_20,  # the oldest Docker in use
    "docker_26": DOCKER_26,  # has another API version than 20.10, and Compose
    "docker_28": DOCKER_28,  # has a graph driver, as on an upgraded host
    "docker_28_containerd": DOCKER_28_CONTAINERD,  # the default of new installations from 29 on
    "podman_4": PODMAN_4,  # the oldest Podman in use
    "podman_5": PODMAN_5,
    "podman_6": PODMAN_6,  # its list has the health
}

# A fixture that is each of these engines in turn.
TURNS = {
    "engine": [*KINDS],
    "docker": [name for name in KINDS if name.startswith("docker")],
    "podman": [name for name in KINDS if name.startswith("podman")],
    # it can't remove a container that has an immutable file
    "docker_with_graph_driver": ["docker_20", "docker_26", "docker_28"],
    "docker_20_or_28": ["docker_20", "docker_28"],
    "docker_after_20": ["docker_26", "docker_28", "docker_28_containerd"],
    "with_expensive_list": ["docker_28_containerd", "podman_4", "podman_5", "podman_6"],
    "oldest_or_newest": ["docker_20", "docker_28", "podman_4", "podman_6"],
    # Podman 6 can't on machines with control groups of version 1
    "engine_limiting_memory": [name for name in KINDS if name != "podman_6"],
}

# Fixtures that take seconds to start and serve the whole session.
_SLOW_FIXTURES = {"machine", *KINDS}

# These begin before the others. The web's faults take long and mostly wait: at the end, one process would be
# left alone with them.
_FIRST = ("tests/bench/", "tests/deploy/", "tests/process/test_web.py")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this hook, too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one process run all tests that share an engine, and all other tests of a file."""
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = [
        name
        for name in (*parameters, *getattr(item, "fixturenames", ()))
        if isinstance(name, str)
    ]
    return next(
        (name for name in names if name in _SLOW_FIXTURES), item.nodeid.partition("::")[0]
    )


class Pool:
    """The engines of this session, and the reasons why some can't be started."""

    def __init__(self) -> None:
        self._engines: dict[Kind, Engine] = {}
        self._refusals: dict[Kind, str] = {}

    def lend(self, kind: Kind) -> Iterator[Engine]:
        """Yield the running, empty engine; if it can't be started, skip the test, or fail it in CI."""
        engine = self._engines.setdefault(kind, Engine(kind))
        if reason := self._refusal(engine):
            give_up(reason)
        yield engine
        engine.restore()

    def close(self) -> None:
        """Stop all engines."""
        for engine in self._engines.values():
            engine.stop()

    def _refusal(self, engine: Engine) -> str:
        """Return why the engine can't be started, or an empty string; a failed start is not repeated."""
        try:
            if engine.kind not in self._refusals:
                engine.start()
        except EngineUnavailableError as error:
            self._refusals[engine.kind] = str(error)
        return self._refusals.get(engine.kind, "")


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """All engines; SIGTERM ends the tests as Ctrl-C does, so that every engine is stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = Pool()
    yield pool
    pool.close()
    signal.signal(signal.SIGTERM, before)


def _lent(name: str, kind: Kind) -> Any:
    @pytest.fixture(name=name)
    def lent(pool: Pool) -> Iterator[Engine]:
        yield from pool.lend(kind)

    return lent


def _in_turn(name: str, engines: Sequence[str]) -> Any:
    params = [pytest.param(each, id=KINDS[each].name) for each in engines]

    @pytest.fixture(name=name, params=params)
    def in_turn(request: pytest.FixtureRequest) -> Engine:
        engine: Engine = request.getfixturevalue(request.param)
        return engine

    return in_turn


globals().update({name: _lent(name, kind) for name, kind in KINDS.items()})
globals().update({name: _in_turn(name, engines) for name, engines in TURNS.items()})
