"""The options, with flag, variable, default, values and help, and `Settings` read from them.

Named tuples, because `healthcheck` starts every few seconds and importing dataclasses is slow.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from docker_prom_exporter.booleans import parse_boolean
from docker_prom_exporter.durations import parse_duration
from docker_prom_exporter.label_names import label_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CLIENT_IP_SOURCES: Final = (
    "ConnectInfo",
    "RightmostXForwardedFor",
    "RightmostForwarded",
    "XRealIp",
    "CfConnectingIp",
    "TrueClientIp",
    "FlyClientIp",
    "CloudFrontViewerAddress",
    "XEnvoyExternalAddress",
)
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "console", "logfmt", "json")


class BadOptionError(ValueError):
    """An option is invalid; the message is one line with the option, the error and the valid values."""


class Settings(NamedTuple):
    """The options' values; `docker_timeout` and all intervals are in seconds.

    If `docker_host` is `None`, docker-py uses the Docker CLI's context, else the local socket.
    If `push_url` or `textfile` is `None`, nothing is pushed or written.
    """

    docker_host: str | None
    docker_timeout: float
    poll_interval: float
    scan_interval: float
    container_health_filter_label: bool
    container_details: bool
    container_labels: tuple[str, ...]
    listen_addr: str
    listen_port: int
    client_ip_source: str
    web_tls_cert_file: str | None
    web_tls_key_file: str | None
    web_client_ca_file: str | None
    web_bearer_token_file: str | None
    log_level: str
    log_format: str
    push_url: str | None
    push_job: str
    push_instance: str | None
    push_interval: float
    push_username: str | None
    push_password_file: str | None
    push_ca_file: str | None
    textfile: str | None
    expire_after: float


class Values(NamedTuple):
    """The valid values of an option, in words; for others `read` returns None or raises `ValueError`."""

    read: Callable[[str], Any]
    words: str


class Option(NamedTuple):
    """One option. Without a default its value is `unset` if neither its flag nor its variable is given."""

    name: str
    group: str
    default: str | None
    values: Values
    help: str
    unset: Any = None

    @property
    def flag(self) -> str:
        """Return the name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Return the name in the environment."""
        return self.name.upper()


def read_settings(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Read each option from `flags` (by `Option.name`), else `environ`, `defaults`, `Option.default`.

    Raises `BadOptionError` with the option as the user wrote it, its value and the valid values, or with a
    missing option that another one needs.
    """
    settings = Settings(
        **{option.name: _read(option, flags, environ, defaults) for option in OPTIONS}
    )
    for name, needed in _NEEDS:
        if getattr(settings, name) is not None and getattr(settings, needed) is None:
            spelled = {option.name: f"{option.flag} ({option.variable})" for option in OPTIONS}
            raise BadOptionError(f"{spelled[name]} needs {spelled[needed]}, too")
    return settings


def redacted(text: str) -> str:
    """Return a value with the query, and all before the last `@` except the scheme, as `…`: no passwords."""
    text = re.sub(r"(?s)^([a-zA-Z]+://)?.*@", r"\1…@", text)
    return re.sub(r"(?s)\?.*", "?…", text)


def _read(
    option: Option,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    defaults: Mapping[str, str],
) -> Any:
    flag, default = flags.get(option.name), defaults.get(option.name, option.default)
    text = flag if flag is not None else environ.get(option.variable) or default
    if text is None:
        return option.unset
    takes = "UTF-8"
    with suppress(ValueError):
        text.encode()
        takes = option.values.words
        value = option.values.read(text)
        if value is not None:
            return value
    shown = redacted(text)
    written = (
        f"{option.flag} {shown!r}" if flag is not None else f"{option.variable}={shown!r}"
    )
    raise BadOptionError(f"{written} can't be used: it takes {takes}")


def _duration(least: float, most: float) -> Values:
    def read(text: str) -> float | None:
        seconds = parse_duration(text)
        return seconds if least <= seconds <= most else None

    return Values(
        read, f"seconds from {least:g} to {most:.10g}, also as 500ms, 15s, 1m30s or 1h"
    )


def _choice(choices: tuple[str, ...]) -> Values:
    by_lower = {choice.lower(): choice for choice in choices}
    return Values(lambda text: by_lower.get(text.lower()), "one of " + " ".join(choices))


def _port(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65535 else None


def _address(text: str) -> str:
    bracketed = re.fullmatch(r"\[(.*:.*)\]", text)
    return str(ip_address(bracketed[1] if bracketed else text))


def _docker_host(text: str) -> str | None:
    text = text if "://" in text else f"tcp://{text}"
    url = urlsplit(text)
    plain = text.isprintable() and not (
        url.username or url.password or url.query or url.fragment
    )
    local = url.scheme in ("unix", "npipe") and url.netloc + url.path
    remote = (
        url.scheme in ("tcp", "http", "https")
        and url.hostname
        and url.port
        and url.path in ("", "/")
    )
    return text if plain and (local or remote) else None


def _push_url(text: str) -> str | None:
    url = urlsplit(text)
    found = url.scheme in ("http", "https") and url.hostname and url.port != 0
    plain = re.fullmatch(r"[!-?A-~]+", text) and not (url.query or url.fragment)
    return text.rstrip("/") if found and plain else None


def _label_keys(text: str) -> tuple[str, ...] | None:
    keys = tuple(key.strip() for key in text.split(","))
    distinct = len({*map(label_name, keys)}) == len(keys)
    return keys if all(keys) and "=" not in text and distinct else None


_BOOLEAN: Final = Values(parse_boolean, "true or false")
_TEXT: Final = Values(lambda text: text or None, "a text")
_PATH: Final = Values(lambda text: text or None, "a path")
_DOCKER_HOST: Final = Values(
    _docker_host, "unix:///PATH, tcp://HOST:PORT, https://HOST:PORT or npipe://PATH"
)
_LABEL_KEYS: Final = Values(
    _label_keys,
    "keys with commas between, none empty or with =, none twice (a.b and a-b are one label)",
)
_ADDRESS: Final = Values(_address, "an IPv4 or IPv6 address")
_PORT: Final = Values(_port, "a port from 0 to 65535")
_PUSH_URL: Final = Values(
    _push_url, "http://HOST:PORT or https://HOST:PORT; a password goes to --push-password-file"
)

# fmt: off
OPTIONS: Final = (
    Option("docker_host", "Docker", None, _DOCKER_HOST,
           "the engine or its socket proxy; without it the Docker CLI's context, else the local socket"),
    Option("docker_timeout", "Docker", "5", _duration(0.1, 600), "limit of one request to the engine"),
    Option("poll_interval", "Docker", "15", _duration(0.5, 3600), "time from one poll to the next"),
    Option("scan_interval", "Registry", "5m", _duration(1, 86400), "time from one scan to the next"),
    Option("container_health_filter_label", "Containers", "true", _BOOLEAN,
           "true: watch the containers labelled true; false: all but those labelled false"),
    Option("container_details", "Containers", "true", _BOOLEAN,
           "false: leave out restarts, exit codes and times, and never inspect a container on Docker"),
    Option("container_labels", "Containers", None, _LABEL_KEYS,
           "container labels to export in docker_container_labels", unset=()),
    Option("listen_addr", "Web", "127.0.0.1", _ADDRESS, "address to serve on; 0.0.0.0 or :: for all"),
    Option("listen_port", "Web", "9000", _PORT, "port to serve on; 0 for any that is free"),
    Option("client_ip_source", "Web", "ConnectInfo", _choice(CLIENT_IP_SOURCES),
           "where the access log takes the client's address from: the connection, or a header of a proxy"),
    Option("web_tls_cert_file", "Web", None, _PATH, "certificate chain, as PEM, to serve HTTPS with"),
    Option("web_tls_key_file", "Web", None, _PATH,
           "private key of that certificate, as PEM and without a passphrase"),
    Option("web_client_ca_file", "Web", None, _PATH,
           "certificates, as PEM, of the CAs that may sign those that clients must present"),
    Option("web_bearer_token_file", "Web", None, _PATH,
           "file that holds the token which clients must send for /metrics and /"),
    Option("log_level", "Log", "info", _choice(LOG_LEVELS), "least level; debug adds a line a request"),
    Option("log_format", "Log", "auto", _choice(LOG_FORMATS), "auto is console on a terminal, else logfmt"),
    Option("push_url", "Push", None, _PUSH_URL, "a Pushgateway to push to, or for expire to delete from"),
    Option("push_job", "Push", "docker_prom_exporter", _TEXT, "label job of what is pushed, or expires"),
    Option("push_instance", "Push", None, _TEXT,
           "label instance of what is pushed: the name of this host; needed to push"),
    Option("push_interval", "Push", "15", _duration(1, 3600), "time from one push to the next"),
    Option("push_username", "Push", None, _TEXT, "user name for the Pushgateway's basic authentication"),
    Option("push_password_file", "Push", None, _PATH, "file that holds the password; read for each push"),
    Option("push_ca_file", "Push", None, _PATH,
           "certificates, as PEM, of CAs that may sign the Pushgateway's; without it the system's"),
    Option("textfile", "Push", None, _PATH,
           "file to write the metrics to, for node_exporter's textfile collector, which reads *.prom"),
    Option("expire_after", "Expire", "1h", _duration(1, 30 * 86400),
           "time after which expire deletes a group that is no longer pushed"),
)
# fmt: on
"""Every option, in the order of `--help` and the README."""

_NEEDS: Final = (
    ("push_username", "push_password_file"),
    ("push_password_file", "push_username"),
    ("web_tls_cert_file", "web_tls_key_file"),
    ("web_tls_key_file", "web_tls_cert_file"),
    ("web_client_ca_file", "web_tls_cert_file"),
)
