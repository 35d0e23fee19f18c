"""Faulty answers of a simulated engine on each of the four endpoints, and what the exporter reports.

The cases run in parallel on a few exporters, each with an engine of its own.
"""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import pytest

from docker_prom_exporter.demo import WATCH
from docker_prom_exporter.snapshot import ENDPOINTS
from support.clients import Client
from support.exporters import exporter
from support.simulated import (
    Fault,
    Simulation,
    answers,
    answers_json,
    drips,
    hangs,
    resets,
    says,
    simulation,
)
from support.waiting import wait_for
from support.watching import Watch, errors, watching

LANES = {"5": 4, "1": 2}
"""How many cases run at the same time with this timeout; only a fault that is a timeout needs a short one."""

FINE = {"docker_up": 1.0, "web": 4.0}
NAMELESS = "ab" * 32
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

# The samples while an endpoint has a fault.
EXPECTED = {
    "version": {"docker_up": 0.0, "web": 0.0},
    "ping": {"docker_up": 0.0, "web": 0.0},
    "list": {"docker_up": 1.0, "web": 0.0},
    "inspect": FINE,
}


@dataclass(frozen=True)
class Case:
    """A fault: how to inject it into an engine, the expected samples, and the expected errors.

    `counted` is a regular expression that `Outcome.counted` must match.
    """

    name: str
    inject: Callable[[Simulation], object]
    expected: dict[str, float]
    counted: str = ""

    @property
    def timeout(self) -> str:
        """Return the timeout of the exporter's requests."""
        return "1" if "timeout" in self.counted else "5"


@dataclass
class Lane:
    """An exporter and its simulated engine."""

    engine: Simulation
    client: Client

    def run(self, case: Case) -> "Outcome":
        """Inject the fault for at least one poll, then remove it and wait for the recovery."""
        with watching(self.client) as watch:
            before = errors(watch.shows(**FINE))
            case.inject(self.engine)
            watch.polls_pass(1)
            scrape = watch.shows(**case.expected)
            self._mend()
            watch.recovers(**FINE)
            wait_for(lambda: self._details_of(watch), what="all details")
        after = errors(scrape)
        counted = {
            "/".join(failure) for failure in after if after[failure] > before.get(failure, 0)
        }
        return Outcome(watch, " ".join(sorted(counted)))

    def _mend(self) -> None:
        """Remove the faults and replace the container: after a timeout it is not inspected for a minute."""
        self.engine.faults, self.engine.inspect_faults = {}, {}
        self.engine.change_rows, self.engine.api_version = lambda rows: rows, "1.52"
        self.engine.stage.change(
            "web", generation=self.engine.stage.containers["web"].generation + 1
        )

    def _details_of(self, watch: Watch) -> bool:
        detailed = watch.scrape().by("id", "docker_container_restarts_total")
        return self.engine.stage.containers["web"].id in detailed


@dataclass(frozen=True)
class Outcome:
    """The watch of a case, and each `endpoint/reason` of the errors that were counted during the fault."""

    watch: Watch
    counted: str


def on(endpoint: str, fault: Fault) -> Callable[[Simulation], None]:
    """Return an injection that makes the exporter request the endpoint, which answers with the fault.

    The version is requested after a reset of the ping, an inspect after a restart of the container.
    """

    def inject(engine: Simulation) -> None:
        engine.faults = {endpoint: fault}
        if endpoint == "version":
            engine.faults["ping"] = resets
        if endpoint == "inspect":
            engine.stage.change(
                "web",
                started=time.time(),
                restarts=engine.stage.containers["web"].restarts + 1,
            )

    return inject


def floods(connection: socket.socket) -> None:
    """Answer with 100 MB, or as much of it as the client reads."""
    with suppress(OSError):
        connection.sendall(HEAD + b"Content-Length: 100000000\r\n\r\n[")
        for _ in range(100):
            connection.sendall(b"1," * 500_000)


# One of each reason: which status and which broken answer gives which reason, tests/unit shows.
STATUSES = {
    "204 No Content": "bad_response",
    "403 Forbidden": "denied",
    "404 Not Found": "not_found",
    "500 Internal Server Error": "error",
    "503 Service Unavailable": "unreachable",
}

# Each status comes with each of these bodies, one for each endpoint. The last body is a valid answer.
BODIES: dict[str, Callable[[str], str]] = {
    "JSON": lambda _: '{"message": "no"}',
    "HTML": lambda _: "<html><body><h1>no</h1></body></html>",
    "nothing": lambda _: "",
    "a good answer": lambda endpoint: {
        "version": '{"ApiVersion": "1.41"}',
        "ping": "OK",
        "list": "[]",
    }.get(endpoint, '{"State": {"Status": "running", "Health": {"Status": "healthy"}}}'),
}

FAULTS: dict[str, tuple[Fault, str]] = {
    "resets": (resets, "unreachable"),
    "silent": (hangs(), "timeout"),
    "one byte a second": (drips(HEAD + b"Content-Length: 99999\r\n\r\n[", every=1), "timeout"),
    "cut short": (says(HEAD + b"Content-Length: 99\r\n\r\n["), "bad_response"),
    "not JSON": (answers("200 OK", "<html>"), "bad_response"),
    "null": (answers_json(None), "bad_response"),
    "100 MB": (floods, "(bad_response|timeout)( .+)?"),
}


# The exporter requests a version after a failed ping, which is counted, too.
COUNTED = {
    "version": "ping/unreachable version/{}",
    **{name: name + "/{}" for name in ENDPOINTS[1:]},
}


def faults_of(endpoint: str) -> Iterator[Case]:
    for name, (fault, reason) in FAULTS.items():
        yield Case(
            f"{endpoint}: {name}",
            on(endpoint, fault),
            EXPECTED[endpoint],
            COUNTED[endpoint].format(reason),
        )
    for number, (status, reason) in enumerate(STATUSES.items()):
        body = list(BODIES)[(number + ENDPOINTS.index(endpoint)) % len(BODIES)]
        fault = answers(status, BODIES[body](endpoint), "Location: /containers/json")
        name = f"{endpoint}: {status.partition(' ')[0]} with {body}"
        if (endpoint, reason) == ("inspect", "not_found"):
            # the list has the container, so the answer is a proxy's
            yield Case(name, on(endpoint, fault), FINE, "inspect/bad_response")
        else:
            yield Case(
                name, on(endpoint, fault), EXPECTED[endpoint], COUNTED[endpoint].format(reason)
            )


def lists(*changes: dict[str, Any] | Any) -> Callable[[Simulation], None]:
    """Return an injection that appends an element to the list for each change.

    A dict gives a copy of the first row with these fields changed; any other value is appended as it is.
    An inspect of a copy with the id `NAMELESS` answers null.
    """

    def rows(good: list[dict[str, Any]]) -> list[Any]:
        first = good[0] if good else {}
        return [
            *good,
            *(
                {**first, **change} if isinstance(change, dict) else change
                for change in changes
            ),
        ]

    def inject(engine: Simulation) -> None:
        engine.change_rows = rows
        engine.inspect_faults = {NAMELESS: answers_json(None)}

    return inject


def another(name: str, value: float, **changes: Any) -> Case:
    """Return a case in which the list has a second container, without a name, with this expected health."""
    row = {"Id": NAMELESS, "Names": None, **changes}
    return Case(
        f"list: {name}", lists(row), {**FINE, NAMELESS[:12]: value}, "inspect/bad_response"
    )


SPOILT: dict[str, Any] = {
    "Names": {"a": 1},
    "Image": [],
    "Created": "x",
    "State": [1],
    "Status": 7,
    "Health": "healthy",
}
SPOILT_INSPECT = {
    "RestartCount": "x",
    "State": {"Status": [], "Health": 5, "ExitCode": {}, "StartedAt": 7, "OOMKilled": "yes"},
}


def answers_spoilt(connection: socket.socket) -> None:
    """Answer an inspect with the wrong type at every level."""
    answers_json(SPOILT_INSPECT)(connection)


def speaks(api_version: str) -> Callable[[Simulation], None]:
    return lambda engine: setattr(engine, "api_version", api_version)


def too(word: str) -> Fault:
    return answers(
        "400 Bad Request", json.dumps({"message": f"client version 1.52 is too {word}"})
    )


ROWS = [
    Case(
        "list: things that are no rows", lists(1, None, "x", [], {"Id": None}, {"Id": 7}), FINE
    ),
    Case("list: a row without id", lists({"Id": "", "Names": ["/other"]}), FINE),
    Case("list: a row twice", lists({}), FINE),
    Case("list: a name twice", lists({"Id": NAMELESS}), FINE, "inspect/bad_response"),
    Case("list: null labels", lists({"Id": NAMELESS, "Labels": None}), FINE),
    another("null names", 4),
    another("an unknown state", 0, State="meditating"),
    another("an unknown health", 0, Health={"Status": "fine"}),
    another("the wrong type at every level", 0, **SPOILT),
    Case(
        "inspect: the wrong type at every level",
        on("inspect", answers_spoilt),
        FINE,
        "inspect/bad_response",
    ),
    Case("version: a newer API between polls", speaks("1.53"), FINE),
    Case("version: an older API between polls", speaks("1.41"), FINE),
    Case(
        "ping: client version too new", on("ping", too("new")), EXPECTED["ping"], "ping/error"
    ),
    Case(
        "list: client version too old", on("list", too("old")), EXPECTED["list"], "list/error"
    ),
    Case(
        "all: the engine refuses",
        lambda engine: engine.faults.update(dict.fromkeys(ENDPOINTS, resets)),
        EXPECTED["ping"],
        "(ping|list)/unreachable version/unreachable",  # it may refuse in the middle of a poll
    ),
]
CASES = {
    case.name: case for case in [*(case for e in ENDPOINTS for case in faults_of(e)), *ROWS]
}


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Outcome]]]:
    """Yield the future outcome of each selected case, by the case's name."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [
        str(item.callspec.params["name"]) for item in tests if "outcomes" in item.fixturenames
    ]
    with ExitStack() as stack:
        futures: dict[str, Future[Outcome]] = {}
        for timeout, at_a_time in LANES.items():
            cases = [CASES[name] for name in wanted if CASES[name].timeout == timeout]
            futures |= _run(cases, timeout, min(at_a_time, len(cases)), stack)
        yield futures


def _run(
    cases: list[Case], timeout: str, at_a_time: int, stack: ExitStack
) -> dict[str, Future[Outcome]]:
    lanes: SimpleQueue[Lane] = SimpleQueue()
    for _ in range(at_a_time):
        lanes.put(_lane(stack, timeout))

    def run(case: Case) -> Outcome:
        lane = lanes.get()
        try:
            return lane.run(case)
        finally:
            lanes.put(lane)

    pool = stack.enter_context(ThreadPoolExecutor(at_a_time or 1))
    return {case.name: pool.submit(run, case) for case in cases}


def _lane(stack: ExitStack, timeout: str) -> Lane:
    engine = stack.enter_context(simulation())
    engine.stage.add("web", health="healthy", labels=WATCH)
    process = stack.enter_context(
        exporter(f"--docker-host={engine.url}", f"--docker-timeout={timeout}")
    )
    return Lane(engine, Client(process))


@pytest.mark.parametrize("name", CASES)
def test_an_engine_answers(
    name: str, outcomes: dict[str, Future[Outcome]], table: list[Any]
) -> None:
    """The exporter reports the expected samples and errors during a fault, and recovers after it."""
    case = CASES[name]
    outcome = outcomes[name].result()
    expected, seen = outcome.watch.row()
    table.append(
        (
            name,
            f"{expected}; {case.counted or 'no error'}",
            f"{seen}; {outcome.counted or 'no error'}",
        )
    )

    assert outcome.watch.expected == outcome.watch.seen
    assert re.fullmatch(case.counted, outcome.counted)
