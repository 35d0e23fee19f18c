"""What is asked of Docker, what is not, and what becomes of an answer that is none."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_prom_exporter.engine import Engine, EngineError
from docker_prom_exporter.engine.client import BadTargetError, ForbiddenRequestError, find_target
from support.simulated import Fault, Simulation, answers, answers_json, drips, hangs, resets, says

SOON = 10.0


class Engines:
    """Makes engines, and disconnects them when the test has ended."""

    def __init__(self) -> None:
        self._made: list[Engine] = []

    def at(self, url: str, timeout: float = 0.3) -> Engine:
        engine = Engine(find_target(url, {}), timeout)
        self._made.append(engine)
        return engine

    def connected(self, url: str, timeout: float = 0.3) -> Engine:
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


def deadline(seconds: float = SOON) -> float:
    return time.monotonic() + seconds


def ask(engine: Engine, endpoint: str) -> Any:
    questions: dict[str, Callable[[float], Any]] = {
        "version": engine.connect,
        "ping": engine.ping,
        "list": engine.containers,
        "inspect": lambda until: engine.inspect("abc", until),
    }
    return questions[endpoint](deadline())


def failure(engine: Engine, endpoint: str) -> tuple[str, str]:
    with pytest.raises(EngineError) as caught:
        ask(engine, endpoint)
    return caught.value.endpoint, caught.value.reason


def test_asks_the_four_questions(engines: Engines, simulated: Simulation) -> None:
    """Each question is one GET, in the engine's own API version but for the first."""
    container = simulated.stage.add("web")
    engine = engines.at(simulated.url)

    info = engine.connect(deadline())
    same = engine.ping(deadline())
    rows = engine.containers(deadline())
    answer = engine.inspect(container.id, deadline())

    assert ("Docker", "1.52", True) == (info.name, info.api_version, info.health_listed)
    assert same
    assert [container.id] == [row.container.id for row in rows if row]
    assert answer is not None
    assert "running" == answer.state
    assert [
        "GET /version",
        "GET /v1.52/_ping",
        "GET /v1.52/containers/json",
        f"GET /v1.52/containers/{container.id}/json",
    ] == [request.partition("?")[0] for request in simulated.requests]


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
        ("create_container", ("image",)),
        ("inspect_container", ("../../info?",)),
        ("inspect_container", ("a/../../info#",)),
    ],
)
def test_refuses_anything_else_before_it_is_sent(
    engines: Engines, simulated: Simulation, method: str, arguments: tuple[str, ...]
) -> None:
    """The guard lets out the four GETs; any other call of docker-py raises and sends nothing."""
    engine = engines.connected(simulated.url)
    client = engine._client
    before = len(simulated.requests)

    with pytest.raises(ForbiddenRequestError):
        getattr(client, method)(*arguments)

    assert before == len(simulated.requests)


@pytest.mark.parametrize("verb", ["post", "put", "delete", "head", "patch", "options"])
def test_refuses_other_verbs(engines: Engines, simulated: Simulation, verb: str) -> None:
    """Even for the four endpoints there is GET and nothing else."""
    client = engines.connected(simulated.url)._client

    with pytest.raises(ForbiddenRequestError):
        getattr(client, verb)("http+docker://localhost/_ping")


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
BODIES = ["", "<html>no</html>", '{"message": "no"}', '{"no": "message"}', '["no"]', "OK", "[]", '{"a']


@pytest.mark.parametrize("endpoint", ["version", "ping", "list"])
@pytest.mark.parametrize(("status", "reason"), [s for s in STATUSES if s[0][0] != "2"])
def test_a_status_gives_the_reason(
    engines: Engines, simulated: Simulation, endpoint: str, status: str, reason: str
) -> None:
    """Whatever the body says: it is the proxy's or the engine's business, and often misleading."""
    engine = engines.connected(simulated.url)

    for body in BODIES:
        simulated.faults = {endpoint: answers(status, body, "Location: /version")}
        assert (endpoint, reason) == failure(engine, endpoint)
        simulated.faults = {}
        engine.connect(deadline())


def test_a_container_that_is_gone_is_none(engines: Engines, simulated: Simulation) -> None:
    """A 404 to an inspect is no error: the container went away after it was listed."""
    assert engines.connected(simulated.url).inspect("0123456789ab", deadline()) is None


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FAULTS: list[tuple[str, Fault, str]] = [
    ("closed", resets, "unreachable"),
    ("silent", hangs(), "timeout"),
    ("silent in the head", hangs(HEAD), "timeout"),
    ("silent in the body", hangs(HEAD + b"Content-Length: 99\r\n\r\n["), "timeout"),
    ("drip in the head", drips(HEAD), "timeout"),
    ("drip in the body", drips(HEAD + b"Content-Length: 99999\r\n\r\n[", 0.01), "timeout"),
    ("cut short", says(HEAD + b"Content-Length: 99\r\n\r\n["), "bad_response"),
    ("cut in a chunk", says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n["), "bad_response"),
    ("no chunk", says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n["), "bad_response"),
    ("no HTTP", says(b"\x00\x01 nonsense\r\n\r\n"), "bad_response"),
    ("no gzip", answers("200 OK", "no", "Content-Encoding: gzip"), "bad_response"),
    ("no JSON", answers("200 OK", "<html>"), "bad_response"),
    ("empty", answers("200 OK", ""), "bad_response"),
    ("204", says(b"HTTP/1.1 204 No Content\r\n\r\n"), "bad_response"),
    ("a long number", answers("200 OK", "[" + "9" * 5000 + "]"), "bad_response"),
    ("deep", answers("200 OK", "[" * 100_000), "bad_response"),
    ("a comma too many", answers("200 OK", "[{},]"), "bad_response"),
    ("text behind it", answers("200 OK", "[{}] {}"), "bad_response"),
    ("wrong type", answers_json("nonsense"), "bad_response"),
    ("null", answers_json(None), "bad_response"),
]


@pytest.mark.parametrize("endpoint", ["version", "ping", "list", "inspect"])
@pytest.mark.parametrize(("fault", "reason"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_gives_the_reason(
    engines: Engines, simulated: Simulation, endpoint: str, fault: Fault, reason: str
) -> None:
    """Every failure becomes an EngineError in time, and the next question is answered."""
    engine = engines.connected(simulated.url)
    simulated.faults = {endpoint: fault}

    assert (endpoint, reason) == failure(engine, endpoint)

    simulated.faults = {}
    assert engine.connect(deadline())
    assert engine.ping(deadline())


def test_a_list_is_read_once(engines: Engines, simulated: Simulation) -> None:
    """One that says what the last one said gives the same rows, unread; another engine's is read anew."""
    simulated.stage.add("web", started=time.time() - 7200)
    engine = engines.connected(simulated.url)
    first = engine.containers(deadline())

    assert first[0] is engine.containers(deadline())[0]
    engine.connect(deadline())
    assert first == engine.containers(deadline())
    assert first[0] is not engine.containers(deadline())[0]


def test_an_answer_has_a_most_size(
    engines: Engines, simulated: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer without end is not read to its end."""
    monkeypatch.setattr("docker_prom_exporter.engine.client._MOST_BYTES", 1000)
    engine = engines.connected(simulated.url)
    simulated.faults = {"list": answers_json(["x" * 2000])}

    assert ("list", "bad_response") == failure(engine, "list")


def test_a_request_ends_at_the_polls_deadline(engines: Engines, simulated: Simulation) -> None:
    """A deadline shortens the timeout of a request; past it, nothing is sent."""
    engine = engines.connected(simulated.url, timeout=60)
    simulated.faults = {"list": drips(HEAD)}
    sent = len(simulated.requests)

    with pytest.raises(EngineError, match="no answer within"):
        engine.containers(deadline(0.3))
    with pytest.raises(EngineError, match="ran out of time"):
        engine.containers(deadline(-1))

    assert sent + 1 == len(simulated.requests)


def test_abort_ends_a_stuck_request(engines: Engines, simulated: Simulation) -> None:
    """Another thread ends the request under way, whatever its timeout."""
    engine = engines.connected(simulated.url, timeout=60)
    reached = threading.Event()

    def stuck(connection: socket.socket) -> None:
        reached.set()
        hangs()(connection)

    simulated.faults = {"list": stuck}
    failures: list[tuple[str, str]] = []
    asking = threading.Thread(target=lambda: failures.append(failure(engine, "list")))
    asking.start()
    assert reached.wait(SOON)

    engine.abort()

    asking.join(SOON)
    assert not asking.is_alive()
    assert ["list"] == [endpoint for endpoint, _ in failures]


def test_an_engine_that_is_not_there(engines: Engines, tmp_path: Path) -> None:
    """No socket file, and one that nobody listens on any more."""
    engine = engines.at(f"unix://{tmp_path}/docker.sock")

    assert ("version", "unreachable") == failure(engine, "version")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "docker.sock"))
    assert ("version", "unreachable") == failure(engine, "version")


def test_an_engine_of_an_unsupported_version(engines: Engines, simulated: Simulation) -> None:
    """docker-py speaks no API before 1.24."""
    simulated.api_version = "1.12"

    assert ("version", "error") == failure(engines.at(simulated.url), "version")


@pytest.mark.parametrize("version", [None, 1.41, "", "1", "latest", "1.41/../x", {}])
def test_an_engine_without_a_version(engines: Engines, simulated: Simulation, version: Any) -> None:
    """What can't be an API version is never put into a path."""
    simulated.faults = {"version": answers_json({"ApiVersion": version})}

    assert ("version", "bad_response") == failure(engines.at(simulated.url), "version")


def test_a_ping_tells_another_engine(engines: Engines, simulated: Simulation) -> None:
    """An upgrade behind a proxy breaks no connection; the ping's headers give it away."""
    engine = engines.connected(simulated.url)
    first, second = engine.ping(deadline()), engine.ping(deadline())

    simulated.api_version = "1.51"

    assert (True, True, False, True) == (first, second, engine.ping(deadline()), engine.ping(deadline()))


def test_inspects_share_connections(engines: Engines, simulated: Simulation) -> None:
    """docker-py keeps a connection for each path on a unix socket; here one serves them all."""
    for number in range(40):
        simulated.stage.add(f"c{number}")
    engine = engines.connected(simulated.url)

    for container in simulated.containers():
        engine.inspect(container.id, deadline())

    assert engine._client is not None
    assert 1 == len(engine._client.get_adapter("http+docker://").pools)  # type: ignore[attr-defined]


def test_environment_proxies_are_not_used(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is for the network, not for the engine: not even the first request takes it."""
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as tcp:
        proxy.settimeout(0)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        engine = engines.at(f"tcp://127.0.0.1:{tcp.getsockname()[1]}")

        assert ("version", "timeout") == failure(engine, "version")
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize(
    "config",
    [[], {"proxies": "x"}, {"auths": {"registry": {"auth": "%%%"}}}, {"auths": {"registry": "x"}}],
)
def test_a_malformed_cli_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
    """The Docker CLI's config.json is named where docker-py stumbles over it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    with pytest.raises(BadTargetError) as caught:
        find_target("unix:///x", {})

    assert str(path) in str(caught.value)


def test_a_context_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker-py would quietly ask the default socket."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    with pytest.raises(BadTargetError, match="no context 'elsewhere'"):
        find_target(None, {"DOCKER_CONTEXT": "elsewhere"})


def test_certificates_that_do_not_exist(tmp_path: Path) -> None:
    """TLS without its files is named at the start, not at each poll."""
    with pytest.raises(BadTargetError, match="certificate"):
        find_target("tcp://127.0.0.1:1", {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)})
