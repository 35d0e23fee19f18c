"""The `check` command on real engines, behind a socket proxy, without permission, and without an engine."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_prom_exporter.demo import WATCH
from docker_prom_exporter.engine import advise
from docker_prom_exporter.engine.errors import engine_error
from support.certificates import Certificate, authority, issue
from support.proxies import ALL, socket_proxy
from support.real import Engine
from support.reports import ANSWERED, checked, outcomes

NOBODY = 65534


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Run as another user, without this user's supplementary groups."""
    groups, gid = os.getgroups(), os.getgid()
    os.setgroups([])
    os.setresgid(uid, uid, gid)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(gid, gid, gid)
        os.setgroups(groups)


def test_a_real_engine(engine: Engine) -> None:
    """`check` reports that all four endpoints answer, and lists watched and other containers separately."""
    engine.run("web", labels=WATCH)
    engine.run("other")
    code, lines = checked(engine.url)

    assert (0, ANSWERED) == (code, outcomes(lines))
    assert lines["version"][10:].lower().startswith(" ".join(engine.name.split("-")[:2]))
    assert "1 of 2    web" == lines["watched"]
    assert lines["left out"].endswith(": other")


@pytest.mark.parametrize("allowed", [ALL, {"PING": "1", "VERSION": "1", "CONTAINERS": "1"}])
def test_what_is_advised_is_enough(
    docker_26: Engine, tmp_path: Path, allowed: Mapping[str, str]
) -> None:
    """A socket proxy with the settings that `check` recommends allows all four endpoints."""
    docker_26.run("web", labels=WATCH)
    with socket_proxy(tmp_path, docker_26.listen, allowed) as port:
        code, lines = checked(f"tcp://127.0.0.1:{port}")

    assert (0, ANSWERED) == (code, outcomes(lines))


@pytest.mark.parametrize(
    ("group", "command"),
    [
        (4, "sudo usermod -aG adm nobody"),
        (54321, "docker run --group-add 54321"),
        (0, "only root may use"),
    ],
)
def test_a_user_without_the_group(docker_26: Engine, group: int, command: str) -> None:
    """Without access to the socket, `check` prints how to join its group, unless that is root's."""
    os.chown(docker_26.listen, 0, group)
    with user(NOBODY):
        code, lines = checked(docker_26.url)

    assert (1, "denied") == (code, outcomes(lines)[0])
    assert command in lines["version"]
    assert "socket proxy must allow" not in lines["version"]


def test_a_user_with_the_group(docker_26: Engine) -> None:
    """For a user in the socket's group, `check` reports that the engine answers."""
    os.chown(docker_26.listen, 0, NOBODY)
    with user(NOBODY):
        code, lines = checked(docker_26.url)

    assert (0, "answered") == (code, outcomes(lines)[0])


def test_a_user_with_the_group_is_denied(docker_26: Engine) -> None:
    """A group that the user is in is not advised: if the mode allows the use, something else denies it."""
    os.chown(docker_26.listen, 0, NOBODY)
    error = engine_error("version", PermissionError(13, "Permission denied"))
    error.__cause__ = PermissionError()
    with user(NOBODY):
        advised = advise(error, docker_26.url)

    assert "SELinux or AppArmor denies it" in advised
    assert "usermod" not in advised


def test_a_folder_that_is_closed(docker_26: Engine, tmp_path: Path) -> None:
    """When the user may not enter the socket's folder, `check` names the folder as the cause."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "docker.sock").symlink_to(docker_26.listen)
    with user(NOBODY):
        lines = checked(f"unix://{closed}/docker.sock")[1]

    assert "may not enter the folder of" in lines["version"]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Return a folder for DOCKER_CERT_PATH; `server.both` in it has the server's certificate and key.

    The server trusts only its own CA, and the client's certificate is of another one.
    """
    server = issue(tmp_path, "server", authority(tmp_path))
    (tmp_path / "server.both").write_text(server.cert.read_text() + server.key.read_text())
    (tmp_path / "foreign").mkdir()
    client = issue(tmp_path, "client", authority(tmp_path / "foreign"), "clientAuth")
    Certificate(tmp_path / "cert.pem", tmp_path / "key.pem").replace_by(client)
    return tmp_path


@pytest.mark.parametrize(
    ("scheme", "server", "client", "says"),
    [
        ("https", "ssl crt {}/server.both", False, "the ca.pem that signed it"),
        ("tcp", "ssl crt {}/server.both", False, "With TLS, set DOCKER_TLS_VERIFY=1"),
        ("https", "", False, "speaks HTTP, not HTTPS"),
        (
            "tcp",
            "ssl crt {0}/server.both verify required ca-file {0}/ca.pem",
            True,
            "wants a client certificate",
        ),
    ],
    ids=["not trusted", "HTTP to HTTPS", "HTTPS to HTTP", "client not trusted"],
)
def test_tls_that_does_not_fit(
    docker_26: Engine, certificates: Path, scheme: str, server: str, says: str, *, client: bool
) -> None:
    """When the TLS settings of client and server do not match, `check` reports which side lacks what."""
    environ = (
        {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)} if client else {}
    )
    with socket_proxy(
        certificates, docker_26.listen, ALL, server.format(certificates)
    ) as port:
        code, lines = checked(f"{scheme}://127.0.0.1:{port}", environ)

    assert 1 == code
    assert says in lines["version"]
