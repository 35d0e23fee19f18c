"""Addresses of engines, as the Docker CLI reads them."""

from __future__ import annotations

import re
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from docker_prom_exporter.engine.errors import BadTargetError
from docker_prom_exporter.texts import redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAKES: Final = (
    "it takes unix:///PATH, tcp://HOST:PORT, https://HOST:PORT or, on Windows, npipe://PATH"
)
_UNIX_SOCKET: Final = "/var/run/docker.sock"
_MAX_SOCKET_PATH: Final = 107  # Linux's; connect would fail with an error that has no number
_NAMED_PIPE: Final = "//./pipe/docker_engine"

_HOST_AND_PORT: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]*))(?::([0-9]{0,5}))?/?"
)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")

# User without a password, host and port.
_SSH: Final = re.compile(
    r"(?:(\w[\w.-]*)(?::[^@]*)?@)?(\w[\w.-]*)(?::([0-9]+))?(?:/.*)?", re.ASCII
)


def local_socket() -> str:
    """Return the address of the platform's local socket."""
    if sys.platform == "win32":
        return f"npipe://{_NAMED_PIPE}"
    return f"unix://{_UNIX_SOCKET}"


def parse_address(text: str, origin: str, default_ports: Mapping[str, int]) -> tuple[str, str]:
    """Return the scheme, and the path of a socket or `HOST:PORT`; raises `BadTargetError`.

    `origin` names the option, the variable or the context. `default_ports` has the
    schemes that may come with a host.
    """
    scheme, separator, rest = text.partition("://")
    if scheme == "ssh" and separator:
        raise BadTargetError(_ssh_refused(rest, origin))
    if text.isprintable() and separator:
        if scheme == "unix" and "://" not in rest:
            return scheme, _socket_path(rest or _UNIX_SOCKET, origin)
        if scheme == "npipe" and sys.platform == "win32":
            return scheme, rest or _NAMED_PIPE
        if scheme in default_ports and (where := _host_and_port(rest, default_ports[scheme])):
            return scheme, where
    raise BadTargetError(f"{_given(origin, text)} can't be used: {_TAKES}")


def _socket_path(path: str, origin: str) -> str:
    if not path.startswith("/"):
        given = _given(origin, f"unix://{path}")
        raise BadTargetError(
            f"{given} can't be used: a path begins with a slash: unix:///{path}"
        )
    if len(path.encode("utf-8", "replace")) > _MAX_SOCKET_PATH:
        given = _given(origin, f"unix://{path}")
        raise BadTargetError(
            f"{given} can't be used: the path of a socket has at most {_MAX_SOCKET_PATH} bytes"
        )
    return path


def _host_and_port(text: str, default_port: int) -> str | None:
    """Return the host and the port as a URL has them; `None` if they are not valid."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        return None
    address, name, digits = match.groups()
    name = name or "localhost"
    port = int(digits or default_port)
    try:
        if address is not None:
            name = f"[{IPv6Address(address)}]"
        elif name.rpartition(".")[2].isdigit():
            IPv4Address(name)  # the system would take 127.1 for an address, the CLI does not
        elif not _HOST_NAME.fullmatch(name) or len(name) > 253:
            return None
    except ValueError:
        return None
    if not 0 < port <= 65535:
        return None
    return f"{name}:{port}"


def _given(origin: str, text: str) -> str:
    """Return an address as the user wrote it, without user, password and query."""
    shown = redacted(text)
    if origin.startswith("context"):
        return f"{origin} with the address {shown!r}"
    if origin == "DOCKER_HOST":
        return f"{origin}={shown!r}"
    return f"{origin} {shown!r}"


def _ssh_refused(rest: str, origin: str) -> str:
    """Say how to reach the same engine without `ssh://`, with a command that can be pasted."""
    host = login = "HOST"
    if match := _SSH.fullmatch(rest):
        user, host, port = match.groups()
        login = host
        if user:
            login = f"{user}@{host}"
        if port:
            login = f"-p {port} {login}"
    return (
        f"{origin} is an address of ssh://, which only the Docker CLI can use: "
        "run the exporter on that host, or forward its socket: "
        f"ssh -NL {host}.sock:/var/run/docker.sock {login}, "
        f"then DOCKER_HOST=unix://$PWD/{host}.sock"
    )
