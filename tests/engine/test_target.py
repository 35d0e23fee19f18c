"""The exporter asks the engine that the real Docker CLI asks, in the same way, or refuses with one line.

HAProxy offers one real engine on several roads, and logs which of them a request took, whether it came over
TLS and whether with a client certificate. CLI and exporter get the same environment and the same files.
"""

import http.client
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import Pool
from docker_prom_exporter.deadline import Deadline
from docker_prom_exporter.engine import BadTargetError, EngineError, find_target
from docker_prom_exporter.engine import Engine as EngineClient
from support.certificates import Certificate, authority, issue
from support.exporters import Exporter, exporter
from support.missing import require_program
from support.ports import WORKER, free_port
from support.processes import Command, CommandError, Daemon
from support.real import DOCKER_28, SYSTEM_PATH
from support.waiting import wait_for

_DEFAULT_PORTS = f"127.0.0.{77 + WORKER}"
"""An address whose ports 80, 443 and 2375 are free on any machine, one of each process."""

_CONFIG = """
global
    log stdout format raw local0
    nbthread 1
defaults
    mode http
    log global
    log-format "took:%f,%[ssl_fc],%[ssl_c_used] %ST %HP"
    timeout connect 10s
    timeout client 10s
    timeout server 10s
    default_backend engine
frontend socket
    bind unix@{socket}
frontend plain
    bind {plain}
frontend tls
    bind {tls} ssl crt {pki}/server.both ca-file {pki}/ca.pem verify optional
frontend client_certificate
    bind {client_certificate} ssl crt {pki}/server.both ca-file {pki}/ca.pem verify required
frontend untrusted
    bind {untrusted} ssl crt {pki}/untrusted.both ca-file {pki}/ca.pem verify optional
frontend header
    bind {header}
    http-request deny unless {{ req.hdr(X-Token) secret }}
frontend default_port
    bind {default}:2375
frontend default_web_port
    bind {default}:80
frontend default_tls_port
    bind {default}:443 ssl crt {pki}/server.both
backend engine
    server engine unix@{engine}
"""

SOCKET, PLAIN, HEADER = "socket,0,-", "plain,0,-", "header,0,-"
TLS, TLS_WITH_CERTIFICATE = "tls,1,0", "tls,1,1"
CLIENT_CERTIFICATE, UNTRUSTED = "client_certificate,1,1", "untrusted,1,0"
NONE, REFUSED = "", "refused"


class Row(NamedTuple):
    """One set-up: what `docker context create lab` is told, other files, variables, and who is reached.

    `files` are below the temporary folder, `docker` in it is `DOCKER_CONFIG`. `exporter` is what the exporter
    reaches where the CLI reaches something else. A `%(name)s` stands for a road's address or a folder.
    """

    name: str
    cli: str
    variables: Mapping[str, str] = {}
    context: str = ""
    files: Mapping[str, str] = {}
    exporter: str | None = None
    cwd: str = "."


def meta(name: str, text: str, folder: str = "docker") -> dict[str, str]:
    """Return the file of a context that is written by hand."""
    digest = sha256(name.encode()).hexdigest()
    return {f"{folder}/contexts/meta/{digest}/meta.json": text}


def host(address: str, **variables: str) -> dict[str, str]:
    return {"DOCKER_HOST": address, **variables}


def current(context: str, folder: str = "docker") -> dict[str, str]:
    return {f"{folder}/config.json": f'{{"currentContext": "{context}"}}'}


VERIFY = {"DOCKER_TLS_VERIFY": "1"}
CA = {"DOCKER_CERT_PATH": "%(only_ca)s"}
FILES = {"DOCKER_CERT_PATH": "%(pki)s"}
NO_FILES = {"DOCKER_CERT_PATH": "/gone"}
SYSTEM_CA = {"SSL_CERT_FILE": "%(ca)s"}
LAB = {"DOCKER_CONTEXT": "lab"}
DEMANDING = "tcp://%(client_certificate)s"
BARE = '{"Endpoints": {"docker": {"Host": "tcp://%(plain)s"}}}'
OLD = '{"Metadata": {"StackOrchestrator": "all"}, "Endpoints": {"kubernetes": {"Host": "x"}, %s}}'
ON_SOCKET = BARE.replace("tcp://%(plain)s", "unix://%(socket)s")
AT_HOME = meta("lab", BARE, "home/.docker") | current("lab", "home/.docker")

# What `docker context create lab` is told.
ON_PLAIN = "host=tcp://%(plain)s"
OWN_KEY = "cert=%(pki)s/cert.pem,key=%(pki)s/key.pem"
UNVERIFIED = "skip-tls-verify=true"

# A config.json beside a context, and who is reached.
CONFIGS = {
    '{"currentContext": ""}': NONE,
    '{"currentContext": null}': NONE,
    '{"currentContext": "default"}': NONE,
    '{"currentContext": "lab", "currentContext": null}': PLAIN,
    "": NONE,
    "null": NONE,
    '{"currentContext": 5}': NONE,
    '{"CurrentContext": "lab", "auths": {"r": {"auth": "."}}}': PLAIN,
    '{"currentContext": "lab", "auths": "x", "proxies": 5, "HttpHeaders": 5}': PLAIN,
    '{"currentContext": "lab"} more': PLAIN,
    '{"currentContext": "lab"': NONE,
    "[]": NONE,
}

ROWS = [
    # Addresses
    Row("socket", SOCKET, host("unix://%(socket)s")),
    Row("spaces around", SOCKET, host(" unix://%(socket)s ")),
    Row("tcp", PLAIN, host("tcp://%(plain)s")),
    Row("tcp and a slash", PLAIN, host("tcp://%(plain)s/")),
    Row("no scheme", PLAIN, host("%(plain)s")),
    Row("no port", "default_port,0,-", host(f"tcp://{_DEFAULT_PORTS}")),
    Row("no port and no scheme", "default_port,0,-", host(_DEFAULT_PORTS)),
    Row("http", NONE, host("http://%(plain)s"), exporter=PLAIN),
    Row("https, the system's CAs", NONE, host("https://%(tls)s", **SYSTEM_CA), exporter=TLS),
    Row("https and an unknown CA", NONE, host("https://%(tls)s")),
    # TLS by variables
    Row("only a CA", TLS, host("tcp://%(tls)s", **VERIFY, **CA)),
    Row("all three files", TLS_WITH_CERTIFICATE, host("tcp://%(tls)s", **VERIFY, **FILES)),
    Row("a required certificate", CLIENT_CERTIFICATE, host(DEMANDING, **VERIFY, **FILES)),
    Row("a missing certificate", NONE, host(DEMANDING, **VERIFY, **CA)),
    Row("the value 0", TLS, host("tcp://%(tls)s", **CA, DOCKER_TLS_VERIFY="0")),
    Row("DOCKER_TLS", UNTRUSTED, host("tcp://%(untrusted)s", **CA, DOCKER_TLS="1")),
    Row("an untrusted engine", NONE, host("tcp://%(untrusted)s", **VERIFY, **CA)),
    Row("only DOCKER_CERT_PATH", PLAIN, host("tcp://%(plain)s", **FILES)),
    Row("only DOCKER_CERT_PATH, TLS", NONE, host("tcp://%(tls)s", **FILES)),
    Row("no HTTP over TLS", NONE, host("tcp://%(plain)s", **VERIFY, **CA)),
    Row("DOCKER_CERT_PATH beside a socket", SOCKET, host("unix://%(socket)s", **NO_FILES)),
    Row("TLS beside a socket", SOCKET, host("unix://%(socket)s", **VERIFY, **CA)),
    # Contexts
    Row("context", PLAIN, LAB, ON_PLAIN),
    Row("context of a socket", SOCKET, LAB, "host=unix://%(socket)s"),
    Row("context with a CA", TLS, LAB, "host=tcp://%(tls)s,ca=%(ca)s"),
    Row(
        "context, all files", CLIENT_CERTIFICATE, LAB, f"host={DEMANDING},ca=%(ca)s,{OWN_KEY}"
    ),
    Row(
        "context, no CA",
        TLS_WITH_CERTIFICATE,
        LAB,
        f"host=tcp://%(tls)s,{OWN_KEY},{UNVERIFIED}",
    ),
    Row("context, nothing verified", UNTRUSTED, LAB, f"host=tcp://%(untrusted)s,{UNVERIFIED}"),
    Row("context with another CA", NONE, LAB, "host=tcp://%(untrusted)s,ca=%(ca)s"),
    Row("context with a CA, HTTP", NONE, LAB, f"{ON_PLAIN},ca=%(ca)s"),
    Row("context, nothing verified, HTTP", NONE, LAB, f"{ON_PLAIN},{UNVERIFIED}"),
    Row("context without a port", "default_web_port,0,-", LAB, f"host=tcp://{_DEFAULT_PORTS}"),
    Row(
        "the same with TLS",
        "default_tls_port,1,0",
        LAB,
        f"host=tcp://{_DEFAULT_PORTS},{UNVERIFIED}",
    ),
    Row("variables left over", PLAIN, LAB | VERIFY | NO_FILES, ON_PLAIN),
    Row("current context", PLAIN, {}, ON_PLAIN, current("lab")),
    Row("default before it", NONE, {"DOCKER_CONTEXT": "default"}, ON_PLAIN, current("lab")),
    Row("host before both", SOCKET, LAB | host("unix://%(socket)s"), ON_PLAIN, current("lab")),
    Row("context before the current", PLAIN, LAB, ON_PLAIN, current("gone")),
    Row(
        "an empty TLS folder",
        TLS,
        LAB | SYSTEM_CA,
        "",
        meta("lab", BARE.replace("plain", "tls"))
        | {f"docker/contexts/tls/{sha256(b'lab').hexdigest()}/docker/": ""},
    ),
    Row(
        "old context",
        PLAIN,
        LAB,
        "",
        meta("lab", OLD % '"docker": {"Host": "tcp://%(plain)s"}'),
    ),
    Row("context without a name", PLAIN, LAB, "", meta("lab", BARE.lower())),
    # Folders
    Row("same name at home", PLAIN, LAB, ON_PLAIN, meta("lab", ON_SOCKET, "home/.docker")),
    Row("current context at home", NONE, {}, "", AT_HOME),
    Row("home", PLAIN, {"DOCKER_CONFIG": ""}, "", AT_HOME),
    # config.json
    *(
        Row(f"config.json: {text}", reached, {}, ON_PLAIN, {"docker/config.json": text})
        for text, reached in CONFIGS.items()
    ),
    Row("config.json: a folder", NONE, {}, "", {"docker/config.json/": ""}),
    Row(
        "headers",
        HEADER,
        host("tcp://%(header)s"),
        "",
        {"docker/config.json": '{"HttpHeaders": {"X-Token": "secret", "Host": "other"}}'},
    ),
    Row("no headers", NONE, host("tcp://%(header)s")),
]

# The exporter refuses these in one line, whatever the CLI does.
REFUSED_ROWS = [
    Row("docker-py's spelling of a socket", NONE, host("unix://var/run/docker.sock")),
    Row("relative to a folder", SOCKET, host("unix://%(relative)s"), cwd="/"),
    Row("an empty label", NONE, host("tcp://a..b:2375")),
    Row("not an IPv4 address", NONE, host("tcp://127.1:2375")),
    Row("ssh", SOCKET, host("ssh://nas")),
    Row("unknown scheme", NONE, host("foo://nas")),
    Row("a password", PLAIN, host("tcp://u:p@%(plain)s")),
    Row("a query", PLAIN, host("tcp://%(plain)s?x=1")),
    Row("no CA", NONE, host("tcp://%(tls)s", **VERIFY)),
    Row("no CA, unverified", NONE, host("tcp://%(tls)s", DOCKER_TLS="1")),
    Row("context over ssh", SOCKET, LAB, "host=ssh://nas"),
    Row("current context that is gone", NONE, {}, "", current("gone")),
    Row("context without an engine", NONE, LAB, "", meta("lab", '{"Endpoints": {}}')),
    Row("broken context", NONE, LAB, "", meta("lab", BARE[:-2])),
    Row("in the working directory", NONE, LAB, "", meta("lab", BARE, "work"), cwd="work"),
]
ROWS += [row._replace(exporter=REFUSED) for row in REFUSED_ROWS]


class Roads:
    """HAProxy in front of an engine; `names` are the addresses and folders that rows refer to."""

    def __init__(self, folder: Path, engine: Path) -> None:
        pki = folder / "pki"
        _certificates(pki, folder)
        roads = ("plain", "tls", "client_certificate", "untrusted", "header")
        self.names = {road: f"127.0.0.1:{free_port()}" for road in roads}
        socket = folder / "road.sock"
        config = folder / "haproxy.cfg"
        config.write_text(
            _CONFIG.format(
                **self.names, socket=socket, pki=pki, default=_DEFAULT_PORTS, engine=engine
            )
        )
        self.names |= {"socket": str(socket), "relative": str(socket).removeprefix("/")}
        self.names |= {"pki": str(pki), "ca": f"{pki}/ca.pem", "only_ca": f"{folder}/only_ca"}
        self._daemon = Daemon(folder / "log")
        self._daemon.start(Command([require_program("haproxy"), "-db", "-f", str(config)], {}))
        self._barriers = 0
        self.taken()  # wait until HAProxy listens

    def taken(self) -> str:
        """Return the roads by which `/version` was answered since the last call."""
        wait_for(self._log_a_barrier, what="HAProxy to log")
        lines = self._daemon.log.read_text().rpartition(f"/barrier/{self._barriers}\n")[0]
        self._barriers += 1
        since = lines.rpartition(f"/barrier/{self._barriers - 2}\n")[2]
        return " ".join(sorted({*re.findall(r"took:(\S+) 200 \S*/version", since)}))

    def stop(self) -> None:
        """Kill HAProxy."""
        self._daemon.kill()

    def _log_a_barrier(self) -> bool:
        """HAProxy has one thread, so its log has the requests that ended before this one."""
        mark = f"/barrier/{self._barriers}"
        with suppress(OSError):
            connection = http.client.HTTPConnection(self.names["plain"], timeout=5)
            connection.request("GET", mark)
            connection.getresponse().read()
            connection.close()
        return f"{mark}\n" in self._daemon.log.read_text()


def _certificates(pki: Path, folder: Path) -> None:
    """Make the certificates of the roads and of the client, and a folder that has only `ca.pem`."""
    for each in (pki, folder / "other", folder / "only_ca"):
        each.mkdir()
    ca = authority(pki)
    client = issue(pki, "client", ca, "clientAuth")
    Certificate(pki / "cert.pem", pki / "key.pem").replace_by(client)
    server, untrusted = (
        issue(pki, "server", ca),
        issue(pki, "untrusted", authority(folder / "other")),
    )
    for name, made in (("server", server), ("untrusted", untrusted)):
        (pki / f"{name}.both").write_text(made.cert.read_text() + made.key.read_text())
    (folder / "only_ca/ca.pem").write_bytes(ca.cert.read_bytes())


@pytest.fixture(scope="module")
def roads(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roads]:
    """Yield the roads to a real engine."""
    with contextmanager(pool.lend)(DOCKER_28) as engine:
        roads = Roads(tmp_path_factory.mktemp("roads"), engine.listen)
        yield roads
        roads.stop()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with those of a row, and a program `ssh` that connects to the road of a socket."""
    for name in ("docker", "home", "work", "bin"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_as_the_cli(
    row: Row, roads: Roads, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter reaches the engine that the CLI reaches, over the same road, or refuses in one line."""
    environ = _prepare(row, roads, place)
    cwd = place / row.cwd
    said = _cli(environ, cwd)
    by_cli = roads.taken()
    monkeypatch.chdir(cwd)
    if "SSL_CERT_FILE" in environ:
        monkeypatch.setenv("SSL_CERT_FILE", environ["SSL_CERT_FILE"])
    url, by_exporter = _exporter(environ), roads.taken()

    assert row.cli == by_cli, said
    assert (row.cli if row.exporter is None else row.exporter) == (
        by_exporter if url else REFUSED
    )
    # Where nobody is reached, both must have tried the same socket.
    tried = re.search(r"daemon at (unix://\S+)\. Is", said)
    assert not url or tried is None or url == tried[1]


def test_an_unverified_engine_is_warned_of_once(roads: Roads) -> None:
    """A certificate that is not verified gives one line at the start, and none for a connection."""
    variables = ("DOCKER_TLS=1", f"DOCKER_CERT_PATH={roads.names['only_ca']}")
    url = f"tcp://{roads.names['untrusted']}"
    with exporter("--docker-host", url, wrapper=("env", *variables)) as running:
        wait_for(lambda: _polls(running) >= 3, what="three polls")
        up, log = running.metrics().value("docker_up"), running.stderr

    assert 1 == up
    assert 1 == log.count("event=docker.certificate_not_verified")
    assert "InsecureRequestWarning" not in log
    assert UNTRUSTED == roads.taken()


def _polls(running: Exporter) -> float:
    return running.metrics().value("docker_exporter_polls_total", result="success") or 0


def _prepare(row: Row, roads: Roads, place: Path) -> dict[str, str]:
    """Write the files of a row, and return the environment."""
    environ = {"PATH": f"{place}/bin:{SYSTEM_PATH}", "HOME": f"{place}/home"}
    environ["DOCKER_CONFIG"] = f"{place}/docker"
    client = DOCKER_28.folder / "usr/bin/docker"
    ssh = place / "bin/ssh"
    ssh.write_text(
        f"#!/bin/sh\nexec {client} --host unix://{roads.names['socket']} system dial-stdio\n"
    )
    ssh.chmod(0o755)
    if row.context:
        described = row.context % roads.names
        Command([str(client)], environ).run("context", "create", "lab", "--docker", described)
    for name, text in row.files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.write_text(text % roads.names)
    return environ | {name: value % roads.names for name, value in row.variables.items()}


def _cli(environ: Mapping[str, str], cwd: Path) -> str:
    """Run `docker version` and return its error, or an empty string."""
    client = str(DOCKER_28.folder / "usr/bin/docker")
    try:
        Command([client, "version", "--format={{.Server.Version}}"], environ, cwd).run(
            seconds=30
        )
    except CommandError as error:
        return str(error)
    return ""


def _exporter(environ: Mapping[str, str]) -> str:
    """Connect to the engine and return its address; an empty string if the address is refused."""
    try:
        target = find_target(environ.get("DOCKER_HOST") or None, environ)
    except BadTargetError as error:
        assert error.detail.isprintable()  # noqa: PT017  a row may be refused or not
        return ""
    engine = EngineClient(target, 5)
    with suppress(EngineError):
        engine.connect(Deadline.after(5))
    engine.disconnect()
    return target.url
