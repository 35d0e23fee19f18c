"""The web server on a hostile network: access, scrapes beside bad clients, secrecy of the credentials."""

import base64
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docker_prom_exporter.demo import WATCH
from support.certificates import Certificate, authority, issue, trusting
from support.clients import Client, read_all
from support.exporters import AT_ONCE, Exporter, exporter, run
from support.footprint import footprint
from support.hostile import NAMES, hostile_clients
from support.missing import require_program
from support.ports import free_port
from support.prometheus import Server, prometheus, running
from support.simulated import Simulation, simulation
from support.waiting import wait_for
from support.watching import watching

TOKEN = "s3cret-t0ken"
SLOTS = 48
ELSEWHERE = "127.0.0.2"
"""The exporter doesn't listen on this address, so a client that connects from it counts as another host."""


@dataclass(frozen=True)
class Site:
    """The certificates of a CA, the server, a client and a foreign client, and the file of the token."""

    ca: Certificate
    server: Certificate
    client: Certificate
    stranger: Certificate
    token: Path

    def options(
        self, *, tls: bool = True, client_ca: bool = True, token: bool = True
    ) -> list[str]:
        cert = [
            f"--web-tls-cert-file={self.server.cert}",
            f"--web-tls-key-file={self.server.key}",
        ]
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
    with exporter(
        f"--docker-host={engine.url}", "--log-level=debug", *site.options()
    ) as process:
        yield process


def outcome(client: Client, path: str) -> int | str:
    """Return the status of the answer, or that the handshake failed."""
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
    site: Site,
    guarded: Exporter,
    certificate: str | None,
    token: str,
    expected: tuple[int | str, ...],
) -> None:
    """A client on another host needs a client certificate, and for /metrics and / also the token."""
    own = getattr(site, certificate) if certificate else None
    client = Client(guarded, trusting(site.ca, own), token, ELSEWHERE)

    assert expected == tuple(outcome(client, path) for path in ("/metrics", "/", "/-/healthy"))


def test_the_own_host_asks_for_health_without_a_certificate(
    site: Site, guarded: Exporter
) -> None:
    """On the exporter's own host only /-/healthy needs no certificate; a foreign one fails the handshake."""
    bare = Client(guarded, trusting(site.ca), TOKEN)
    strange = Client(guarded, trusting(site.ca, site.stranger), TOKEN)

    assert [403, 403, 200] == [outcome(bare, path) for path in ("/metrics", "/", "/-/healthy")]
    assert "no handshake" == outcome(strange, "/-/healthy")


def test_the_healthcheck_works(site: Site, guarded: Exporter) -> None:
    """The healthcheck passes with the options of the exporter."""
    done = run("healthcheck", f"--listen-port={urlsplit(guarded.url).port}", *site.options())

    assert (0, "healthy\n", "") == (done.returncode, done.stdout, done.stderr)


def test_refusals_say_what_is_missing(site: Site, guarded: Exporter) -> None:
    """The body of a 401 says that the token is missing."""
    status, body = Client(guarded, trusting(site.ca, site.client)).get("/metrics")

    assert (
        401,
        "401 Unauthorized: this needs the bearer token, or the token as password\n",
    ) == (
        status,
        body,
    )


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_tls_and_no_tls_are_refused(site: Site, guarded: Exporter) -> None:
    """TLS 1.2 and 1.3 are accepted; TLS 1.1 fails the handshake, and plain HTTP gets no answer."""
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
    """The token and the private keys are in no answer, in no log at debug level and not in the help."""
    client = Client(guarded, trusting(site.ca, site.client), TOKEN)
    said = [client.get(path)[1] for path in ("/metrics", "/", "/nope")]
    said += [guarded.stderr, run("--help", *site.options()).stdout]
    wrong = Client(guarded, trusting(site.ca, site.client), "wr0ng-t0ken")
    said += [wrong.get("/metrics")[1], guarded.stderr]

    assert [] == [text for text in said if re.search("t0ken|PRIVATE KEY", text)]
    assert "status=401" in said[-1]


def test_renewed_certificates_are_taken(engine: Simulation, tmp_path: Path) -> None:
    """A renewed certificate is used without a restart; while a file is invalid, the old one stays in use."""
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
        (
            lambda _: ["--web-bearer-token-file=/nowhere/token"],
            1,
            "/nowhere/token: No such file",
        ),
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
    """An unusable file ends the start with an exit code and one line that says what is wrong with it."""
    done = run("--listen-port=0", *site.options(), *spoil(site))

    assert code == done.returncode
    assert complaint in done.stderr
    assert 1 == len(done.stderr.splitlines())
    assert "t0ken" not in done.stderr


@contextmanager
def connected(process: Exporter) -> Iterator[socket.socket]:
    """Yield a connection to the exporter from the address of another host."""
    url = urlsplit(process.url)
    address = (str(url.hostname), url.port or 0)
    with socket.create_connection(address, 10, source_address=(ELSEWHERE, 0)) as connection:
        yield connection


@pytest.fixture(params=["http", "https"])
def client(request: pytest.FixtureRequest, site: Site, engine: Simulation) -> Iterator[Client]:
    """Yield a well-behaved client of an exporter, without and with TLS."""
    tls = request.param == "https"
    options = site.options(tls=tls, client_ca=tls, token=False)
    with exporter(f"--docker-host={engine.url}", "--poll-interval=2", *options) as process:
        good = Client(process, trusting(site.ca, site.client) if tls else None)
        wait_for(lambda: 'name="web-299"' in good.get("/metrics")[1], what="the containers")
        yield good


def speak(client: Client, stack: ExitStack) -> socket.socket:
    """Return a connection of an accepted client, over TLS if it uses that, with a small receive buffer."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = urlsplit(client.exporter.url)
    plain.connect((url.hostname, url.port))
    if client.tls is None:
        return stack.enter_context(plain)
    return stack.enter_context(client.tls.wrap_socket(plain, server_hostname=url.hostname))


def test_a_thousand_silent_connections(
    client: Client, table: list[tuple[str, str, str]]
) -> None:
    """The exporter keeps at most 48 of 1,000 silent connections, and answers each scrape at once."""
    before = footprint(client.exporter._daemon.pid)
    with ExitStack() as stack, watching(client) as watch:
        for number in range(1000):
            connection = stack.enter_context(connected(client.exporter))
            with suppress(OSError):
                connection.send(b"\x16\x03\x01" if number % 2 else b"")
        wait_for(
            lambda: (
                footprint(client.exporter._daemon.pid)["descriptors"]
                <= before["descriptors"] + SLOTS + 4
            ),
            what="the exporter to drop connections",
        )
        after = footprint(client.exporter._daemon.pid)
        wait_for(lambda: watch.scrapes > 5, what="some scrapes")
    scheme = "with TLS" if client.tls else "without TLS"
    table.append(
        (f"web: 1,000 silent connections, {scheme}", "few are kept", f"{before} → {after}")
    )

    assert after["threads"] <= before["threads"] + SLOTS + 4
    assert after["MB"] <= before["MB"] + 20


def is_cut(connection: socket.socket) -> bool:
    """Try to send and receive a byte, and return whether the exporter has closed the connection."""
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
    """Clients that are slow to shake hands, ask or read are cut off, and delay no scrape."""
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
    table.append(
        (f"web: 25 slow clients, {scheme}", "cut off", f"{watch.row()[1]}; {before} → {after}")
    )

    assert after["threads"] <= before["threads"] + 4
    assert after["descriptors"] <= before["descriptors"] + 10
    assert after["MB"] <= before["MB"] + 20


def address_of(process: Exporter) -> tuple[str, int]:
    url = urlsplit(process.url)
    return str(url.hostname), url.port or 0


def test_clients_that_hang_up(client: Client, table: list[tuple[str, str, str]]) -> None:
    """After 3,000 clients made expensive requests and hung up, the next scrape is answered at once."""
    asked = f"GET {NAMES} HTTP/1.1\r\n\r\n".encode()
    for _ in range(3000):
        with (
            suppress(OSError),
            socket.create_connection(address_of(client.exporter), 5) as connection,
        ):
            connection.sendall(asked)
    began = time.monotonic()
    status, _ = client.get("/metrics")
    took = time.monotonic() - began
    scheme = "with TLS" if client.tls else "without TLS"
    table.append(
        (
            f"web: 3,000 clients hang up, {scheme}",
            "a scrape at once",
            f"{took * 1000:.0f} ms",
        )
    )

    assert 200 == status


def test_sixty_four_descriptors(engine: Simulation, table: list[tuple[str, str, str]]) -> None:
    """While silent clients use all 64 descriptors, scrapes are answered and little is logged."""
    limited = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
    with (
        exporter(f"--docker-host={engine.url}", wrapper=limited) as process,
        ExitStack() as stack,
    ):
        with watching(Client(process)) as watch:
            for _ in range(200):
                stack.enter_context(connected(process))
            watch.polls_pass(3)
            wait_for(lambda: watch.scrapes > 10, what="some scrapes")
        log = process.stderr.splitlines()
    table.append(("web: 64 descriptors, 200 silent clients", "scrapes", watch.row()[1]))

    assert len(log) < 10


def test_a_signal_ends_it_under_load(engine: Simulation) -> None:
    """SIGTERM ends the exporter at once under the load of eight hostile clients."""
    with exporter(f"--docker-host={engine.url}") as process, hostile_clients(process.url):
        wait_for(lambda: footprint(process._daemon.pid)["threads"] > 20, what="the load")
        code, seconds = process.stop(signal.SIGTERM)

    assert 0 == code
    assert seconds < AT_ONCE


def exporter_command(*options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "docker_prom_exporter", *options]


def test_a_log_that_nobody_reads(engine: Simulation) -> None:
    """With a full pipe as standard error, requests are answered and SIGTERM ends the exporter."""
    port = free_port()
    options = (f"--docker-host={engine.url}", f"--listen-port={port}", "--log-level=debug")
    with subprocess.Popen(exporter_command(*options), stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: is_listening(port), what="the exporter to listen")
            with closing(
                http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            ) as connection:
                for _ in range(2000):
                    connection.request("GET", "/ping")
                    connection.getresponse().read()
            process.terminate()

            assert 0 == process.wait(1)
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_a_host_without_ipv6(engine: Simulation) -> None:
    """With `--listen-addr=::` the exporter serves on a host without IPv6, and its healthcheck passes."""
    require_program("unshare")
    without = (
        'ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && exec "$@"'
    )
    wrapper = ("unshare", "--net", "sh", "-c", without, "sh")
    with exporter(
        f"--docker-host={engine.url}", "--listen-addr=::", wrapper=wrapper
    ) as process:
        options = ("--listen-addr=::", f"--listen-port={urlsplit(process.url).port}")
        inside = ("nsenter", f"--net=/proc/{process._daemon.pid}/ns/net")
        done = subprocess.run(
            [*inside, *exporter_command("healthcheck", *options)],
            capture_output=True,
            text=True,
            check=False,
        )

    assert (0, "healthy\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_password_is_as_good_as_a_bearer(site: Site, guarded: Exporter) -> None:
    """Basic authentication with the token as password is accepted; a wrong password gets 401."""
    client = Client(guarded, trusting(site.ca, site.client))
    credentials = {
        word: base64.b64encode(f"me:{word}".encode()).decode() for word in (TOKEN, "wr0ng")
    }
    statuses = {
        word: client.get("/metrics", Authorization=f"Basic {it}")[0]
        for word, it in credentials.items()
    }

    assert {TOKEN: 200, "wr0ng": 401} == statuses


def scrape_config(process: Exporter, jobs: dict[str, dict[str, object]]) -> str:
    common = {
        "scrape_interval": "1s",
        "static_configs": [{"targets": [urlsplit(process.url).netloc]}],
    }
    return json.dumps(
        {"scrape_configs": [{"job_name": name, **common, **job} for name, job in jobs.items()]}
    )


def last_errors(server: Server) -> dict[str, str]:
    """Return the error of each job's last scrape; an empty dict until Prometheus has tried all jobs."""
    targets = json.loads(server.get("/api/v1/targets"))["data"]["activeTargets"]
    if any(target["health"] == "unknown" for target in targets):
        return {}
    return {target["scrapePool"]: target["lastError"] for target in targets}


def test_a_real_prometheus_gets_in(site: Site, guarded: Exporter, tmp_path: Path) -> None:
    """Prometheus can scrape with a client certificate and the token, but not if one is missing or wrong."""
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
        complaints = wait_for(
            lambda: last_errors(server), what="each job's first scrape", seconds=30
        )

    assert "" == complaints.pop("both")
    assert "" != complaints.pop("no TLS")
    assert {
        "no token": "server returned HTTP status 401 Unauthorized",
        "wrong token": "server returned HTTP status 401 Unauthorized",
        "no certificate": "server returned HTTP status 403 Forbidden",
    } == complaints
