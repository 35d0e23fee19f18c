"""Requests to the engine: the four endpoints, the refusal of others, deadlines and bad answers."""

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
import requests
import urllib3
from docker import APIClient
from docker.transport import UnixHTTPAdapter

from docker_prom_exporter.containers import LABEL
from docker_prom_exporter.deadline import Deadline
from docker_prom_exporter.engine import Engine, EngineError, Inspects, find_target
from docker_prom_exporter.engine.client import InFlight, new_client
from docker_prom_exporter.engine.errors import ForbiddenRequestError
from docker_prom_exporter.snapshot import ENDPOINTS
from support.simulated import (
    DENIED,
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
from support.waiting import wait_for_requests_to_end

SOON = 10.0


class Engines:
    """Makes engine clients, and disconnects them after the test."""

    def __init__(self) -> None:
        self._made: list[Engine] = []

    def at(self, url: str, timeout: float = SOON) -> Engine:
        engine = Engine(find_target(url, {}), timeout)
        self._made.append(engine)
        return engine

    def connected(self, url: str, timeout: float = SOON) -> Engine:
        engine = self.at(url, timeout)
        engine.connect(deadline())
        return engine

    def disconnect(self) -> None:
        for engine in self._made:
            engine.disconnect()


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    yield engines
    engines.disconnect()


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulation]:
    """Yield one simulated engine for all tests: starting and stopping it takes longer than most of them."""
    with simulation() as engine:
        yield engine


@pytest.fixture
def simulated(shared: Simulation) -> Iterator[Simulation]:
    yield shared
    shared.stage.containers.clear()
    shared.faults, shared.inspect_faults = {}, {}
    shared.api_version, shared.clock_offset = "1.52", 0
    shared.requests.clear()
    shared.lines.clear()


@pytest.fixture
def engine(engines: Engines, simulated: Simulation) -> Engine:
    """Return a client that is connected to the simulated engine."""
    return engines.connected(simulated.url)


def deadline(seconds: float = SOON) -> Deadline:
    return Deadline.after(seconds)


def inspect_one(engine: Engine, until: Deadline) -> Any:
    outcome = engine.inspect(["abc"], until)
    if "abc" not in outcome.answers:
        raise EngineError("inspect", "timeout", "")
    answer = outcome.answers["abc"]
    if isinstance(answer, EngineError):
        raise answer
    return answer


def ask(engine: Engine, endpoint: str, seconds: float = SOON) -> Any:
    questions: dict[str, Callable[[Deadline], Any]] = {
        "version": engine.connect,
        "ping": engine.ping,
        "list": engine.list,
        "inspect": lambda until: inspect_one(engine, until),
    }
    return questions[endpoint](deadline(seconds))


def failure(engine: Engine, endpoint: str, seconds: float = SOON) -> EngineError:
    with pytest.raises(EngineError) as caught:
        ask(engine, endpoint, seconds)
    return caught.value


def reason(engine: Engine, endpoint: str, seconds: float = SOON) -> tuple[str, str]:
    error = failure(engine, endpoint, seconds)
    return error.endpoint, error.reason


def states(inspected: Inspects) -> dict[str, str]:
    """Return the state of each inspected container, or the reason of its error."""
    found = {}
    for container_id, answer in inspected.answers.items():
        if isinstance(answer, EngineError):
            found[container_id] = answer.reason
        else:
            found[container_id] = answer["State"]["Status"]
    return found


def test_the_four_questions(engines: Engines, simulated: Simulation) -> None:
    """Each question is one GET; all but the first use the engine's own API version."""
    container = simulated.stage.add("web")
    simulated.clock_offset = -86400
    engine = engines.at(simulated.url)

    info = engine.connect(deadline())
    pong = engine.ping(deadline())
    rows = engine.list(deadline())
    inspected = engine.inspect([container.id], deadline())

    assert ("Docker", "1.52", "amd64") == (info.name, info.api_version, info.arch)
    assert pong.same_engine
    assert pong.date == pytest.approx(time.time() - 86400, abs=5)
    assert [container.id] == [row["Id"] for row in rows]
    assert {container.id: "running"} == states(inspected)
    assert [
        "GET /version",
        "GET /v1.52/_ping",
        "GET /v1.52/containers/json",
        f"GET /v1.52/containers/{container.id}/json",
    ] == [line.partition("?")[0] for line in simulated.lines]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"label": [LABEL]}, {"label": [LABEL]}),
        ({"since": ["a1"]}, {"since": ["a1"]}),
        ({"before": ["a1"], "limit": 50}, {"before": ["a1"], "limit": 50}),
        ({"id": {"a1": 1, "b2": 2}.keys()}, {"id": ["a1", "b2"]}),
        (
            {"label": [LABEL], "since": ["a1"], "id": ("b2",), "limit": 7},
            {"label": [LABEL], "since": ["a1"], "id": ["b2"], "limit": 7},
        ),
    ],
)
def test_filters_of_a_list(
    engine: Engine, simulated: Simulation, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Filters are sent in moby's format; a list includes containers that do not run, but no sizes."""
    with suppress(EngineError):  # the container a1 does not exist
        engine.list(deadline(), **options)
    line = simulated.lines[-1]

    assert [expected] == simulated.lists()
    assert "all=1" in line
    assert "size=1" not in line


def test_an_unchanged_list_is_the_same_object(engine: Engine, simulated: Simulation) -> None:
    """An unchanged answer to the same request is parsed once; after a new connection it is parsed again."""
    simulated.stage.add("web", labels={}, started=time.time() - 7200)
    first = engine.list(deadline())

    assert first is engine.list(deadline())
    assert [] == engine.list(deadline(), label=[LABEL])
    assert first == engine.list(deadline())
    engine.connect(deadline())
    assert first is not engine.list(deadline())
    simulated.stage.change("web", state="exited")
    assert first != engine.list(deadline())


def test_rows_are_trimmed_and_labels_are_not(engines: Engines, simulated: Simulation) -> None:
    """A row keeps only the fields that are read, and all labels, even those with the name of a field."""
    labels = {"Names": "x", "Id": "y", "ImageID": "z", "Ports": "80"}
    simulated.stage.add("web", labels=labels)
    (row,) = engines.connected(simulated.url).list(deadline())
    simulated.change_rows = lambda rows: [
        rows[0] | {"Names": None, "Mounts": [{"Type": "bind"}]}
    ]
    (nameless,) = engines.connected(simulated.url).list(deadline())
    simulated.change_rows = lambda rows: rows

    assert (labels, labels) == (row["Labels"], nameless["Labels"])
    assert row | {"Names": None} == nameless


def test_every_inspect_has_its_answer(engine: Engine, simulated: Simulation) -> None:
    """Each container is inspected once, even if others fail; a removed one is `not_found`."""
    ids = [simulated.stage.add(f"c{number}").id for number in range(9)]
    simulated.inspect_faults = {
        ids[0]: answers("500 Internal Server Error", ""),
        ids[1]: resets,
    }
    found = engine.inspect([*ids, "gone"], deadline())
    expected = dict.fromkeys(ids, "running") | {
        ids[0]: "error",
        ids[1]: "unreachable",
        "gone": "not_found",
    }

    assert expected == states(found)
    assert 10 == simulated.asked("inspect")


def test_one_inspect_that_hangs(engine: Engine, simulated: Simulation) -> None:
    """An inspect that hangs ends after the timeout, and all others are answered meanwhile."""
    ids = [simulated.stage.add(f"c{number}").id for number in range(9)]
    ended = threading.Event()

    def hang(connection: socket.socket) -> None:
        hangs()(connection)
        ended.set()

    simulated.inspect_faults = {ids[0]: hang}
    engine.timeout = 0.5
    found = engine.inspect(ids, deadline(60))

    assert dict.fromkeys(ids, "running") | {ids[0]: "timeout"} == states(found)
    assert (ids[0],) == found.late
    assert found.outlasted
    assert ended.wait(SOON)


def test_inspects_of_a_silent_engine(engine: Engine, simulated: Simulation) -> None:
    """If no inspect is answered after the last late one began, that one was not outlasted."""
    ids = [simulated.stage.add(f"c{number}").id for number in range(2)]
    simulated.inspect_faults = {ids[1]: hangs()}
    engine.timeout = 0.5
    first = engine.inspect(ids[:1], deadline(60))
    second = engine.inspect(ids[1:], deadline(60))

    assert (first.late, first.outlasted) == ((), True)
    assert (second.late, second.outlasted) == ((ids[1],), False)


def test_inspects_end_at_the_deadline(engine: Engine, simulated: Simulation) -> None:
    """An inspect that the deadline cuts is neither answered nor late."""
    simulated.faults = {"inspect": hangs()}
    found = engine.inspect(["a", "b"], deadline(0.1))

    assert ({}, ()) == (found.answers, found.late)


def test_a_denied_inspect_stops_the_rest(engine: Engine, simulated: Simulation) -> None:
    """After a denied inspect no more are sent, because all would be denied."""
    simulated.faults = {"inspect": DENIED}
    found = engine.inspect([f"c{number}" for number in range(50)], deadline())

    assert {"denied"} == {*states(found).values()}
    assert len(found.answers) == simulated.asked("inspect") <= 4


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("info", ()),
        ("events", ()),
        ("images", ()),
        ("df", ()),
        ("stop", ("abc",)),
        ("start", ("abc",)),
        ("remove_container", ("abc",)),
        ("logs", ("abc",)),
        ("export", ("abc",)),
        ("top", ("abc",)),
        ("stats", ("abc",)),
        ("diff", ("abc",)),
        ("attach", ("abc",)),
        ("exec_create", ("abc", "id")),
        ("inspect_container", ("../../info?",)),
        ("inspect_container", ("a/../../info#",)),
        *(
            (verb, ("http+docker://localhost/_ping",))
            for verb in ("post", "put", "delete", "head", "patch", "options")
        ),
    ],
)
def test_other_requests_are_refused(
    engine: Engine, simulated: Simulation, method: str, arguments: tuple[str, ...]
) -> None:
    """Any call of docker-py other than the four GETs raises an error and sends nothing."""
    client = engine._client
    before = len(simulated.lines)

    with pytest.raises(ForbiddenRequestError):
        getattr(client, method)(*arguments)

    assert before == len(simulated.lines)


STATUSES = [
    ("204 No Content", "bad_response"),
    ("301 Moved Permanently", "bad_response"),
    ("400 Bad Request", "error"),
    ("401 Unauthorized", "denied"),
    ("403 Forbidden", "denied"),
    ("404 Not Found", "not_found"),
    ("409 Conflict", "error"),
    ("429 Too Many Requests", "error"),
    ("500 Internal Server Error", "error"),
    ("502 Bad Gateway", "unreachable"),
    ("503 Service Unavailable", "unreachable"),
    ("504 Gateway Timeout", "timeout"),
]
BODIES = ["", "<html>no</html>", '{"message": "no"}', '["no"]', "OK"]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_a_status_gives_the_reason(
    engine: Engine, simulated: Simulation, status: str, expected: str
) -> None:
    """The reason and the detail of an error depend on the status, not on the body, which may mislead."""
    number, _, phrase = status.partition(" ")
    bodies = BODIES if status != "204 No Content" else [""]
    for endpoint, body in [
        *product(ENDPOINTS[:1], bodies),
        *product(ENDPOINTS[1:], bodies[:1]),
    ]:
        engine.connect(deadline())
        simulated.faults = {endpoint: answers(status, body, "Location: /version")}
        error = failure(engine, endpoint)

        assert (endpoint, expected, int(number)) == (
            error.endpoint,
            error.reason,
            error.status,
        )
        assert f"the answer is {number} {phrase}" == error.detail
        simulated.faults = {}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def drips_after(head: bytes) -> Fault:
    """Return a fault: the engine sends a head at once, and an endless body byte by byte."""

    def fault(connection: socket.socket) -> None:
        connection.sendall(head)
        drips(b"[", 0.01)(connection)

    return fault


FAULTS: dict[str, tuple[str, Fault]] = {
    "closed": ("unreachable", resets),
    "silent": ("timeout", hangs()),
    "silent in the head": ("timeout", hangs(HEAD)),
    "silent in the body": ("timeout", hangs(HEAD + b"Content-Length: 99\r\n\r\n[")),
    "drip in the head": ("timeout", drips(HEAD, 0.01)),
    "drip in the body": ("timeout", drips_after(HEAD + b"Content-Length: 99999\r\n\r\n")),
    "drip until it closes": ("timeout", drips_after(HEAD + b"Connection: close\r\n\r\n")),
    "cut short": ("bad_response", says(HEAD + b"Content-Length: 99\r\n\r\n[")),
    "longer than it says": ("bad_response", says(HEAD + b"Content-Length: 1\r\n\r\n[]")),
    "cut in a chunk": ("bad_response", says(CHUNKED + b"ff\r\n[")),
    "a malformed chunk": ("bad_response", says(CHUNKED + b"zz\r\n[")),
    "not HTTP": ("bad_response", says(b"\x00\x01 nonsense\r\n\r\n")),
    "not gzip": ("bad_response", answers("200 OK", "no", "Content-Encoding: gzip")),
    "not JSON": ("bad_response", answers("200 OK", "<html>")),
    "empty": ("bad_response", answers("200 OK", "")),
    "a long number": ("bad_response", answers("200 OK", "[" + "9" * 5000 + "]")),
    "deep": ("bad_response", answers("200 OK", "[" * 100_000)),
    "a comma too many": ("bad_response", answers("200 OK", "[{},]")),
    "text after it": ("bad_response", answers("200 OK", "[{}] {}")),
    "wrong type": ("bad_response", answers_json("nonsense")),
    "a number": ("bad_response", answers_json(7)),
    "null": ("bad_response", answers_json(None)),
}


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: a finalizer that runs while a parser is at the recursion limit fails."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize(("expected", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_fault_gives_the_reason(
    engine: Engine, simulated: Simulation, expected: str, fault: Fault
) -> None:
    """Each fault becomes an EngineError, silence at the deadline, and the next request succeeds."""
    seconds = 0.3 if expected == "timeout" else SOON
    for endpoint in ENDPOINTS:
        simulated.faults = {endpoint: fault}

        assert (endpoint, expected) == reason(engine, endpoint, seconds)
        wait_for_requests_to_end()

        simulated.faults = {}
        assert engine.connect(deadline())
        assert engine.ping(deadline())


@pytest.mark.parametrize("endpoint", ["list", "inspect"])
def test_a_request_has_a_timeout(
    engines: Engines, simulated: Simulation, endpoint: str
) -> None:
    """A request has a timeout, even if the deadline is much later."""
    engine = engines.connected(simulated.url, timeout=60)
    engine.timeout = 0.05
    simulated.faults = {endpoint: hangs(HEAD)}
    began = time.monotonic()

    assert (endpoint, "timeout") == reason(engine, endpoint, seconds=60)
    assert time.monotonic() - began < SOON


def test_nothing_is_asked_after_the_deadline(engine: Engine, simulated: Simulation) -> None:
    """After the deadline no request is sent."""
    for endpoint in ("ping", "list", "version"):
        assert "the poll ran out of time" == failure(engine, endpoint, seconds=-1).detail
    assert ["GET /version"] == simulated.lines


SECRET = b"hunter2 PASSWORD " * 20
LEAKS: dict[str, bytes] = {
    "reason phrase": b"HTTP/1.1 500 " + SECRET + b"\r\nContent-Length: 0\r\n\r\n",
    "unknown status": b"HTTP/1.1 799 " + SECRET + b"\r\nContent-Length: 0\r\n\r\n",
    "status line": SECRET + b"\r\n\r\n",
    "status": b"HTTP/1.1 " + SECRET + b"\r\n\r\n",
    "protocol": b"HTTP/" + SECRET + b" 200 OK\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\n" + SECRET + b"\r\n\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + SECRET * 1000 + b"\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: " + SECRET + b"\r\n\r\n[",
    "encoding": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 16\r\n\r\n"
    + SECRET,
    "location": b"HTTP/1.1 302 Found\r\nLocation: http://"
    + SECRET
    + b"\r\nContent-Length: 0\r\n\r\n",
    "broken chunk": CHUNKED + b'{"Config":{"Env":["' + SECRET + b"\r\n",
    "cut chunk": CHUNKED + b"fff\r\n" + SECRET,
    "cut body": HEAD + b"Content-Length: 999\r\n\r\n" + SECRET,
    "JSON": HEAD + b"Content-Length: 16\r\n\r\n" + SECRET,
    "text": HEAD + b'Content-Length: 9\r\n\r\n"hunter2"',
    "bytes": HEAD + b"Content-Length: 9\r\n\r\nhunter2\xff\xff",
    "version": HEAD + b'Content-Length: 24\r\n\r\n{"ApiVersion":"hunter2"}',
}


@pytest.mark.parametrize("leak", LEAKS)
def test_no_answer_is_quoted(engines: Engines, simulated: Simulation, leak: str) -> None:
    """The detail of an error is one short line and quotes nothing of an answer, which may have secrets."""
    for endpoint in ENDPOINTS if leak != "version" else ("version",):
        engine = engines.connected(simulated.url)
        simulated.faults = {endpoint: says(LEAKS[leak])}
        error = failure(engine, endpoint)
        simulated.faults = {}

        assert "hunter2" not in f"{error} {error!r}"
        assert 0 < len(error.detail) < 80
        assert "\n" not in error.detail


def test_a_redirect_is_not_read(engine: Engine, simulated: Simulation) -> None:
    """A redirect is neither followed nor read, and its connection is closed.

    Its body may have no end.
    """
    sent: list[int] = []
    ended = threading.Event()

    def floods(connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: /version\r\nContent-Length: 9999999999\r\n\r\n"
        )
        with suppress(OSError):
            sent.extend(connection.send(bytes(100_000)) for _ in range(5000))
        ended.set()

    for endpoint in ENDPOINTS:
        simulated.faults = {endpoint: floods}
        ended.clear()
        error = failure(engine, endpoint)

        assert ("bad_response", 302) == (error.reason, error.status)
        assert ended.wait(SOON)
        simulated.faults = {}
        engine.connect(deadline())
    assert sum(sent) < 20_000_000
    assert 6 == simulated.lines.count(
        "GET /version"
    )  # the first, one redirected, four to reconnect


def test_an_answer_has_a_maximum_size(
    engine: Engine, simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer above the maximum size is a bad response."""
    monkeypatch.setattr("docker_prom_exporter.engine.client._MAX_BYTES", 1000)
    simulated.faults = {"list": answers_json(["x" * 2000])}

    assert ("list", "bad_response") == reason(engine, "list")


@pytest.mark.parametrize("endpoint", ["ping", "list", "inspect"])
def test_abort_ends_stuck_requests(
    engines: Engines, simulated: Simulation, endpoint: str
) -> None:
    """`abort` ends requests from another thread, whatever their timeout, and refuses later ones."""
    engine = engines.connected(simulated.url, timeout=60)
    reached = threading.Event()
    failures: list[EngineError] = []

    def stuck(connection: socket.socket) -> None:
        reached.set()
        hangs()(connection)

    simulated.faults = {endpoint: stuck}
    asking = threading.Thread(target=lambda: failures.append(failure(engine, endpoint, 60)))
    asking.start()
    assert reached.wait(SOON)
    engine.abort()
    asking.join(SOON)

    assert [endpoint] == [error.endpoint for error in failures]
    assert ("version", "timeout") == reason(engine, "version")
    assert not engine.connected


def test_abort_leaves_a_named_pipe() -> None:
    """A connection through docker-py's named pipe, which is no socket, is left to its timeout."""
    in_flight = InFlight()
    connection = urllib3.connection.HTTPConnection("localhost")
    connection.sock = object()
    in_flight._connections[threading.current_thread()] = connection

    in_flight.cut_all()

    assert connection.sock is not None


def test_a_thread_that_is_slow_to_start(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inspect whose thread has sent nothing before its timeout, on a frozen host, is late."""
    frozen = threading.Event()
    monkeypatch.setattr(
        "docker_prom_exporter.engine._InspectRun.inspect", lambda *_: frozen.wait(SOON)
    )
    engine.timeout = 0.05
    inspects = engine.inspect(["abc"], deadline())
    frozen.set()

    assert (("abc",), False) == (inspects.late, inspects.outlasted)


def test_nothing_is_inspected_after_an_abort(engine: Engine, simulated: Simulation) -> None:
    """After `abort` no container is inspected, and the result is empty."""
    engine.abort()

    assert {} == engine.inspect(["abc"], deadline()).answers
    assert 0 == simulated.asked("inspect")


def test_a_name_lookup_that_hangs(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name lookup that hangs ends at the deadline for its caller, although it can't be interrupted."""
    answered = threading.Event()

    def look_up(*_: Any, **__: Any) -> Any:
        answered.wait(SOON)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    engine = engines.at("tcp://engine.example:2375", timeout=60)
    began = time.monotonic()

    assert ("version", "timeout") == reason(engine, "version", seconds=0.1)
    assert time.monotonic() - began < SOON / 2
    answered.set()
    wait_for_requests_to_end()


@pytest.mark.parametrize("components", [5, True, "Podman Engine", {"Name": "x"}, [None, {}]])
def test_invalid_components(engines: Engines, simulated: Simulation, components: Any) -> None:
    """An engine whose `Components` are invalid counts as Docker."""
    answer = {"ApiVersion": "1.41", "Components": components}
    simulated.faults = {"version": answers_json(answer)}

    assert "Docker" == engines.at(simulated.url).connect(deadline()).name


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.12", "error"),
        ("", "bad_response"),
        ("1", "bad_response"),
        ("latest", "bad_response"),
        ("1.41/../x", "bad_response"),
        (None, "bad_response"),
        (1.41, "bad_response"),
        ({}, "bad_response"),
    ],
)
def test_an_api_version_that_can_not_be_used(
    engines: Engines, simulated: Simulation, version: Any, expected: str
) -> None:
    """docker-py does not support versions before 1.24; an invalid one is never used in a path."""
    simulated.faults = {"version": answers_json({"ApiVersion": version})}

    assert ("version", expected) == reason(engines.at(simulated.url), "version")


@pytest.mark.parametrize(
    ("pinged", "expected"),
    [
        (answers("200 OK", "OK", "Api-Version: 1.44"), "1.44"),
        (
            answers("400 Bad Request", "client version 1.41 is too old", "Api-Version: 1.44"),
            "1.44",
        ),
        (answers("200 OK", "OK"), "1.41"),
        (answers("200 OK", "OK", "Api-Version: 1.4/../x"), "1.41"),
        (resets, "1.41"),
    ],
)
def test_connects_without_a_version(
    engines: Engines, simulated: Simulation, pinged: Fault, expected: str
) -> None:
    """If `/version` is denied, a ping gives the API version, even a failed one; otherwise it is 1.41."""
    simulated.faults = {"version": DENIED, "ping": pinged}
    engine = engines.at(simulated.url)
    engine.connect_without_version(deadline())
    engine.list(deadline())

    assert f"GET /v{expected}/containers/json" == simulated.lines[-1].partition("?")[0]


def test_a_ping_notices_another_engine(engine: Engine, simulated: Simulation) -> None:
    """A ping's headers show an upgrade of the engine behind a proxy, which breaks no connection."""
    before = [engine.ping(deadline()).same_engine for _ in range(2)]
    simulated.api_version = "1.51"
    after = [engine.ping(deadline()).same_engine for _ in range(2)]

    assert ([True, True], [False, True]) == (before, after)


@pytest.mark.parametrize(
    "date", ["", "Date: yesterday", "Date: Mon, 06 May 99999999 07:08:09 GMT"]
)
def test_a_ping_without_a_date(engine: Engine, simulated: Simulation, date: str) -> None:
    """If `Date` is missing or malformed, a ping gives no time."""
    simulated.faults = {"ping": answers("200 OK", "OK", *filter(None, [date]))}

    assert engine.ping(deadline()).date is None


def test_inspects_share_connections(engine: Engine, simulated: Simulation) -> None:
    """All inspects share one connection pool; docker-py has a pool for each path on a Unix socket."""
    ids = [simulated.stage.add(f"c{number}").id for number in range(40)]
    engine.inspect(ids, deadline())

    assert engine._client is not None
    assert 1 == len(engine._client.get_adapter("http+docker://localhost").pools)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (urllib3.HTTPConnectionPool("localhost"), "_get_conn"),
        (urllib3.HTTPConnectionPool("localhost")._get_conn(), "sock"),
        (requests.adapters.HTTPAdapter, "get_connection_with_tls_context"),
        (UnixHTTPAdapter, "get_connection_with_tls_context"),
        (UnixHTTPAdapter, "get_connection"),
        (UnixHTTPAdapter("http+unix:///x"), "pools"),
        (requests.adapters.HTTPAdapter(), "poolmanager"),
        (requests.adapters.HTTPAdapter, "init_poolmanager"),
        (requests.adapters.HTTPAdapter, "cert_verify"),
        (requests.Response(), "_content"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_private_names_of_libraries(owner: object, name: str) -> None:
    """The private names of libraries that the package uses exist.

    An upgrade that removes one breaks this test first.
    """
    assert hasattr(owner, name)


def test_content_of_a_response() -> None:
    """`content` of a response is `_content`, which the client sets after it has read a bounded answer."""
    response = requests.Response()
    response._content = b"7"

    assert (b"7", 7) == (response.content, response.json())


def test_environment_proxies_are_not_used(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request to the engine uses HTTP_PROXY, not even the first."""
    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        proxy.settimeout(0)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        engine = engines.at(f"tcp://127.0.0.1:{tcp.getsockname()[1]}")

        assert ("version", "timeout") == reason(engine, "version", seconds=0.1)
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_the_state_of_docker_pys_client(simulated: Simulation) -> None:
    """The client has what docker-py's constructor sets, but for the registry's and the proxies' settings.

    The client does not call that constructor. An upgrade that sets more breaks this test first.
    """
    theirs = APIClient(base_url=simulated.url, version="1.41")
    ours = new_client(find_target(simulated.url, {}), SOON, "1.41", InFlight())
    left_out = {"_auth_configs", "_custom_adapter", "_proxy_configs", "credstore_env"}

    assert left_out == vars(theirs).keys() - vars(ours).keys()
    assert (theirs.base_url, theirs.api_version) == (ours.base_url, ours.api_version)
    theirs.close()
    ours.close()
