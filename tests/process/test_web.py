"""The web server on a hostile network: access, scrapes beside bad clients, secrecy of the credentials."""

import base64
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docker_prom_exporter.demo import WATCH
from support.certificates import Certificate, authority, issue, trusting
from support.exporters import AT_ONCE, Client, Exporter, exporter, run
from support.footprint import footprint
from support.hostile import hostile_clients
from support.missing import require_program
from support.prometheus import scraping
from support.simulated import Simulation, simulation
from support.waiting import wait_for
from support.watching import watching

TOKEN = "s3cret-t0ken"
SLOTS = 48
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
"""The exporter doesn't listen on the second, so a client that connects from it counts as another host."""


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


def outcome(client: Client, path: str, **headers: str) -> int | str:
    """Return the status of the answer, or that the handshake failed."""
    try:
        return client.get(path, **headers)[0]
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return "no handshake"


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"


NO_HANDSHAKE = ("no handshake",) * 3


@pytest.mark.parametrize(
    ("certificate", "authorization", "address", "expected"),
    [
        ("client", f"Bearer {TOKEN}", ELSEWHERE, (200, 200, 200)),
        ("client", basic(TOKEN), ELSEWHERE, (200, 200, 200)),
        ("client", "", ELSEWHERE, (401, 401, 200)),
        ("client", "Bearer s3cret-t0ke", ELSEWHERE, (401, 401, 200)),
        ("client", basic("s3cret-t0ke"), ELSEWHERE, (401, 401, 200)),
        ("stranger", f"Bearer {TOKEN}", ELSEWHERE, NO_HANDSHAKE),
        ("server", f"Bearer {TOKEN}", ELSEWHERE, NO_HANDSHAKE),
        (None, f"Bearer {TOKEN}", ELSEWHERE, NO_HANDSHAKE),
        (None, f"Bearer {TOKEN}", HERE, (403, 403, 200)),
        ("stranger", f"Bearer {TOKEN}", HERE, NO_HANDSHAKE),
    ],
)
def test_who_gets_in(
    site: Site,
    guarded: Exporter,
    certificate: str | None,
    *,
    authorization: str,
    address: str,
    expected: tuple[int | str, ...],
) -> None:
    """A client needs a client certificate, and for /metrics and / also the token.

    On the exporter's own host /-/healthy needs no certificate; a foreign one fails the handshake.
    """
    own = getattr(site, certificate) if certificate else None
    client = Client(guarded, trusting(site.ca, own), address=address)
    headers = {"Authorization": authorization} if authorization else {}

    assert expected == tuple(
        outcome(client, path, **headers) for path in ("/metrics", "/", "/-/healthy")
    )


def test_the_healthcheck_works(site: Site, guarded: Exporter) -> None:
    """The healthcheck passes with the options of the exporter."""
    done = run("healthcheck", f"--listen-port={urlsplit(guarded.url).port}", *site.options())

    assert (0, "healthy\n", "") == (done.returncode, done.stdout, done.stderr)


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


def test_silent_and_slow_clients(client: Client) -> None:
    """Of 1,000 silent connections few are kept, slow clients are cut off, and no scrape is delayed."""
    pid = client.exporter._daemon.pid
    before = footprint(pid)
    with ExitStack() as stack, watching(client) as watch:
        for number in range(1000):
            connection = stack.enter_context(connected(client.exporter))
            with suppress(OSError):
                connection.send(b"\x16\x03\x01" if number % 2 else b"")
        wait_for(
            lambda: footprint(pid)["descriptors"] <= before["descriptors"] + SLOTS + 4,
            what="the exporter to drop connections",
        )
        silent = footprint(pid)
        wait_for(lambda: watch.scrapes > 5, what="some scrapes")
        slow = [speak(client, stack) for _ in range(20)]
        for number, connection in enumerate(slow):
            asked = b"GET /metrics HTTP/1.1\r\n" + (b"X: " if number < 5 else b"\r\n")
            connection.sendall(asked * (1 if number < 5 else 20))

        def all_cut() -> bool:
            slow[:] = [connection for connection in slow if not is_cut(connection)]
            return not slow

        wait_for(all_cut, what="the slow clients to be cut off", every=1)
        after = footprint(pid)

    assert silent["threads"] <= before["threads"] + SLOTS + 4
    assert after["threads"] <= before["threads"] + SLOTS + 4
    assert after["MB"] <= before["MB"] + 20


def test_sixty_four_descriptors(engine: Simulation) -> None:
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

    assert len(log) < 10


def test_a_signal_ends_it_under_load(engine: Simulation) -> None:
    """SIGTERM ends the exporter at once under the load of eight hostile clients."""
    with exporter(f"--docker-host={engine.url}") as process, hostile_clients(process.url):
        wait_for(lambda: footprint(process._daemon.pid)["threads"] > 20, what="the load")
        code, seconds = process.stop(signal.SIGTERM)

    assert 0 == code
    assert seconds < AT_ONCE


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
        done = run("healthcheck", *options, wrapper=inside)

    assert (0, "healthy\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_real_prometheus_gets_in(site: Site, guarded: Exporter, tmp_path: Path) -> None:
    """Prometheus can scrape with a client certificate and the token."""
    certificate = {
        "ca_file": str(site.ca.cert),
        "cert_file": str(site.client.cert),
        "key_file": str(site.client.key),
    }
    token = {"credentials_file": str(site.token)}
    access = {"scheme": "https", "tls_config": certificate, "authorization": token}
    with scraping(tmp_path, guarded.url, **access) as server:
        up = server.query("docker_up")

    assert ["1"] == [series["value"][1] for series in up]
