"""Remedies for failed engine requests, and for polls that cost much."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from docker_prom_exporter.engine.errors import causes

if sys.platform != "win32":
    import grp
    import pwd

if TYPE_CHECKING:
    from docker_prom_exporter.engine.errors import EngineError

# In this order: settings of calum4's proxy, of tecnativa's and linuxserver's, and wollomatic's
# expression.
_DENIED_BY_PROXY: Final = {
    "version": "a socket proxy must allow GET /version: VERSION=1, "
    r"or -allowGET=(/v[\d.]+)?/version",
    "ping": r"a socket proxy must allow GET /_ping: PING=1, or -allowGET=(/v[\d.]+)?/_ping",
    "list": "a socket proxy must allow GET /containers/json: "
    r"CONTAINER_LIST=1 or CONTAINERS=1, or -allowGET=(/v[\d.]+)?/containers/json",
    "inspect": "a socket proxy must allow GET /containers/{id}/json: "
    "CONTAINER_INSPECT=1 or CONTAINERS=1, "
    r"or -allowGET=(/v[\d.]+)?/containers/[a-zA-Z0-9_.-]+/json; "
    "or, with Docker, set CONTAINER_DETAILS=false",
}

_TOO_SLOW: Final = {
    "ping": "the engine is stuck or slow: look at its log, "
    "or give it longer with DOCKER_TIMEOUT",
    "inspect": "something holds the container, such as docker cp of a large file or a "
    "volume that hangs; or the engine is slow: give it longer with DOCKER_TIMEOUT",
}

_BY_STATUS: Final = {
    301: "redirects are not followed: set DOCKER_HOST to the engine or a socket proxy itself; "
    "if that speaks HTTPS, with DOCKER_TLS_VERIFY=1",
    400: "the engine refused the API version, which a proxy in between may hide or an upgrade "
    "have changed; or it speaks HTTPS: then use tcp://HOST:2376 with DOCKER_TLS_VERIFY=1 and "
    "DOCKER_CERT_PATH",
    401: "a proxy in front of the engine asks for credentials: HttpHeaders of the Docker "
    "CLI's config.json may hold them; or use a socket proxy",
    404: "nothing there speaks Docker's API: check the address in DOCKER_HOST",
    500: "the engine's log has the reason: journalctl -u docker, or -u podman",
    502: "the socket proxy answers, the engine behind it does not: is the socket mounted into "
    "the proxy, and may the proxy use it?",
}
_BY_STATUS[302] = _BY_STATUS[307] = _BY_STATUS[308] = _BY_STATUS[301]
_BY_STATUS[503] = _BY_STATUS[504] = _BY_STATUS[502]

# `{0}` is the engine's address, split by `urlsplit`.
_BY_CAUSE: Final[dict[type[BaseException], str]] = {
    socket.gaierror: "no name server knows {0.hostname!r}: check DOCKER_HOST; "
    "two containers know each other's names only on a network they share",
    ssl.SSLCertVerificationError: "the engine's certificate isn't trusted: DOCKER_CERT_PATH, "
    "with DOCKER_TLS_VERIFY=1, or the context must have the ca.pem that signed it, and it "
    "must be issued for {0.hostname}",
    ConnectionRefusedError: "nobody listens at {0.netloc}: check DOCKER_HOST; socket proxies "
    "listen on 2375",
}

# OpenSSL's names for what a server says about the client's certificate, and for an answer
# without TLS.
_CERTIFICATE_REFUSED: Final = frozenset(
    (
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_NO_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_UNKNOWN_CA",
    )
)
_NOT_TLS: Final = frozenset(("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"))

_START: Final = "start the engine (systemctl start docker)"

# `{}` is the user's id.
_OTHER_SOCKETS: Final = (
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/user/{}/docker.sock",
    "/run/user/{}/podman/podman.sock",
    "~/.docker/run/docker.sock",
    "~/.docker/desktop/docker.sock",
    "~/.colima/default/docker.sock",
    "~/.rd/docker.sock",
)


def advise(error: EngineError, url: str) -> str:
    """Return one line on how to fix a failed request; empty if no remedy is known.

    `url` is the engine's address as `Engine.url` gives it.
    """
    # The list was answered before: only a proxy says 404 to each inspect.
    hidden = error.status == 404 and error.endpoint == "inspect"
    if error.status == 403 or hidden:
        return _DENIED_BY_PROXY[error.endpoint]
    if error.status is not None:
        return _BY_STATUS.get(error.status, "")
    if error.reason == "timeout":
        return _TOO_SLOW.get(error.endpoint, _TOO_SLOW["ping"])
    if url.startswith("unix://"):
        return _socket_advice(error, Path(url.removeprefix("unix://")))
    return _network_advice(error, url)


def _has_cause(error: EngineError, kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in causes(error))


def _socket_advice(error: EngineError, path: Path) -> str:
    """Choose by the system's error and by the socket's file."""
    if _has_cause(error, FileNotFoundError):
        return _missing_socket_advice(path)
    if stat.S_ISDIR(_mode(path)):
        return f"{path} is a folder: Docker makes one where the source of a mount is missing"
    if _has_cause(error, PermissionError):
        return _forbidden_socket_advice(path)
    if not _has_cause(error, ConnectionRefusedError):
        return ""
    if not stat.S_ISSOCK(_mode(path)):
        return _no_socket_advice(path)
    return (
        f"nobody listens on {path}: {_START}; in a container that mounts the socket's file, "
        "it may be a socket from before the engine restarted: restart the container, or mount "
        "the socket's folder instead"
    )


def _missing_socket_advice(path: Path) -> str:
    """Name another socket, one that this user may use if there is any."""
    others = []
    for each in _OTHER_SOCKETS:
        other = Path(os.path.expanduser(each.format(_uid())))  # noqa: PTH111  Path's raises without a home
        if other != path and stat.S_ISSOCK(_mode(other)):
            others.append(other)
    others.sort(key=lambda other: not os.access(other, os.W_OK))
    if others:
        other = others[0]
        return f"there is no {path}, but a socket {other}: set DOCKER_HOST=unix://{other}"
    return (
        f"there is no {path}: {_START}; in a container, mount it (-v {path}:{path}:ro), "
        "or set DOCKER_HOST to a socket proxy"
    )


def _no_socket_advice(path: Path) -> str:
    return f"{path} is not a socket: set DOCKER_HOST to the engine's, or mount that one there"


def _mode(path: Path) -> int:
    """Return the type and the mode of a file, 0 if it can't be known."""
    with suppress(OSError):
        return path.stat().st_mode
    return 0


def _forbidden_socket_advice(path: Path) -> str:
    """Say who may use the socket, and how this user can; or that not its mode is the cause."""
    name = _user_name(_uid())
    user = f"{name}, uid {_uid()}"
    try:
        status = path.stat()
    except OSError:
        return f"this user ({user}) may not enter the folder of {path}"
    if not stat.S_ISSOCK(status.st_mode):
        return _no_socket_advice(path)
    if _mode_allows(path, status):
        return (
            f"the mode of {path} allows this user ({user}) to use it, so SELinux or AppArmor "
            "denies it: docker run --security-opt label=type:container_runtime_t, or mount it "
            "with :z"
        )
    if not status.st_gid or not status.st_mode & stat.S_IWGRP:
        owner = _user_name(status.st_uid)
        return f"only {owner} may use {path}: run as that user, or use a socket proxy"
    group, members = _group(status.st_gid)
    if name in members:
        return f"{user} was added to the group {group} after this session began: log in again"
    return (
        f"{path} is for the group {group}, which this user ({user}) isn't in: "
        f"sudo usermod -aG {group} {name} and log in again; "
        f"in a container, docker run --group-add {status.st_gid}"
    )


def _mode_allows(path: Path, status: os.stat_result) -> bool:
    """Whether owner, group or others may use a socket, and this process is one of them.

    `os.access` also knows that root may use all; but SELinux may deny it what the mode
    allows.
    """
    if sys.platform == "win32" or os.access(path, os.W_OK):
        return True
    if status.st_uid == os.getuid():
        return bool(status.st_mode & stat.S_IWUSR)
    if status.st_gid in (os.getgid(), *os.getgroups()):
        return bool(status.st_mode & stat.S_IWGRP)
    return bool(status.st_mode & stat.S_IWOTH)


def _uid() -> int:
    if sys.platform != "win32":
        return os.getuid()
    return 0


def _user_name(uid: int) -> str:
    """Return a user's name, or the uid as a string if it has none."""
    if sys.platform != "win32":
        with suppress(KeyError):
            return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group(gid: int) -> tuple[str, list[str]]:
    """Return a group's name, or its gid as a string, and its listed members."""
    if sys.platform != "win32":
        with suppress(KeyError):
            entry = grp.getgrgid(gid)
            return entry.gr_name, entry.gr_mem
    return str(gid), []


def _network_advice(error: EngineError, url: str) -> str:
    """Choose by the exceptions behind the error: look-up, connection, certificate or TLS."""
    where = urlsplit(url)
    for kind, advice in _BY_CAUSE.items():
        if _has_cause(error, kind):
            return advice.format(where)
    reasons = {cause.reason for cause in causes(error) if isinstance(cause, ssl.SSLError)}
    if reasons & _NOT_TLS:
        return (
            f"{where.netloc} speaks HTTP, not HTTPS: use tcp:// or http://, and unset "
            "DOCKER_TLS_VERIFY; or use a context without TLS"
        )
    if reasons & _CERTIFICATE_REFUSED:
        return (
            "the engine wants a client certificate that it trusts: DOCKER_CERT_PATH, with "
            "DOCKER_TLS_VERIFY=1, or the context must have cert.pem and key.pem"
        )
    if where.scheme == "http" and error.reason in ("unreachable", "bad_response"):
        return (
            f"is {where.netloc} a Docker engine or a socket proxy, without TLS? "
            "With TLS, set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
        )
    return ""
