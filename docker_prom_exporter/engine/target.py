"""Which engine to ask, by the environment and the Docker CLI's files, as the CLI of 28.2 does.

docker-py's own reading differs: it looks for contexts in other folders, and drops TLS
where a file is missing.
"""

from __future__ import annotations

import json
import os
import re
import sys
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from docker_prom_exporter.engine.address import local_socket, parse_address
from docker_prom_exporter.engine.errors import BadTargetError
from docker_prom_exporter.engine.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.platform != "win32":
    import pwd

# The CLI's default ports: for `DOCKER_HOST`, and for a context without and with TLS.
_PORTS: Final = {"tcp": 2375, "http": 80, "https": 443}
_CONTEXT_PORTS: Final = {"tcp": 80, "http": 80, "https": 443}
_CONTEXT_TLS_PORTS: Final = {"tcp": 443, "http": 443, "https": 443}
_LOCAL_TLS_HOST: Final = "localhost:2376"
_SOCKETS: Final = ("unix", "npipe")

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# Headers that say where a request goes and where it ends.
_OWN_HEADERS: Final = frozenset(
    ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")
)


class Target(NamedTuple):
    """An engine's address, with what is needed to speak to it.

    `url` is `unix:///PATH`, `npipe://PATH`, `http://HOST:PORT` or `https://HOST:PORT`;
    only the last has `tls`. `origin` names the option, the variable or the context that
    it comes from. `headers` are those of the CLI's `config.json` that go with each
    request. `ignored` says in one line why that file counts as empty, and is empty if the
    file is fine or does not exist.
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
    """Find the engine that `docker version` would ask, with the same environment and files.

    `docker_host` is the value of the option, from its flag or from `DOCKER_HOST`. Raises
    `BadTargetError` for what can't be used, and for `ssh://`, which only the CLI can use.
    The TLS files are read once, to find errors at the start.
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
    origin = "--docker-host"
    if environ.get("DOCKER_HOST") == docker_host:
        origin = "DOCKER_HOST"
    text = docker_host.strip()
    if not text:
        return _from_default(environ, folder)
    if "://" not in text:
        text = f"tcp://{text}"
    scheme, rest = parse_address(text, origin, _PORTS)
    if scheme in _SOCKETS:
        return Target(f"{scheme}://{rest}", origin)
    return _remote(scheme, rest, origin, _variables_tls(environ, folder))


def _from_default(environ: Mapping[str, str], folder: Path | None) -> Target:
    """Use the local socket, or with TLS variables the local port for TLS, as the CLI does."""
    tls = _variables_tls(environ, folder)
    if tls is None:
        return Target(local_socket(), "the default")
    return _remote("https", _LOCAL_TLS_HOST, "the default", tls)


def _from_context(name: str, environ: Mapping[str, str], folder: Path | None) -> Target:
    """Use a context: its metadata, and the files for TLS in a folder of their own."""
    source = "currentContext of config.json"
    if environ.get("DOCKER_CONTEXT"):
        source = "DOCKER_CONTEXT"
    origin = f"context {name!r}"
    if folder is None:
        raise BadTargetError(f"{origin} ({source}) can't be used: set HOME or DOCKER_CONFIG")
    # A context's folder is the digest of its name; JSON may hold half a surrogate pair.
    digest = sha256(name.encode("utf-8", "replace")).hexdigest()
    host, skip_verify = _read_context(
        folder / "contexts/meta" / digest / "meta.json", f"{origin} ({source})"
    )
    tls = _context_tls(folder, digest, origin, skip_verify=skip_verify)
    ports = _CONTEXT_TLS_PORTS if tls else _CONTEXT_PORTS
    scheme, rest = parse_address(host or local_socket(), origin, ports)
    if scheme in _SOCKETS:
        return Target(f"{scheme}://{rest}", origin)
    return _remote(scheme, rest, origin, tls)


def _remote(scheme: str, host_and_port: str, origin: str, tls: Tls | None) -> Target:
    """Use TLS if it is configured, whatever the scheme is, or if the scheme asks for it."""
    if tls is None and scheme == "https":
        tls = Tls(origin)
    if tls is None:
        return Target(f"http://{host_and_port}", origin)
    return Target(f"https://{host_and_port}", origin, tls)


def _config_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the CLI's configuration folder, which need not exist; `None` without a home."""
    if environ.get("DOCKER_CONFIG"):
        return Path(environ["DOCKER_CONFIG"])
    home = environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
    if not home and sys.platform != "win32":
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a user without an entry, as in many containers
            return None
    if not home:
        return None
    return Path(home, ".docker")


def _read_config(folder: Path | None) -> tuple[Any, str]:
    """Read `config.json`; return it and why it counts as empty, if it can't be read.

    The CLI warns of such a file and goes on; it ignores what comes after the first JSON
    value.
    """
    if folder is None:
        return None, ""
    path = folder / "config.json"
    try:
        text = path.read_bytes().decode("utf-8", "replace").lstrip(" \t\r\n")
        if not text:
            return None, ""
        return _decoder().raw_decode(text)[0], ""
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError as error:
        return None, f"{path} can't be read: {error.strerror or type(error).__name__}"
    except (ValueError, RecursionError):
        return None, f"{path} is not JSON"


def _read_context(path: Path, context: str) -> tuple[str, bool]:
    """Return a context's host, empty for the local socket, and whether to verify nothing."""
    try:
        answer = _decoder().decode(path.read_bytes().decode("utf-8", "replace"))
    except FileNotFoundError as error:
        raise BadTargetError(
            f"{context} can't be used: there is no {str(path)!r}, "
            "which docker context create writes"
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
            f"{context} can't be used: {str(path)!r} must hold JSON with "
            "Endpoints.docker.Host, as docker context create writes it"
        )
    return host or "", bool(skip_verify)


def _decoder() -> json.JSONDecoder:
    """Return a decoder that makes tuples of pairs of objects, and refuses NaN, as Go's."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    return json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=refuse)


def _field(fields: Any, name: str) -> Any:
    """Return the last value of a field that is not null; Go takes a name in any case."""
    last = None
    if isinstance(fields, tuple):
        for key, value in fields:
            if key.lower() == name.lower() and value is not None:
                last = value
    return last


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _headers(config: Any) -> dict[str, str]:
    """Return `HttpHeaders` that can be sent and don't change where a request goes."""
    headers: dict[str, str] = {}
    fields = _field(config, "HttpHeaders")
    if not isinstance(fields, tuple):
        return headers
    for name, value in fields:
        sendable = isinstance(value, str) and value.isascii() and value.isprintable()
        if sendable and _HEADER_NAME.fullmatch(name) and name.lower() not in _OWN_HEADERS:
            headers[name] = value.strip()
    return headers


def _variables_tls(environ: Mapping[str, str], folder: Path | None) -> Tls | None:
    """Return the TLS of `DOCKER_TLS_VERIFY` or `DOCKER_TLS`: any value, even 0, counts.

    `ca.pem` must exist then, as for the CLI; the certificate and the key may be missing.
    """
    verified = bool(environ.get("DOCKER_TLS_VERIFY"))
    if verified:
        origin = "DOCKER_TLS_VERIFY"
    elif environ.get("DOCKER_TLS"):
        origin = "DOCKER_TLS"
    else:
        return None
    path = environ.get("DOCKER_CERT_PATH")
    if path:
        folder, origin = Path(path), f"{origin}, DOCKER_CERT_PATH"
    if folder is None:
        raise BadTargetError(f"{origin} can't be used: set DOCKER_CERT_PATH, too")
    present = [name for name in ("cert.pem", "key.pem") if _exists(folder / name)]
    return _tls_of(folder, ["ca.pem", *present], origin, verified=verified)


def _context_tls(folder: Path, digest: str, origin: str, *, skip_verify: bool) -> Tls | None:
    """Return the TLS of a context: a folder for its files is enough, whatever it holds."""
    files = folder / "contexts/tls" / digest / "docker"
    try:
        names = [path.name for path in files.iterdir()]
    except FileNotFoundError:
        if not skip_verify:
            return None
        return Tls(origin, verified=False)
    except OSError as error:
        raise BadTargetError(
            f"{origin} can't be used: its TLS files in {str(files)!r}: "
            f"{error.strerror or type(error).__name__}"
        ) from error
    return _tls_of(files, names, origin, verified=not skip_verify)


def _tls_of(folder: Path, names: list[str], origin: str, *, verified: bool) -> Tls:
    files: dict[str, Path | None] = {name: folder / name for name in names}
    ca, cert, key = map(files.get, ("ca.pem", "cert.pem", "key.pem"))
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
