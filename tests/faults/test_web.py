"""The web side on a hostile network: who gets in, what bad clients cost the others, what never gets out."""

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docker_prom_exporter.demo import WATCH
from support.certificates import Certificate, authority, issue, trusting
from support.clients import Client, read_all
from support.exporters import Exporter, exporter, run
from support.footprint import footprint
from support.prometheus import Server, prometheus, running
from support.simulated import Simulation, simulation
from support.waiting import wait_for
from support.watching import watching

TOKEN = "s3cret-t0ken"
ELSEWHERE = "127.0.0.2"
"""An address the exporter doesn't listen on: who comes from there counts as another host."""


@dataclass(frozen=True)
class Site:
    """What a web side is set up with: its certificate, the client CA's, and a client's; and the token."""

    ca: Certificate
    server: Certificate
    client: Certificate
    stranger: Certificate
    token: Path

    def options(self, *, tls: bool = True, client_ca: bool = True, token: bool = True) -> list[str]:
        cert = [f"--web-tls-cert-file={self.server.cert}", f"--web-tls-key-file={self.server.key}"]
        return [
            *(cert if tls else []),
            *([f"--web-client-ca-file={self.ca.cert}"] if client_ca else []),
            *([f"--web-bearer-token-file={self.token}"] if token else []),
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    ca, foreign = authority(folder), authority(folder, "foreign")
    (folder / "token").write_text(f"{TOKEN}\n")
    return Site(
        ca,
        issue(folder, "server", ca),
        issue(folder, "client", ca, usage="clientAuth"),
        issue(folder, "stranger", foreign, usage="clientAuth"),
        folder / "token",
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[Simulation]:
    with simulation() as engine:
        for number in range(300):
            engine.stage.add(f"web-{number}", health="healthy", labels=WATCH)
        yield engine


@pytest.fixture(scope="module")
def guarded(site: Site, engine: Simulation) -> Iterator[Exporter]:
    with exporter(f"--docker-host={engine.url}", "--log-level=debug", *site.options()) as process:
        yield process


def outcome(client: Client, path: str) -> int | str:
    """Return the status, or that there was no handshake."""
    try:
        return client.get(path)[0]
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return "no handshake"


@pytest.mark.parametrize(
    ("certificate", "token", "expected"),
    [
        ("client", TOKEN, (200, 200, 200)),
        ("client", "", (401, 401, 200)),
        ("client", "s3cret-t0ke", (401, 401, 200)),
        ("stranger", TOKEN, 3 * ("no handshake",)),
        ("server", TOKEN, 3 * ("no handshake",)),
        (None, TOKEN, 3 * ("no handshake",)),
    ],
)
def test_who_gets_in(
    site: Site, guarded: Exporter, certificate: str | None, token: str, expected: tuple[int | str, ...]
) -> None:
    """From another host: only who has a certificate for clients, and the token for what is told of Docker."""
    own = getattr(site, certificate) if certificate else None
    client = Client(guarded, trusting(site.ca, own), token, ELSEWHERE)

    assert expected == tuple(outcome(client, path) for path in ("/metrics", "/", "/-/healthy"))


def test_the_own_host_asks_for_health_without_a_certificate(site: Site, guarded: Exporter) -> None:
    """As the healthcheck does; a token alone opens nothing there, nor does a stranger's certificate."""
    bare = Client(guarded, trusting(site.ca), TOKEN)
    strange = Client(guarded, trusting(site.ca, site.stranger), TOKEN)

    assert [403, 403, 200] == [outcome(bare, path) for path in ("/metrics", "/", "/-/healthy")]
    assert "no handshake" == outcome(strange, "/-/healthy")


def test_the_healthcheck_works(site: Site, guarded: Exporter) -> None:
    """With the same options as the exporter's."""
    done = run("healthcheck", f"--listen-port={urlsplit(guarded.url).port}", *site.options())

    assert (0, "healthy\n", "") == (done.returncode, done.stdout, done.stderr)


def test_refusals_say_what_is_missing(site: Site, guarded: Exporter) -> None:
    """To a person; the challenge tells a program."""
    status, body = Client(guarded, trusting(site.ca, site.client)).get("/metrics")

    assert (401, "401 Unauthorized: this needs the bearer token\n") == (status, body)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_tls_and_no_tls_are_refused(site: Site, guarded: Exporter) -> None:
    """TLS 1.1 gets no handshake, plain HTTP no answer; 1.2 and 1.3 both do."""
    versions = {}
    for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(site.ca, site.client)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        versions[version.name] = outcome(Client(guarded, context, TOKEN), "/metrics")
    with connected(guarded) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        answer = read_all(connection, OSError)

    assert {"TLSv1_1": "no handshake", "TLSv1_2": 200, "TLSv1_3": 200} == versions
    assert b"HTTP" not in answer


def test_the_token_stays_inside(site: Site, guarded: Exporter) -> None:
    """No log at debug level, no answer and no help holds it."""
    client = Client(guarded, trusting(site.ca, site.client), TOKEN)
    said = [client.get(path)[1] for path in ("/metrics", "/", "/nope")]
    said += [guarded.stderr, run("--help", *site.options()).stdout]
    wrong = Client(guarded, trusting(site.ca, site.client), "wr0ng-t0ken")
    said += [wrong.get("/metrics")[1], guarded.stderr]

    assert [] == [text for text in said if re.search("t0ken|PRIVATE KEY", text)]
    assert "status=401" in said[-1]


def test_renewed_certificates_are_taken(engine: Simulation, tmp_path: Path) -> None:
    """With no restart: a new authority's, in the same files; a spoilt file in between changes nothing."""
    ca, new_ca = authority(tmp_path, "old"), authority(tmp_path, "new")
    server = issue(tmp_path, "renewable", ca)
    with exporter(
        f"--docker-host={engine.url}",
        f"--web-tls-cert-file={server.cert}",
        f"--web-tls-key-file={server.key}",
    ) as process:
        old, new = (Client(process, trusting(signer)) for signer in (ca, new_ca))
        before = [outcome(client, "/ping") for client in (old, new)]
        server.cert.write_text("nonsense")
        spoilt = [outcome(client, "/ping") for client in (old, new)]
        server.replace_by(issue(tmp_path, "renewed", new_ca))
        after = [outcome(client, "/ping") for client in (old, new)]
        log = process.stderr

    assert [200, "no handshake"] == before == spoilt
    assert ["no handshake", 200] == after
    assert 1 == log.count("event=credentials.unusable ")
    assert 1 == log.count("event=credentials.changed ")


@pytest.mark.parametrize(
    ("spoil", "code", "complaint"),
    [
        (lambda _: ["--web-bearer-token-file=/nowhere/token"], 1, "/nowhere/token: No such file"),
        (lambda _: ["--web-bearer-token-file=/dev/null"], 1, "/dev/null: the file is empty"),
        (lambda _: ["--web-tls-cert-file=/nowhere"], 1, "/nowhere: No such file"),
        (lambda site: [f"--web-tls-key-file={site.ca.key}"], 1, "this is not the key of"),
        (lambda site: [f"--web-client-ca-file={site.token}"], 1, "no certificate as PEM"),
        (lambda _: ["--web-tls-cert-file="], 2, "it takes a path"),
    ],
)
def test_a_spoilt_file_is_one_line(
    site: Site, spoil: Callable[[Site], list[str]], code: int, complaint: str
) -> None:
    """That names it, and the end."""
    done = run("--listen-port=0", *site.options(), *spoil(site))

    assert code == done.returncode
    assert complaint in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert "t0ken" not in done.stderr


@pytest.mark.parametrize("option", ["--web-tls-cert-file", "--web-tls-key-file", "--web-client-ca-file"])
def test_a_combination_that_can_not_be(option: str) -> None:
    """A certificate needs its key, a client CA a certificate."""
    done = run(f"{option}=x")

    assert 2 == done.returncode
    assert re.fullmatch(r"docker-prom-exporter: .* needs --web-tls-\S+ .*\n", done.stderr)


@contextmanager
def connected(process: Exporter) -> Iterator[socket.socket]:
    """Yield a connection as another host's."""
    url = urlsplit(process.url)
    address = (str(url.hostname), url.port or 0)
    with socket.create_connection(address, 10, source_address=(ELSEWHERE, 0)) as connection:
        yield connection


@pytest.fixture(params=["http", "https"])
def client(request: pytest.FixtureRequest, site: Site, engine: Simulation) -> Iterator[Client]:
    """Return a good client of an exporter without TLS, and of one with."""
    tls = request.param == "https"
    options = site.options(tls=tls, client_ca=tls, token=False)
    with exporter(f"--docker-host={engine.url}", "--poll-interval=2", *options) as process:
        good = Client(process, trusting(site.ca, site.client) if tls else None)
        wait_for(lambda: 'name="web-299"' in good.get("/metrics")[1], what="the containers")
        yield good


def speak(client: Client, stack: ExitStack) -> socket.socket:
    """Connect as a client does that gets in, if need be over TLS, with little room for what it is sent."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = urlsplit(client.exporter.url)
    plain.connect((url.hostname, url.port))
    if client.tls is None:
        return stack.enter_context(plain)
    return stack.enter_context(client.tls.wrap_socket(plain, server_hostname=url.hostname))


def test_a_thousand_silent_connections(client: Client, table: list[tuple[str, str, str]]) -> None:
    """Most are dropped, without a handshake or with half of one; a scrape has its place and its second."""
    before = footprint(client.exporter._daemon.pid)
    with ExitStack() as stack, watching(client) as watch:
        for number in range(1000):
            connection = stack.enter_context(connected(client.exporter))
            with suppress(OSError):
                connection.send(b"\x16\x03\x01" if number % 2 else b"")
        most = before["descriptors"] + (140 if client.tls is None else 40)
        wait_for(
            lambda: footprint(client.exporter._daemon.pid)["descriptors"] <= most,
            what="the bound on connections",
        )
        after = footprint(client.exporter._daemon.pid)
        wait_for(lambda: watch.scrapes > 5, what="some scrapes")
    scheme = "with TLS" if client.tls else "without TLS"
    table.append((f"web: 1,000 silent connections, {scheme}", "few are kept", f"{before} → {after}"))

    assert after["threads"] <= before["threads"] + 4
    assert after["MB"] <= before["MB"] + 50


def is_cut(connection: socket.socket) -> bool:
    """Send a byte, if it may, and take one: whether the other side has had enough of that."""
    connection.settimeout(0.02)
    try:
        connection.send(b"x")
        connection.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def test_slow_clients_are_cut_off(client: Client, table: list[tuple[str, str, str]]) -> None:
    """Asking or reading a byte a second, or no handshake, holds a place for its time, and nobody up."""
    before = footprint(client.exporter._daemon.pid)
    with ExitStack() as stack, watching(client) as watch:
        slow = [stack.enter_context(connected(client.exporter)) for _ in range(5)]
        slow += [speak(client, stack) for _ in range(20)]
        for connection in slow[5:10]:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        for connection in slow[10:]:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 20)

        def all_cut() -> bool:
            slow[:] = [connection for connection in slow if not is_cut(connection)]
            return not slow

        wait_for(all_cut, what="the slow clients to be cut off", seconds=60, every=1)
        after = footprint(client.exporter._daemon.pid)
    scheme = "with TLS" if client.tls else "without TLS"
    table.append((f"web: 25 slow clients, {scheme}", "cut off", f"{watch.row()[1]}; {before} → {after}"))

    assert after["threads"] <= before["threads"] + 4
    assert after["descriptors"] <= before["descriptors"] + 10
    assert after["MB"] <= before["MB"] + 50


def scrape_config(process: Exporter, jobs: dict[str, dict[str, object]]) -> str:
    common = {"scrape_interval": "1s", "static_configs": [{"targets": [urlsplit(process.url).netloc]}]}
    return json.dumps({"scrape_configs": [{"job_name": name, **common, **job} for name, job in jobs.items()]})


def last_errors(server: Server) -> dict[str, str]:
    """Return what a Prometheus has against the last scrape of each job; nothing before all were tried."""
    targets = json.loads(server.get("/api/v1/targets"))["data"]["activeTargets"]
    if any(target["health"] == "unknown" for target in targets):
        return {}
    return {target["scrapePool"]: target["lastError"] for target in targets}


def test_a_real_prometheus_gets_in(site: Site, guarded: Exporter, tmp_path: Path) -> None:
    """With a client certificate and the token; not without the one or the other."""
    certificate = {
        "ca_file": str(site.ca.cert),
        "cert_file": str(site.client.cert),
        "key_file": str(site.client.key),
    }
    token = {"authorization": {"credentials_file": str(site.token)}}
    jobs: dict[str, dict[str, object]] = {
        "both": {"tls_config": certificate, **token},
        "no token": {"tls_config": certificate},
        "wrong token": {"tls_config": certificate, "authorization": {"credentials": "wr0ng"}},
        "no certificate": {"tls_config": {"ca_file": str(site.ca.cert)}, **token},
        "no TLS": {"scheme": "http", **token},
    }
    jobs = {name: {"scheme": "https", **job} for name, job in jobs.items()}
    with running(prometheus(tmp_path, scrape_config(guarded, jobs))) as server:
        complaints = wait_for(lambda: last_errors(server), what="each job's first scrape", seconds=30)

    assert "" == complaints.pop("both")
    assert "" != complaints.pop("no TLS")
    assert {
        "no token": "server returned HTTP status 401 Unauthorized",
        "wrong token": "server returned HTTP status 401 Unauthorized",
        "no certificate": "server returned HTTP status 403 Forbidden",
    } == complaints
