"""Which engine to ask, found in the environment and the Docker CLI's files as the CLI of 28.2 does.

docker-py's own reading differs: it looks for contexts in other folders, and drops TLS where a file is missing.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from docker_prom_exporter.engine.errors import BadTargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.platform != "win32":
    import pwd

_TAKES: Final = "it takes unix:///PATH, tcp://HOST:PORT, https://HOST:PORT or npipe://PATH"
_UNIX_SOCKET: Final = "/var/run/docker.sock"
_NAMED_PIPE: Final = "//./pipe/docker_engine"

# The CLI's default ports: for `DOCKER_HOST`, and for a context without and with TLS.
_PORTS: Final = {"tcp": 2375, "http": 80, "https": 443}
_CONTEXT_PORTS: Final = {"tcp": 80, "http": 80, "https": 443}
_CONTEXT_TLS_PORTS: Final = {"tcp": 443, "http": 443, "https": 443}
_LOCAL_TLS_HOST: Final = "tcp://localhost:2376"

_HOST_AND_PORT: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]*))(?::([0-9]*))?/?"
)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# Headers that say where a request goes and where it ends.
_OWN_HEADERS: Final = frozenset(
    ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")
)


class Tls(NamedTuple):
    """How to speak TLS. Each file is PEM; `origin` names the variable or the context that it comes from.

    Without `ca` the system's CAs are trusted. Without `key` no client certificate is presented.
    """

    origin: str
    verified: bool = True
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files; raises `BadTargetError` with the one that can't be used.

        The context checks what Go's TLS, and so the CLI, checks: no VERIFY_X509_STRICT, which Python 3.13
        added to its default contexts and which many private CAs don't pass, and no common names.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.hostname_checks_common_name = False
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        if not self.verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.ca is None:
            context.load_default_certs()
        else:
            self._load_ca(context, self.ca)
        if self.key is not None:
            self._load_key(context, self.key)
        return context

    def _load_ca(self, context: ssl.SSLContext, ca: Path) -> None:
        content = "the certificates of the CAs that may sign the engine's, as PEM"
        self._require(ca, content)
        try:
            context.load_verify_locations(ca)
        except (OSError, ValueError):
            self._refuse(ca, "it holds none", content)

    def _load_key(self, context: ssl.SSLContext, key: Path) -> None:
        cert = self.cert or key.with_name("cert.pem")
        content = f"the private key of {cert.name}, as PEM and without a passphrase"
        self._require(cert, f"the certificate of {key.name}, as PEM")
        self._require(key, content)
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert, key, password="")
        except (OSError, ValueError):
            self._refuse(key, f"it and {cert.name} can't be used together", content)

    def _require(self, path: Path, content: str) -> None:
        try:
            path.read_bytes()
        except OSError as error:
            self._refuse(path, error.strerror or type(error).__name__, content)

    def _refuse(self, path: Path, why: str, content: str) -> NoReturn:
        raise BadTargetError(
            f"the TLS file {str(path)!r} ({self.origin}) can't be used: {why}; it must hold {content}"
        )


class Target(NamedTuple):
    """An engine's address, with what is needed to speak to it.

    `url` is `unix:///PATH`, `npipe://PATH`, `http://HOST:PORT` or `https://HOST:PORT`; only the last has
    `tls`. `origin` names the option, the variable or the context that it comes from. `headers` are those of
    the CLI's `config.json` that go with each request. `ignored` says in one line why that file counts as
    empty; it is empty if the file could be read, or does not exist.
    """

    url: str
    origin: str
    tls: Tls | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    ignored: str = ""

    @property
    def unverified(self) -> bool:
        """Whether anyone at the address can pose as the engine, although TLS is used."""
        return self.tls is not None and not self.tls.verified


def find_target(docker_host: str | None, environ: Mapping[str, str]) -> Target:
    """Find the engine that `docker version` would ask with this environment and the same files.

    `docker_host` is the value of the option, from its flag or from `DOCKER_HOST`. Raises `BadTargetError`
    for what can't be used, and for `ssh://`, which only the CLI can use. The TLS files are read once.
    """
    folder = _config_folder(environ)
    config, ignored = _read_config(folder)
    name = environ.get("DOCKER_CONTEXT") or _text(_field(config, "currentContext"))
    if docker_host:
        target = _from_option(docker_host, environ, folder)
    elif name and name != "default":
        target = _from_context(name, environ, folder)
    else:
        target = _from_default(environ, folder)
    if target.tls is not None:
        target.tls.context()
    return target._replace(headers=_headers(config), ignored=ignored)


def _from_option(docker_host: str, environ: Mapping[str, str], folder: Path | None) -> Target:
    given = environ.get("DOCKER_HOST") == docker_host
    origin = "DOCKER_HOST" if given else "--docker-host"
    text = docker_host.strip()
    if not text:
        return _from_default(environ, folder)
    if "://" not in text:
        text = f"tcp://{text}"
    address = _address(text, origin, _PORTS)
    return _with_tls(address, origin, _variables_tls(environ, folder))


def _from_default(environ: Mapping[str, str], folder: Path | None) -> Target:
    """Use the platform's local socket, or with TLS variables the port for TLS, as the CLI does."""
    tls = _variables_tls(environ, folder)
    if tls is None:
        return Target(_local_socket(), "the default")
    return _with_tls(_address(_LOCAL_TLS_HOST, "the default", _PORTS), "the default", tls)


def _from_context(name: str, environ: Mapping[str, str], folder: Path | None) -> Target:
    """Use a context: its metadata, and the files for TLS in a folder of their own."""
    variable = bool(environ.get("DOCKER_CONTEXT"))
    source = "DOCKER_CONTEXT" if variable else "currentContext of config.json"
    origin = f"context {name!r}"
    if folder is None:
        raise BadTargetError(f"{origin} ({source}) can't be used: set HOME or DOCKER_CONFIG")
    # A context's folder is the digest of its name; JSON may hold half a surrogate pair.
    digest = sha256(name.encode("utf-8", "replace")).hexdigest()
    host, skip_verify = _read_context(
        folder / "contexts/meta" / digest / "meta.json", f"{origin} ({source})"
    )
    tls = _context_tls(folder, digest, origin, skip_verify)
    ports = _CONTEXT_TLS_PORTS if tls else _CONTEXT_PORTS
    return _with_tls(_address(host or _local_socket(), origin, ports), origin, tls)


def _with_tls(address: tuple[str, str], origin: str, tls: Tls | None) -> Target:
    scheme, rest = address
    if scheme in ("unix", "npipe"):
        return Target(f"{scheme}://{rest}", origin)
    if tls is None and scheme == "https":
        tls = Tls(origin)
    return Target(f"http{'s' if tls else ''}://{rest}", origin, tls)


def _local_socket() -> str:
    if sys.platform == "win32":
        return f"npipe://{_NAMED_PIPE}"
    return f"unix://{_UNIX_SOCKET}"


def _config_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the CLI's configuration folder, which need not exist; `None` if the user has no home."""
    if environ.get("DOCKER_CONFIG"):
        return Path(environ["DOCKER_CONFIG"])
    home = environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
    if not home and sys.platform != "win32":
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a user without an entry, as in many containers
            return None
    return Path(home, ".docker") if home else None


def _read_config(folder: Path | None) -> tuple[Any, str]:
    """Read `config.json`; return it and why it counts as empty, if it can't be read.

    The CLI warns of such a file and goes on; it ignores what comes after the first JSON value.
    """
    if folder is None:
        return None, ""
    path = folder / "config.json"
    try:
        text = path.read_bytes().decode("utf-8", "replace").lstrip(" \t\r\n")
        return (_decoder().raw_decode(text)[0] if text else None), ""
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError as error:
        return None, f"{path} can't be read: {error.strerror or type(error).__name__}"
    except (ValueError, RecursionError):
        return None, f"{path} is not JSON"


def _read_context(path: Path, context: str) -> tuple[str, bool]:
    """Return the host of a context, empty for the local socket, and whether to skip the verification."""
    try:
        answer = _decoder().decode(path.read_bytes().decode("utf-8", "replace"))
    except FileNotFoundError as error:
        raise BadTargetError(
            f"{context} can't be used: there is no {str(path)!r}, which docker context create writes"
        ) from error
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BadTargetError(f"{context} can't be used: {str(path)!r}: {why}") from error
    except (ValueError, RecursionError):
        answer = None
    endpoints = _field(answer, "Endpoints")
    # The names of endpoints are the keys of a map: Go reads them as they are written.
    endpoint = dict(endpoints).get("docker") if isinstance(endpoints, tuple) else None
    host, skip_verify = _field(endpoint, "Host"), _field(endpoint, "SkipTLSVerify")
    if (
        not isinstance(endpoint, tuple)
        or not isinstance(host, str | None)
        or not isinstance(skip_verify, bool | None)
    ):
        raise BadTargetError(
            f"{context} can't be used: {str(path)!r} must hold JSON with Endpoints.docker.Host, "
            "as docker context create writes it"
        )
    return host or "", bool(skip_verify)


def _decoder() -> json.JSONDecoder:
    """Return a decoder that makes an object a tuple of pairs, and refuses NaN, as Go's does."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    return json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=refuse)


def _field(fields: Any, name: str) -> Any:
    """Return the last value of a field that is not null; Go's decoder takes a name in any case."""
    found = None
    if isinstance(fields, tuple):
        for key, value in fields:
            if key.lower() == name.lower() and value is not None:
                found = value
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _headers(config: Any) -> dict[str, str]:
    """Return `HttpHeaders`, without what can't be sent or would change where a request goes."""
    headers = {}
    fields = _field(config, "HttpHeaders")
    for name, value in fields if isinstance(fields, tuple) else ():
        sendable = isinstance(value, str) and value.isascii() and value.isprintable()
        if sendable and _HEADER_NAME.fullmatch(name) and name.lower() not in _OWN_HEADERS:
            headers[name] = value.strip()
    return headers


def _variables_tls(environ: Mapping[str, str], folder: Path | None) -> Tls | None:
    """Return the TLS of `DOCKER_TLS_VERIFY` or `DOCKER_TLS`: any value, even 0, counts.

    `ca.pem` must exist then, as for the CLI; the certificate and the key may be missing.
    """
    verified = bool(environ.get("DOCKER_TLS_VERIFY"))
    if not verified and not environ.get("DOCKER_TLS"):
        return None
    origin = "DOCKER_TLS_VERIFY" if verified else "DOCKER_TLS"
    path = environ.get("DOCKER_CERT_PATH")
    if path:
        folder, origin = Path(path), f"{origin}, DOCKER_CERT_PATH"
    if folder is None:
        raise BadTargetError(f"{origin} can't be used: set DOCKER_CERT_PATH, too")
    present = [name for name in ("cert.pem", "key.pem") if _exists(folder / name)]
    return _tls_of(folder, ["ca.pem", *present], origin, verified=verified)


def _context_tls(folder: Path, digest: str, origin: str, skip_verify: bool) -> Tls | None:  # noqa: FBT001
    """Return the TLS of a context: that it has a folder for it is enough, whatever the folder holds."""
    files = folder / "contexts/tls" / digest / "docker"
    try:
        names = [path.name for path in files.iterdir()]
    except FileNotFoundError:
        return Tls(origin, verified=False) if skip_verify else None
    except OSError as error:
        raise BadTargetError(
            f"{origin} can't be used: its TLS files in {str(files)!r}: "
            f"{error.strerror or type(error).__name__}"
        ) from error
    return _tls_of(files, names, origin, verified=not skip_verify)


def _tls_of(folder: Path, names: list[str], origin: str, *, verified: bool) -> Tls:
    ca, cert, key = (
        folder / name if name in names else None for name in ("ca.pem", "cert.pem", "key.pem")
    )
    return Tls(origin, verified, ca, cert, key)


def _exists(path: Path) -> bool:
    """Whether the file exists, or may exist: one that can't be looked at is an error later."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _address(text: str, origin: str, default_ports: Mapping[str, int]) -> tuple[str, str]:
    """Return the scheme, and the path or the host and port; raises `BadTargetError`."""
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
    return f"{name}:{port}" if 0 < port <= 65535 else None


def _given(origin: str, text: str) -> str:
    """Return an address as the user wrote it, without user, password and query."""
    shown = re.sub(r"(?s)\?.*", "?…", re.sub(r"(?s)(?<=://).*@", "…@", text))
    if origin.startswith("context"):
        return f"{origin} with the address {shown!r}"
    return f"{origin}={shown!r}" if origin == "DOCKER_HOST" else f"{origin} {shown!r}"


def _ssh_refused(rest: str, origin: str) -> str:
    match = re.fullmatch(
        r"(?:(?P<user>[\w.-]+)(?::[^@]*)?@)?(?P<host>[\w.-]+)(?::(?P<port>\d+))?(?:/.*)?", rest
    )
    user, host, port = match.group("user", "host", "port") if match else ("", "HOST", "")
    login = f"{f'-p {port} ' if port else ''}{f'{user}@' if user else ''}{host}"
    return (
        f"{origin} is an address of ssh://, which only the Docker CLI can use: run the exporter on that host, "
        f"or forward its socket: ssh -NL {host}.sock:/var/run/docker.sock {login}, "
        f"then DOCKER_HOST=unix://$PWD/{host}.sock"
    )
