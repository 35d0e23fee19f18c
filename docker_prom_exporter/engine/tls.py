"""TLS to an engine: its files, and the context that is made of them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from docker_prom_exporter.engine.errors import BadTargetError

if TYPE_CHECKING:
    from pathlib import Path


class Tls(NamedTuple):
    """How to speak TLS.

    `origin` names the variables or the context that it comes from. Each file is PEM.
    Without `ca` the system's CAs are trusted; without `key` no client certificate is
    presented.
    """

    origin: str
    verified: bool = True
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files; raises `BadTargetError` with the one that can't be used.

        The context checks what Go's TLS, and so the CLI, checks: no common names, and not
        VERIFY_X509_STRICT, which Python 3.13 added and many private CAs don't pass.
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
            f"the TLS file {str(path)!r} ({self.origin}) can't be used: {why}; "
            f"it must hold {content}"
        )
