"""Settings of hypothesis, a folder for temporary files, and real engines as fixtures, for all tests.

An engine is started when a test first uses it, emptied after each test, and stopped at the end.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


DOCKERS = [
    pytest.param("docker_20", id="docker-20.10"),
    pytest.param("docker_26", id="docker-26.1"),
    pytest.param("docker_28", id="docker-28"),
    pytest.param("docker_28_containerd", id="docker-28-containerd"),
]
PODMANS = [
    pytest.param("podman_4", id="podman-4.3"),
    pytest.param("podman_5", id="podman-5"),
    pytest.param("podman_6", id="podman-6"),
]
ENGINES = [*DOCKERS, *PODMANS]

# Fixtures that take seconds to start and serve the whole session.
_SLOW_FIXTURES = {"machine", *(name for engine in ENGINES for name in engine.values)}

# These begin before the others. The web's faults take long and mostly wait: at the end, one process would be
# left alone with them.
_FIRST = ("tests/bench/", "tests/deploy/", "tests/faults/test_web.py")


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


@pytest.fixture
def docker_20(pool: Pool) -> Iterator[Engine]:
    """Docker 20.10, the oldest Docker in use."""
    yield from pool.lend(DOCKER_20)


@pytest.fixture
def docker_26(pool: Pool) -> Iterator[Engine]:
    """Docker 26.1, with another API version than Docker 20.10."""
    yield from pool.lend(DOCKER_26)


@pytest.fixture
def docker_28(pool: Pool) -> Iterator[Engine]:
    """Docker 28 with a graph driver, as on an upgraded host."""
    yield from pool.lend(DOCKER_28)


@pytest.fixture
def docker_28_containerd(pool: Pool) -> Iterator[Engine]:
    """Docker 28 with the containerd image store, the default of new installations from 29 on."""
    yield from pool.lend(DOCKER_28_CONTAINERD)


@pytest.fixture
def podman_4(pool: Pool) -> Iterator[Engine]:
    """Podman 4.3, the oldest Podman in use."""
    yield from pool.lend(PODMAN_4)


@pytest.fixture
def podman_5(pool: Pool) -> Iterator[Engine]:
    """Podman 5, from Debian testing."""
    yield from pool.lend(PODMAN_5)


@pytest.fixture
def podman_6(pool: Pool) -> Iterator[Engine]:
    """Podman 6, whose list has the health."""
    yield from pool.lend(PODMAN_6)


@pytest.fixture(params=DOCKERS)
def docker(request: pytest.FixtureRequest) -> Engine:
    """Each Docker in turn."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(params=DOCKERS[:3])
def docker_with_graph_driver(request: pytest.FixtureRequest) -> Engine:
    """Each Docker with a graph driver in turn; it can't remove a container that has an immutable file."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(params=PODMANS)
def podman(request: pytest.FixtureRequest) -> Engine:
    """Each Podman in turn."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(params=[DOCKERS[0], DOCKERS[2], PODMANS[0], PODMANS[2]])
def oldest_or_newest(request: pytest.FixtureRequest) -> Engine:
    """Each oldest and newest engine in turn."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(params=[*DOCKERS, *PODMANS[:2]])
def engine_limiting_memory(request: pytest.FixtureRequest) -> Engine:
    """Each engine that can limit memory; Podman 6 can't on machines with control groups of version 1."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine
