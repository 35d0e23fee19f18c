"""Load and reload TLS files and the bearer token, and check clients against them."""

from __future__ import annotations

import base64
import hmac
import re
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

import structlog

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_MAX_BYTES: Final = 1024 * 1024
_TOKEN: Final = re.compile(rb"[!-~]+")

_T = TypeVar("_T")


class CredentialsError(ValueError):
    """A certificate, key or token file can't be used.

    The one-line message has no content of the file.
    """

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path = path


class _Contexts(NamedTuple):
    """A TLS context for each kind of client."""

    network: ssl.SSLContext
    same_host: ssl.SSLContext


class ServerTls:
    """TLS 1.2 or newer, with a certificate and optionally the CA of clients' certificates.

    Raises `CredentialsError` if a file can't be used. If that happens after a change, it
    is logged once and the previous content stays in use.
    """

    _needs_certificate: bool  # whether clients from the network must have one
    _contexts: Reloaded[_Contexts]

    def __init__(self, cert_file: str, key_file: str, client_ca_file: str | None) -> None:
        self._needs_certificate = client_ca_file is not None
        files = filter(None, (cert_file, key_file, client_ca_file))
        self._contexts = Reloaded(
            lambda: _load_contexts(cert_file, key_file, client_ca_file), *files
        )

    def wrap(self, connection: socket.socket, *, same_host: bool) -> ssl.SSLSocket:
        """Return the connection with TLS, before the handshake.

        A client from this host's own address needs no certificate: the healthcheck has
        none.
        """
        contexts = self._contexts.value()
        context = contexts.network
        if same_host:
            context = contexts.same_host
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def is_certified(self, connection: ssl.SSLSocket) -> bool:
        """Return whether the client has a valid certificate, or needs none.

        This is known after the handshake.
        """
        if not self._needs_certificate:
            return True
        return connection.getpeercert(binary_form=True) is not None


class BearerToken:
    """The token that clients must send, read from a file.

    Raises `CredentialsError` if the file has none.
    """

    def __init__(self, path: str) -> None:
        self._token = Reloaded(lambda: _load_token(path), path)

    def matches(self, authorization: str) -> bool:
        """Return whether the header has the token, as `Bearer` or as the password of `Basic`.

        The comparison takes constant time.
        """
        scheme, _, credentials = authorization.partition(" ")
        given = credentials.strip().encode("utf-8", "replace")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given, self._token.value())


class Reloaded(Generic[_T]):
    """The result of `load`, which is called again when one of the files changes.

    Thread-safe.
    """

    _value: _T  # of the last call that did not raise `CredentialsError`
    _identities: list[tuple[int, ...] | None]  # of the files at the last call

    def __init__(self, load: Callable[[], _T], *paths: str) -> None:
        self._load = load
        self._paths = paths
        # Before the files are read: a change meanwhile is noticed by the next request.
        self._identities = [*map(_identity, paths)]
        self._value = load()
        self._loading = threading.Lock()

    def value(self) -> _T:
        """Return the last result."""
        with self._loading:
            identities = [*map(_identity, self._paths)]
            if identities != self._identities:
                # Also if the files can't be used, so that this is logged once.
                self._identities = identities
                self._reload()
            return self._value

    def _reload(self) -> None:
        log = structlog.get_logger()
        try:
            self._value = self._load()
        except CredentialsError as error:
            advice = "the previous content stays in use"
            log.warning("credentials.unusable", cause=str(error), advice=advice)
        else:
            log.info("credentials.changed", files=" ".join(self._paths))


def _identity(path: str) -> tuple[int, ...] | None:
    """Return values that change when the file is written or replaced, `None` without one."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _load_contexts(cert_file: str, key_file: str, client_ca_file: str | None) -> _Contexts:
    # OpenSSL does not say which file is missing or empty.
    _load_certificates(cert_file)
    _read(key_file)
    contexts = _Contexts(_context(cert_file, key_file), _context(cert_file, key_file))
    if client_ca_file is not None:
        authorities = _load_certificates(client_ca_file)
        for context in contexts:
            context.load_verify_locations(cadata=authorities)
            # As for Go's TLS, an intermediate CA is enough.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        contexts.network.verify_mode = ssl.CERT_REQUIRED
        contexts.same_host.verify_mode = ssl.CERT_OPTIONAL
    return contexts


def _context(cert_file: str, key_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except OSError as error:
        # The error does not name the file.
        reason = getattr(error, "reason", error.strerror)
        if reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            path, cause = key_file, f"this is not the key of {cert_file}"
        elif reason is None:
            path, cause = key_file, "no private key as PEM and without a passphrase"
        else:
            path, cause = cert_file, f"OpenSSL can't use it: {reason}"
        raise CredentialsError(path, cause) from None
    return context


def _load_certificates(path: str) -> str:
    # The text around the certificates may be in any language.
    text = _read(path).decode("ascii", "ignore")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise CredentialsError(path, "no certificate as PEM") from None
    return text


def _load_token(path: str) -> bytes:
    token = _read(path).strip()
    if not _TOKEN.fullmatch(token):
        raise CredentialsError(path, "a token is one word of visible ASCII characters")
    return token


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        # A path with a null byte is a `ValueError`.
        cause = getattr(error, "strerror", None) or error
        raise CredentialsError(path, str(cause)) from None
    if not content.strip():
        raise CredentialsError(path, "the file is empty")
    if len(content) > _MAX_BYTES:
        raise CredentialsError(path, f"the file is larger than {_MAX_BYTES} bytes")
    return content
