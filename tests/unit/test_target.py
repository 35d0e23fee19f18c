"""The engine to ask, found in the environment and the Docker CLI's files.

tests/engine/test_target.py compares the same with the real CLI.
"""

import json
import os
import ssl
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_prom_exporter.engine import BadTargetError, Target, find_target
from support.certificates import Certificate, authority, issue
from support.processes import output_of
from support.simulated import Simulation

LOCAL = "unix:///var/run/docker.sock"
SSH = "ssh -NL {0}.sock:/var/run/docker.sock {1}, then DOCKER_HOST=unix://$PWD/{0}.sock"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder like `~/.docker`: `ca.pem`, and `cert.pem` and `key.pem` of a client."""
    folder = tmp_path_factory.mktemp("pki")
    client = issue(folder, "client", authority(folder), "clientAuth")
    Certificate(folder / "cert.pem", folder / "key.pem").replace_by(client)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the CLI's configuration folder, without a `config.json`."""
    folder = tmp_path / "docker"
    folder.mkdir()
    return folder


def find(folder: Path, docker_host: str | None = None, **environ: str) -> Target:
    """Find the target with `DOCKER_HOST` and other variables."""
    environ["DOCKER_CONFIG"] = str(folder)
    return find_target(docker_host, environ)


def refusal(folder: Path, docker_host: str | None = None, **environ: str) -> str:
    """Return the message, which must be one line."""
    with pytest.raises(BadTargetError) as caught:
        find(folder, docker_host, **environ)
    assert caught.value.detail.isprintable()
    return caught.value.detail


def add_context(
    folder: Path, name: str, host: str | None = "tcp://lab:2376", **more: Any
) -> Path:
    """Write a context as `docker context create` does, and return the folder for its TLS files."""
    endpoint = {"Host": host, "SkipTLSVerify": False} | more
    return add_meta(
        folder, name, {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
    )


def add_meta(folder: Path, name: str, meta: Any) -> Path:
    """Write a context's metadata, JSON or text, and return the folder for its TLS files."""
    digest = sha256(name.encode()).hexdigest()
    path = folder / "contexts/meta" / digest / "meta.json"
    path.parent.mkdir(parents=True)
    path.write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return folder / "contexts/tls" / digest / "docker"


def copy(pki: Path, to: Path, *names: str) -> Path:
    """Copy TLS files to a folder."""
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        (to / name).write_bytes((pki / name).read_bytes())
    return to


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("unix:///run/a%20b?c#d", "unix:///run/a%20b?c#d"),
        ("unix://", LOCAL),
        (" ", LOCAL),
        (" tcp://lab:1 ", "http://lab:1"),
        ("tcp://lab", "http://lab:2375"),
        ("tcp://lab:", "http://lab:2375"),
        ("tcp://lab:1/", "http://lab:1"),
        ("lab:1", "http://lab:1"),
        ("lab", "http://lab:2375"),
        (":1", "http://localhost:1"),
        ("tcp://", "http://localhost:2375"),
        ("tcp://[::1]:1", "http://[::1]:1"),
        ("tcp://[::1]", "http://[::1]:2375"),
        ("tcp://10.0.0.1:1", "http://10.0.0.1:1"),
        ("tcp://socket_proxy.lab.:1", "http://socket_proxy.lab.:1"),
        ("http://lab:1", "http://lab:1"),
        ("http://lab", "http://lab:80"),
        ("https://lab:1", "https://lab:1"),
        ("https://lab", "https://lab:443"),
    ],
)
def test_a_docker_host(folder: Path, host: str, expected: str) -> None:
    """An address has the CLI's default host and port; `http://` and `https://` are ours."""
    target = find(folder, host, DOCKER_HOST=host)

    assert expected == target.url
    assert expected.startswith("https:") == (target.tls is not None)


@pytest.mark.parametrize(
    "host",
    [
        *("foo://x", "fd://3", "TCP://lab:1", "tcp://tcp://lab:1", "unix://unix:///x", "://x"),
        *(
            "tcp://a..b:2375",
            f"tcp://{'a' * 64}:1",
            "tcp://lab:0",
            "tcp://lab:65536",
            f"tcp://lab:{'1' * 5000}",
            "tcp://lab:x",
        ),
        *(
            "tcp://lab:1/base",
            "tcp://lab:1?x=1",
            "tcp://lab:1#x",
            "tcp://u:secret@lab:1",
            "/run/x.sock",
        ),
        *("tcp://[::1", "tcp://[::1%lo]:1", "tcp://[1.2.3.4]:1", "tcp://::1", "tcp://127.1:1"),
        *(
            "tcp://1.2.3.256:1",
            "tcp://b\u00fccher:1",
            "tcp://la b:1",
            "unix:///a\0b",
            "tcp://lab:1\n2",
        ),
        *("npipe:////./pipe/docker_engine", "unix://@"),
    ],
)
def test_a_docker_host_that_is_refused(folder: Path, host: str) -> None:
    """The message has the variable or the flag, the value without a password, and what is valid."""
    message = refusal(folder, host, DOCKER_HOST=host)

    assert message.startswith("DOCKER_HOST='")
    assert "can't be used: " in message
    assert "secret" not in message
    assert refusal(folder, host).startswith("--docker-host '")


def test_a_password_is_not_repeated(folder: Path) -> None:
    """The message leaves out what may be secret; tests/unit/test_settings.py has all forms of that."""
    assert refusal(folder, "user:hunter2@engine:2375").startswith(
        "--docker-host 'tcp://…@engine:2375' can't be used: "
    )


def test_the_old_spelling_of_a_socket(folder: Path) -> None:
    """The CLI takes `unix://var/run/docker.sock` for a path relative to the working directory."""
    assert refusal(folder, "unix://var/run/docker.sock").endswith(
        "a path begins with a slash: unix:///var/run/docker.sock"
    )


def test_a_path_that_is_too_long(folder: Path) -> None:
    """A socket's path has at most 107 bytes."""
    longest = "unix:///" + "é" * 53

    assert longest == find(folder, longest).url
    assert "the path of a socket has at most 107 bytes" in refusal(folder, longest + "x")


@pytest.mark.parametrize(
    ("host", "way_out"),
    [
        ("ssh://nas", SSH.format("nas", "nas")),
        ("ssh://me@nas.lan:22/run/x.sock", SSH.format("nas.lan", "-p 22 me@nas.lan")),
        ("ssh://me:secret@nas", SSH.format("nas", "me@nas")),
        ("ssh://a b;c", SSH.format("HOST", "HOST")),
        ("ssh://-oProxyCommand=x", SSH.format("HOST", "HOST")),
        ("ssh://", SSH.format("HOST", "HOST")),
    ],
)
def test_ssh_is_refused(folder: Path, host: str, way_out: str) -> None:
    """`ssh://` is refused wherever it comes from, with two ways out."""
    add_context(folder, "nas", host)
    messages = [refusal(folder, host, DOCKER_HOST=host), refusal(folder, DOCKER_CONTEXT="nas")]

    for message, origin in zip(messages, ("DOCKER_HOST", "context 'nas'"), strict=True):
        assert message.startswith(
            f"{origin} is an address of ssh://, which only the Docker CLI can use"
        )
        assert message.endswith(
            f"run the exporter on that host, or forward its socket: {way_out}"
        )


def test_the_local_socket(folder: Path) -> None:
    """Without any setting the engine is that of the local socket, even if there is no folder at all."""
    assert Target(LOCAL, "the default") == find(folder / "missing")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an entry in the user database has no files; a context can't be found then."""
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=KeyError))

    assert LOCAL == find_target(None, {}).url
    with pytest.raises(BadTargetError, match="set HOME or DOCKER_CONFIG"):
        find_target(None, {"DOCKER_CONTEXT": "lab"})
    with pytest.raises(BadTargetError, match="set DOCKER_CERT_PATH"):
        find_target(None, {"DOCKER_TLS_VERIFY": "1"})


@pytest.mark.parametrize(
    "text", ['{"currentContext": "lab"', "x", '{"x": NaN}', "[" * 100_000]
)
def test_a_config_json_that_is_not_json(folder: Path, text: str) -> None:
    """A `config.json` that can't be parsed counts as empty, and a line says so."""
    (folder / "config.json").write_text(text)

    assert (LOCAL, f"{folder}/config.json is not JSON") == (
        find(folder).url,
        find(folder).ignored,
    )


def test_a_config_json_that_can_not_be_read(folder: Path) -> None:
    """The same is true of one that can't be read."""
    (folder / "config.json").mkdir()

    assert f"{folder}/config.json can't be read: Is a directory" == find(folder).ignored


def test_headers(folder: Path) -> None:
    """`HttpHeaders` are sent, as the CLI does, but for those that would change where a request goes."""
    fields = {
        "Authorization": "Bearer x ",
        "Host": "other",
        "Content-Length": "5",
        "X-N": 5,
        "b d": "x",
    }
    fields |= {"X-Line": "a\r\nb", "X-Wide": "\u2603", "transfer-ENCODING": "chunked"}
    (folder / "config.json").write_text(json.dumps({"HttpHeaders": fields}))

    assert {"Authorization": "Bearer x"} == find(folder).headers


@pytest.mark.parametrize(
    ("endpoint", "url", "tls"),
    [
        ({"Host": "tcp://lab:1"}, "http://lab:1", None),
        ({"host": "tcp://lab:1", "skiptlsverify": None}, "http://lab:1", None),
        ({"Host": "tcp://lab"}, "http://lab:80", None),
        ({"Host": "tcp://lab", "SkipTLSVerify": True}, "https://lab:443", False),
        ({"Host": "http://lab:1", "SkipTLSVerify": True}, "https://lab:1", False),
        ({"Host": "https://lab:1"}, "https://lab:1", True),
        ({"Host": "unix:///x", "SkipTLSVerify": True}, "unix:///x", None),
        ({"Host": ""}, LOCAL, None),
        ({"Host": None}, LOCAL, None),
        ({}, LOCAL, None),
    ],
)
def test_a_context(folder: Path, endpoint: Any, url: str, tls: bool | None) -> None:  # noqa: FBT001
    """A context has its own address, default port and verification."""
    add_meta(
        folder, "lab", {"Metadata": None, "Endpoints": {"docker": endpoint, "kubernetes": 5}}
    )
    target = find(folder, DOCKER_CONTEXT="lab")

    assert (url, tls) == (target.url, None if target.tls is None else target.tls.verified)


@pytest.mark.parametrize(
    "meta",
    [
        *("", "x", "null", "[]", "{}", '{"Endpoints": []}', '{"Endpoints": {"docker": {}}} x'),
        {"Endpoints": {"Docker": {"Host": "tcp://lab:1"}}},
        {"Endpoints": {"kubernetes": {"Host": "tcp://lab:1"}}},
        {"Endpoints": {"docker": None}},
        {"Endpoints": {"docker": []}},
        {"Endpoints": {"docker": "x"}},
        {"Endpoints": {"docker": {"Host": 5}}},
        {"Endpoints": {"docker": {"Host": {}}}},
        {"Endpoints": {"docker": {"Host": "tcp://lab:1", "SkipTLSVerify": "true"}}},
    ],
)
def test_a_malformed_context(folder: Path, meta: Any) -> None:
    """The message names the variable, the context, the file and what must be in it."""
    add_meta(folder, "lab", meta)
    message = refusal(folder, DOCKER_CONTEXT="lab")

    assert message.startswith(
        f"context 'lab' (DOCKER_CONTEXT) can't be used: '{folder}/contexts/meta/"
    )
    assert "meta.json' must hold JSON with Endpoints.docker.Host" in message


@pytest.mark.parametrize(
    "host", ["lab:1", " tcp://lab:1", "foo://lab:1", "fd://", "tcp://u:secret@lab", "unix://x"]
)
def test_a_context_with_an_invalid_host(folder: Path, host: str) -> None:
    """A context's address needs a scheme, as for the CLI."""
    add_context(folder, "lab", host)
    message = refusal(folder, DOCKER_CONTEXT="lab")

    assert message.startswith("context 'lab' with the address '")
    assert "secret" not in message


def test_a_context_that_does_not_exist(folder: Path) -> None:
    """The message says which file is missing, and who named the context."""
    (folder / "config.json").write_text('{"currentContext": "gone"}')
    digest = sha256(b"gone").hexdigest()

    assert (
        "context 'gone' (currentContext of config.json) can't be used: there is no "
        f"'{folder}/contexts/meta/{digest}/meta.json', which docker context create writes"
    ) == refusal(folder)


@pytest.mark.parametrize(
    ("names", "presented"),
    [
        (["ca.pem"], False),
        (["ca.pem", "cert.pem"], False),
        (["ca.pem", "cert.pem", "key.pem"], True),
        (["cert.pem", "key.pem"], True),
        ([], False),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_the_tls_files_of_a_context(
    folder: Path,
    pki: Path,
    names: list[str],
    presented: bool,  # noqa: FBT001
    skip: bool,  # noqa: FBT001
) -> None:
    """A context with any TLS file, or an empty folder for them, is never asked without TLS."""
    copy(pki, add_context(folder, "lab", SkipTLSVerify=skip), *names)
    target = find(
        folder, DOCKER_CONTEXT="lab", DOCKER_CERT_PATH="/nonexistent", DOCKER_TLS_VERIFY="1"
    )

    assert target.tls is not None
    context = target.tls.context()
    assert "https://lab:2376" == target.url
    assert (presented, not skip) == (target.tls.key is not None, target.tls.verified)
    assert skip == target.unverified
    assert (ssl.CERT_NONE if skip else ssl.CERT_REQUIRED) == context.verify_mode
    assert context.check_hostname != skip
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT  # Go's TLS has no such checks
    assert ("ca.pem" in names) == (1 == len(context.get_ca_certs()))


def test_the_tls_files_of_the_configuration_folder(folder: Path, pki: Path) -> None:
    """Without `DOCKER_CERT_PATH` the files are those of the configuration folder; `ca.pem` is enough."""
    copy(pki, folder, "ca.pem")
    target = find(folder, "tcp://lab:1", DOCKER_TLS_VERIFY="1")

    assert target.tls is not None
    assert (folder / "ca.pem", None, None) == target.tls[2:]


def test_missing_tls_files(folder: Path, pki: Path) -> None:
    """The message names the variables, the file and what must be in it."""
    ours = copy(pki, folder / "ours", "key.pem")
    tls = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(ours)}
    no_ca = refusal(folder, "tcp://lab:1", **tls)
    copy(pki, ours, "ca.pem")
    no_cert = refusal(folder, "tcp://lab:1", **tls)

    assert (
        f"the TLS file '{ours}/ca.pem' (DOCKER_TLS_VERIFY, DOCKER_CERT_PATH) can't be used: "
        "No such file or directory; it must hold the certificates of the CAs that may sign the "
        "engine's, as PEM"
    ) == no_ca
    assert f"'{ours}/cert.pem' (DOCKER_TLS_VERIFY, DOCKER_CERT_PATH)" in no_cert
    assert "'/nonexistent/ca.pem' (DOCKER_TLS, DOCKER_CERT_PATH)" in refusal(
        folder, "tcp://lab:1", DOCKER_TLS="1", DOCKER_CERT_PATH="/nonexistent"
    )


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize("skip", [False, True])
def test_invalid_tls_files(folder: Path, pki: Path, name: str, skip: bool) -> None:  # noqa: FBT001
    """A TLS file that holds nothing, or a folder in its place, is named with its context."""
    files = add_context(folder, "lab", SkipTLSVerify=skip)
    copy(pki, files, "ca.pem", "cert.pem", "key.pem")
    for content in (
        b"",
        b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
        b"\0\xff",
    ):
        (files / name).write_bytes(content)
        message = refusal(folder, DOCKER_CONTEXT="lab")

        assert f"{files}/" in message
        assert name in message
        assert "(context 'lab') can't be used: " in message
    (files / name).unlink()
    (files / name).mkdir()
    assert f"'{files}/{name}' (context 'lab') can't be used: Is a directory" in refusal(
        folder, DOCKER_CONTEXT="lab"
    )


def test_a_key_with_a_passphrase(folder: Path, pki: Path) -> None:
    """An encrypted key is refused; OpenSSL does not ask for its passphrase on the terminal."""
    files = copy(pki, add_context(folder, "lab"), "ca.pem", "cert.pem")
    encrypt = ["openssl", "ec", "-aes128", "-passout", "pass:secret"]
    keys = ["-in", str(pki / "key.pem"), "-out", str(files / "key.pem")]
    output_of(encrypt + keys)

    assert "without a passphrase" in refusal(folder, DOCKER_CONTEXT="lab")


def test_a_folder_for_tls_that_is_a_file(folder: Path) -> None:
    """TLS files that can't be listed are an error; TLS is not left out."""
    files = add_context(folder, "lab")
    files.parent.mkdir(parents=True)
    files.write_text("")

    assert f"its TLS files in '{files}': Not a directory" in refusal(
        folder, DOCKER_CONTEXT="lab"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Endpoints", "docker", "Host", "SkipTLSVerify", "currentContext"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
)
HOSTS = st.text() | st.builds(
    "{}://{}".format, st.sampled_from(["tcp", "unix", "http", "https", "ssh"]), st.text()
)
METAS = JSON | st.builds(
    lambda host, skip: {"Endpoints": {"docker": {"Host": host, "SkipTLSVerify": skip}}},
    HOSTS,
    JSON,
)
FILES = st.binary() | st.builds(lambda value: json.dumps(value).encode(), METAS | JSON)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=FILES, meta=FILES, host=st.none() | HOSTS, context=st.sampled_from(["lab", ""]))
def test_malformed_files(
    folder: Path, config: bytes, meta: bytes, host: str | None, context: str
) -> None:
    """Whatever the files and the address are, the result is a target or one line."""
    path = folder / "contexts/meta" / sha256(b"lab").hexdigest() / "meta.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(meta)
    (folder / "config.json").write_bytes(config)
    try:
        target = find(folder, host, DOCKER_CONTEXT=context)
    except BadTargetError as error:
        assert error.detail.isprintable()  # noqa: PT017  there may be none
    else:
        scheme, _, rest = target.url.partition("://")
        assert scheme in ("unix", "http", "https")
        assert rest
        assert (scheme == "https") == (target.tls is not None)


_SPY = """
import sys
opened = []
def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir"):
        opened.append(str(arguments[0]))
from docker_prom_exporter.engine.client import InFlight, new_client
from docker_prom_exporter.engine.target import Target
sys.addaudithook(hook)
client = new_client(Target(sys.argv[1], ""), 5, "1.41", InFlight())
client.version(api_version=False), client.ping(), client.list_unparsed(-1, {})
client.inspect_container(sys.argv[2])
print([path for path in opened if path.startswith(sys.argv[3])])
"""


def test_the_client_opens_none_of_the_users_files(
    tmp_path: Path, simulated: Simulation
) -> None:
    """docker-py's client opens no `config.json`, no `.netrc` and no context, and uses no proxy of theirs."""
    container = simulated.stage.add("web")
    for name in (".docker/config.json", ".dockercfg", ".netrc", "config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"auths": {"r": "x"}, "proxies": 5, "HttpHeaders": 5}')
    spied = [simulated.url, container.id, str(tmp_path)]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for more in ({}, {"DOCKER_CONFIG": str(tmp_path)}):
        spying = [sys.executable, "-c", _SPY, *spied]

        assert "[]\n" == output_of(spying, env=environ | more, cwd=tmp_path)
