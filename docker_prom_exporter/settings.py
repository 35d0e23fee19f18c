"""Owns the options: one table (flag, variable, default, reader, help), read into frozen `Settings`.

Named tuples: `healthcheck` starts every few seconds, and to import dataclasses takes longer than all of this.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from docker_prom_exporter.booleans import parse_boolean

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
    """What the user asked for can't be done; the message is one line that says what, and what would do."""


class Settings(NamedTuple):
    """What the user asked for; seconds for `poll_interval`, `docker_timeout` and `push_interval`.

    `docker_host` is `None` where docker-py is to find it: in its context, else the platform's local socket.
    `push_url` and `textfile` are `None` where nothing is to be pushed or written.
    """

    docker_host: str | None
    docker_timeout: float
    poll_interval: float
    container_health_filter_label: bool
    container_details: bool
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
    container_labels: tuple[str, ...] = ()


class Option(NamedTuple):
    """One option. `read` turns its text into its value or raises `ValueError`; `takes` says what it reads."""

    name: str
    group: str
    default: str | None
    read: Callable[[str], Any]
    takes: str
    help: str

    @property
    def flag(self) -> str:
        """Return the name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Return the name in the environment."""
        return self.name.upper()


def read_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Take each option from `flags` (by `Option.name`), else from the environment, else its default.

    Raises `BadOptionError` with the option as the user wrote it, the value, and what it takes; or with an
    option that is missing beside another.
    """
    settings = Settings(**{option.name: _read(option, flags.get(option.name), environ) for option in OPTIONS})
    for name, needed in _NEEDS:
        if getattr(settings, name) is not None and getattr(settings, needed) is None:
            raise BadOptionError(f"{_spellings(name)} needs {_spellings(needed)}, too")
    return settings


def _spellings(name: str) -> str:
    option = next(option for option in OPTIONS if option.name == name)
    return f"{option.flag} ({option.variable})"


def _read(option: Option, flag: str | None, environ: Mapping[str, str]) -> Any:
    variable = environ.get(option.variable) or None
    text = flag if flag is not None else variable if variable is not None else option.default
    if text is None:
        return None
    try:
        return option.read(text)
    except ValueError:
        shown = re.sub(r"(//[^/:]*:|^[^/:]*:(?!//)).*@", r"\1…@", text)
        written = f"{option.flag} {shown!r}" if flag is not None else f"{option.variable}={shown!r}"
        raise BadOptionError(f"{written} can't be used: it takes {option.takes}") from None


def _boolean(text: str) -> bool:
    value = parse_boolean(text)
    if value is None:
        raise ValueError(text)
    return value


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or not least <= float(text) <= most:
            raise ValueError(text)
        return float(text)

    return read


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def _address(text: str) -> str:
    bracketed = re.fullmatch(r"\[(.*:.*)\]", text)
    return str(ip_address(bracketed[1] if bracketed else text))


def _choice(choices: tuple[str, ...]) -> Callable[[str], str]:
    by_lower = {choice.lower(): choice for choice in choices}

    def read(text: str) -> str:
        if text.lower() not in by_lower:
            raise ValueError(text)
        return by_lower[text.lower()]

    return read


def _docker_host(text: str) -> str:
    text = text if "://" in text else f"tcp://{text}"
    url = urlsplit(text)
    if url.username or url.password or url.query or url.fragment:
        raise ValueError(text)
    if url.scheme in ("unix", "npipe") and url.netloc + url.path:
        return text
    if url.scheme in ("tcp", "http", "https") and url.hostname and url.port and url.path in ("", "/"):
        return text
    raise ValueError(text)


def _push_url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
        raise ValueError(text)
    if "@" in url.netloc or url.query or url.fragment or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(text)
    return text.rstrip("/")


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _one_of(choices: tuple[str, ...]) -> str:
    return "one of " + " ".join(choices)


OPTIONS: Final = (
    Option(
        "docker_host",
        "Docker",
        None,
        _docker_host,
        "unix:///PATH, tcp://HOST:PORT, https://HOST:PORT or npipe://PATH",
        "the engine or its socket proxy; without it the Docker CLI's context, else the local socket",
    ),
    Option(
        "docker_timeout",
        "Docker",
        "5",
        _number(0.1, 600),
        "seconds from 0.1 to 600",
        "seconds one request to the engine may take",
    ),
    Option(
        "poll_interval",
        "Docker",
        "5",
        _number(0.5, 3600),
        "seconds from 0.5 to 3600",
        "seconds from one poll to the next",
    ),
    Option(
        "container_health_filter_label",
        "Containers",
        "true",
        _boolean,
        "true or false",
        "true: watch the containers labelled true; false: all but those labelled false",
    ),
    Option(
        "container_details",
        "Containers",
        "true",
        _boolean,
        "true or false",
        "false: leave out restarts, exit codes and times, and never inspect a container on Docker",
    ),
    Option(
        "listen_addr",
        "Web",
        "127.0.0.1",
        _address,
        "an IPv4 or IPv6 address",
        "address to serve on; 0.0.0.0 or :: for all",
    ),
    Option(
        "listen_port",
        "Web",
        "9000",
        _port,
        "a port from 0 to 65535",
        "port to serve on; 0 for any that is free",
    ),
    Option(
        "client_ip_source",
        "Web",
        "ConnectInfo",
        _choice(CLIENT_IP_SOURCES),
        _one_of(CLIENT_IP_SOURCES),
        "where the access log takes the client's address from: the connection, or a header of a proxy",
    ),
    Option(
        "web_tls_cert_file",
        "Web",
        None,
        _not_empty,
        "a path",
        "certificate chain, as PEM, to serve HTTPS with",
    ),
    Option(
        "web_tls_key_file",
        "Web",
        None,
        _not_empty,
        "a path",
        "private key of that certificate, as PEM and without a passphrase",
    ),
    Option(
        "web_client_ca_file",
        "Web",
        None,
        _not_empty,
        "a path",
        "certificates, as PEM, of who may sign those that clients must present",
    ),
    Option(
        "web_bearer_token_file",
        "Web",
        None,
        _not_empty,
        "a path",
        "file that holds the token which clients must send for /metrics and /",
    ),
    Option(
        "log_level",
        "Log",
        "info",
        _choice(LOG_LEVELS),
        _one_of(LOG_LEVELS),
        "least level to log: debug adds a line a request",
    ),
    Option(
        "log_format",
        "Log",
        "auto",
        _choice(LOG_FORMATS),
        _one_of(LOG_FORMATS),
        "auto is console on a terminal, else logfmt",
    ),
    Option(
        "push_url",
        "Push",
        None,
        _push_url,
        "http://HOST:PORT or https://HOST:PORT; a password goes to --push-password-file",
        "a Pushgateway to push to",
    ),
    Option(
        "push_job",
        "Push",
        "docker_prom_exporter",
        _not_empty,
        "a text",
        "label job of what is pushed",
    ),
    Option(
        "push_instance",
        "Push",
        None,
        _not_empty,
        "a text",
        "label instance of what is pushed: the name of this host; needed with --push-url",
    ),
    Option(
        "push_interval",
        "Push",
        "15",
        _number(1, 3600),
        "seconds from 1 to 3600",
        "seconds from one push to the next",
    ),
    Option(
        "push_username",
        "Push",
        None,
        _not_empty,
        "a text",
        "user name for the Pushgateway's basic authentication",
    ),
    Option(
        "push_password_file",
        "Push",
        None,
        _not_empty,
        "a path",
        "file that holds the password; read for each push",
    ),
    Option(
        "push_ca_file",
        "Push",
        None,
        _not_empty,
        "a path",
        "certificates, as PEM, of who may sign the Pushgateway's; without it those the system trusts",
    ),
    Option(
        "textfile",
        "Push",
        None,
        _not_empty,
        "a path",
        "file to write the metrics to, for node_exporter's textfile collector, which reads *.prom",
    ),
)
"""Every option, in the order `--help` and the README show them."""

_NEEDS: Final = (
    ("push_url", "push_instance"),
    ("push_username", "push_password_file"),
    ("push_password_file", "push_username"),
    ("web_tls_cert_file", "web_tls_key_file"),
    ("web_tls_key_file", "web_tls_cert_file"),
    ("web_client_ca_file", "web_tls_cert_file"),
)
