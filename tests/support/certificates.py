"""Certificates for tests, made with the openssl command."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.missing import require_program


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, each in a file."""

    cert: Path
    key: Path

    def replace_by(self, other: "Certificate") -> None:
        """Overwrite this certificate with another, the key last, as most renewal programs do."""
        self.cert.write_bytes(other.cert.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


def authority(
    folder: Path, name: str = "ca", signer: Certificate | None = None
) -> Certificate:
    """Make a certificate authority, with a `signer` an intermediate one."""
    return _make(
        folder,
        name,
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,keyCertSign,cRLSign",
        signer=signer,
    )


def issue(
    folder: Path, name: str, signer: Certificate, usage: str = "serverAuth"
) -> Certificate:
    """Make a certificate for 127.0.0.1, signed by an authority, for `serverAuth` or `clientAuth` only."""
    extensions = ("basicConstraints=critical,CA:FALSE", "subjectAltName=IP:127.0.0.1")
    return _make(folder, name, *extensions, f"extendedKeyUsage={usage}", signer=signer)


def trusting(signer: Certificate, own: Certificate | None = None) -> ssl.SSLContext:
    """Return the TLS context of a client that trusts this authority and presents `own`, if given."""
    context = ssl.create_default_context(cafile=str(signer.cert))
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


def _make(
    folder: Path, name: str, *extensions: str, signer: Certificate | None = None
) -> Certificate:
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    config = folder / "openssl.cnf"
    config.write_text("[req]\ndistinguished_name = name\n[name]\n")
    argv = [require_program("openssl"), "req", "-x509", "-days", "2", "-nodes"]
    argv += ["-subj", f"/CN={name}", "-config", str(config)]
    argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv += ["-out", str(made.cert), "-keyout", str(made.key)]
    argv += [part for extension in extensions for part in ("-addext", extension)]
    if signer is not None:
        argv += ["-CA", str(signer.cert), "-CAkey", str(signer.key)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return made
