"""TLS files and bearer tokens: accepted and refused files, reloading, and the check of clients."""

import base64
import os
import socket
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from docker_prom_exporter.web.credentials import BearerToken, CredentialsError, ServerTls
from support.certificates import Certificate, authority, issue


@pytest.fixture
def ca(tmp_path: Path) -> Certificate:
    return authority(tmp_path)


@pytest.fixture
def server(tmp_path: Path, ca: Certificate) -> Certificate:
    return issue(tmp_path, "server", ca)


def tls_of(server: Certificate, ca: Certificate | None = None) -> ServerTls:
    return ServerTls(str(server.cert), str(server.key), str(ca.cert) if ca else None)


def context_of(tls: ServerTls, *, same_host: bool = False) -> ssl.SSLContext:
    """Return the TLS context of a new connection."""
    ends = socket.socketpair()
    with ends[1], tls.wrap(ends[0], same_host=same_host) as connection:
        return connection.context


def test_minimum_tls_version(server: Certificate) -> None:
    """The minimum version is TLS 1.2, because older versions are insecure."""
    assert ssl.TLSVersion.TLSv1_2 == context_of(tls_of(server)).minimum_version


@pytest.mark.parametrize(
    ("client_ca", "same_host", "mode"),
    [
        (True, False, ssl.CERT_REQUIRED),
        (True, True, ssl.CERT_OPTIONAL),
        (False, False, ssl.CERT_NONE),
        (False, True, ssl.CERT_NONE),
    ],
)
def test_who_is_asked_for_a_certificate(
    server: Certificate,
    ca: Certificate,
    *,
    client_ca: bool,
    same_host: bool,
    mode: ssl.VerifyMode,
) -> None:
    """With a client CA, a certificate is required from other hosts and optional from the same host.

    Local clients may use the health paths without a certificate.
    """
    tls = tls_of(server, ca if client_ca else None)

    assert mode == context_of(tls, same_host=same_host).verify_mode


@pytest.mark.parametrize("unusable", ["cert", "key", "ca"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b" \n", "empty"),
        (b"secret nonsense", "no (certificate|private key) as PEM"),
        (b"\x00\xff" * 99, "no (certificate|private key) as PEM"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "no (certificate|private key)",
        ),
        (b"x" * 2_000_000, "larger than"),
    ],
    ids=["missing", "blank", "text", "bytes", "malformed PEM", "large"],
)
def test_an_unusable_file(
    server: Certificate, ca: Certificate, unusable: str, content: bytes | None, complaint: str
) -> None:
    """An unusable file is reported in one line that has its name and nothing of its content."""
    path = {"cert": server.cert, "key": server.key, "ca": ca.cert}[unusable]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CredentialsError, match=rf"{path.name}: .*{complaint}") as raised:
        tls_of(server, ca)

    assert "secret" not in str(raised.value)
    assert 1 == len(str(raised.value).splitlines())


def test_a_folder_in_place_of_a_file(server: Certificate, tmp_path: Path) -> None:
    """A folder in place of a file is reported with the system's message."""
    with pytest.raises(CredentialsError, match=f"{tmp_path.name}: Is a directory"):
        tls_of(Certificate(tmp_path, server.key))


def test_the_key_of_another_certificate(server: Certificate, ca: Certificate) -> None:
    """A key that does not fit the certificate is reported with the names of both files."""
    with pytest.raises(
        CredentialsError, match=r"ca\.key: this is not the key of .*server\.pem"
    ):
        tls_of(Certificate(server.cert, ca.key))


def test_text_above_a_certificate(server: Certificate, ca: Certificate) -> None:
    """Text above a certificate is ignored; many tools write the subject there, in any language."""
    ca.cert.write_text("subject=CN = Prüfstelle\n" + ca.cert.read_text())

    assert 1 == len(context_of(tls_of(server, ca)).get_ca_certs())


def test_a_renewed_certificate(server: Certificate, ca: Certificate, tmp_path: Path) -> None:
    """A renewed certificate is used once its key fits; until then the old one stays in use."""
    tls = tls_of(server, ca)
    old = context_of(tls)
    renewed = issue(tmp_path, "renewed", ca)

    with capture_logs() as logs:
        assert old is context_of(tls)
        server.cert.write_bytes(renewed.cert.read_bytes())
        assert [old, old] == [context_of(tls) for _ in range(2)]
        server.key.write_bytes(renewed.key.read_bytes())
        assert old is not context_of(tls)

    assert ["credentials.unusable", "credentials.changed"] == [
        entry["event"] for entry in logs
    ]


def basic(credentials: str) -> str:
    return base64.b64encode(credentials.encode()).decode()


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("Bearer s3cret", True),
        ("bearer s3cret", True),
        ("BEARER  s3cret ", True),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer s3cre", False),
        ("Bearer s3cret2", False),
        ("Bearer S3CRET", False),
        ("Bearer s3cret s3cret", False),
        ("Basic s3cret", False),
        ("s3cret", False),
        ("Bearer s\u00e9cret", False),
        ("Bearer \udcff", False),
        (f"Basic {basic('anybody:s3cret')}", True),
        (f"basic  {basic(':s3cret')} ", True),
        (f"Basic {basic('s3cret')}", False),
        (f"Basic {basic('s3cret:')}", False),
        (f"Basic {basic('anybody:s3cret:')}", False),
        (f"Bearer {basic('anybody:s3cret')}", False),
        ("Basic", False),
        ("Basic =", False),
        ("Basic \u20ac", False),
    ],
)
def test_matches(tmp_path: Path, header: str, *, known: bool) -> None:
    """Only the whole token matches, after `Bearer` or as the password, with any case of the scheme."""
    path = tmp_path / "token"
    path.write_text("s3cret\n")

    assert known == BearerToken(str(path)).matches(header)


@pytest.mark.parametrize(
    "content", [None, "", "\n", "two words", "two\nlines", "s\u00e9cret", "s3cret\x00"]
)
def test_an_unusable_token_file(tmp_path: Path, content: str | None) -> None:
    """An unusable token file is reported with its name and without its content."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CredentialsError, match="token: ") as raised:
        BearerToken(str(path))

    assert "s3cret" not in str(raised.value)


def test_a_new_token(tmp_path: Path) -> None:
    """A token file is read again after a change; while it is missing or unusable, the old token is valid."""
    path = tmp_path / "token"
    path.write_text("one")
    token = BearerToken(str(path))

    with capture_logs() as logs:
        path.unlink()
        assert token.matches("Bearer one")
        path.write_text("two")
        assert (False, True) == (token.matches("Bearer one"), token.matches("Bearer two"))
        (tmp_path / "new").write_text("six")
        os.utime(tmp_path / "new", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        (tmp_path / "new").rename(path)
        assert token.matches("Bearer six")
        path.write_text("two words")
        assert token.matches("Bearer six")

    events = [
        "credentials.unusable",
        "credentials.changed",
        "credentials.changed",
        "credentials.unusable",
    ]
    assert events == [entry["event"] for entry in logs]
