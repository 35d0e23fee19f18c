"""The options: flag, variable, default, values and help, and `Settings` read from them.

Named tuples, because `healthcheck` starts every few seconds and importing dataclasses is
slow.
"""

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import ip_address
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

from docker_prom_exporter.texts import label_name, parse_boolean, parse_duration, redacted

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
    """An option is invalid; the message is one line with the option and the valid values."""


class Values(NamedTuple):
    """The valid values of an option."""

    parse: Callable[[str], Any]  # returns `None` or raises `ValueError` for all others
    words: str


class Option(NamedTuple):
    """One option, declared once, with its field of `Settings`."""

    group: str  # the heading in --help
    default: str | None
    values: Values
    help: str
    unset: Any = None  # the value if there is no default, and neither flag nor variable
    name: str = ""  # of the field

    @property
    def flag(self) -> str:
        """Return the name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Return the name in the environment."""
        return self.name.upper()


def _duration(least: float, most: float) -> Values:
    def parse(text: str) -> float | None:
        seconds = parse_duration(text)
        if least <= seconds <= most:
            return seconds
        return None

    words = f"seconds from {least:g} to {most:.10g}, also as 500ms, 15s, 1m30s or 1h"
    return Values(parse, words)


def _choice(choices: tuple[str, ...], **aliases: str) -> Values:
    by_lower = {choice.lower(): choice for choice in choices} | aliases
    return Values(lambda text: by_lower.get(text.lower()), "one of " + " ".join(choices))


def _port(text: str) -> int | None:
    # `int` alone would take +1, 1_0 and digits of other scripts.
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65535:
        return int(text)
    return None


def _address(text: str) -> str:
    # An IPv6 address may be in brackets, as in a URL.
    return str(ip_address(re.sub(r"^\[(.*:.*)\]$", r"\1", text)))


def _push_url(text: str) -> str | None:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
        return None
    # Visible ASCII without @, so that nobody puts a password here.
    if not re.fullmatch(r"[!-?A-~]+", text) or url.query or url.fragment:
        return None
    return text.rstrip("/")


def _label_keys(text: str) -> tuple[str, ...] | None:
    keys = tuple(key.strip() for key in text.split(","))
    if "=" in text or not all(keys):
        return None
    # Two keys can become one label of a metric.
    if len({*map(label_name, keys)}) < len(keys):
        return None
    return keys


def _textfile(text: str) -> str | None:
    # node_exporter's textfile collector reads no other file.
    if text.endswith(".prom"):
        return text
    return None


def _not_empty(text: str) -> str | None:
    return text or None


_BOOLEAN: Final = Values(parse_boolean, "true or false")
_TEXT: Final = Values(_not_empty, "a text")
_PATH: Final = Values(_not_empty, "a path")
# engine.target parses the address, as the Docker CLI does.
_DOCKER_HOST: Final = Values(
    _not_empty, "unix:///PATH, tcp://HOST:PORT, https://HOST:PORT or, on Windows, npipe://PATH"
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
_TEXTFILE: Final = Values(_textfile, "a path that ends in .prom")


class Settings(NamedTuple):
    """The options' values, in the order of `--help` and the README; times in seconds."""

    # `None`: the Docker CLI's context, else the local socket.
    docker_host: Annotated[
        str | None,
        Option(
            "Docker",
            None,
            _DOCKER_HOST,
            "the engine or its socket proxy; without it the Docker CLI's context, "
            "else the local socket",
        ),
    ]
    docker_timeout: Annotated[
        float, Option("Docker", "5", _duration(0.1, 600), "limit of one request to the engine")
    ]
    poll_interval: Annotated[
        float, Option("Docker", "15", _duration(0.5, 3600), "time from one poll to the next")
    ]
    scan_interval: Annotated[
        float, Option("Registry", "5m", _duration(1, 86400), "time from one scan to the next")
    ]
    container_health_filter_label: Annotated[
        bool,
        Option(
            "Containers",
            "true",
            _BOOLEAN,
            "true: watch the containers labelled true; false: all but those labelled false",
        ),
    ]
    container_details: Annotated[
        bool,
        Option(
            "Containers",
            "true",
            _BOOLEAN,
            "false: leave out restarts, exit codes and times, and never inspect a "
            "container on Docker",
        ),
    ]
    container_labels: Annotated[
        tuple[str, ...],
        Option(
            "Containers",
            None,
            _LABEL_KEYS,
            "container labels to export in docker_container_labels",
            unset=(),
        ),
    ]
    listen_addr: Annotated[
        str, Option("Web", "127.0.0.1", _ADDRESS, "address to serve on; 0.0.0.0 or :: for all")
    ]
    listen_port: Annotated[
        int, Option("Web", "9000", _PORT, "port to serve on; 0 for any that is free")
    ]
    client_ip_source: Annotated[
        str,
        Option(
            "Web",
            "ConnectInfo",
            _choice(CLIENT_IP_SOURCES),
            "where the access log takes the client's address from: the connection, "
            "or a header of a proxy",
        ),
    ]
    web_tls_cert_file: Annotated[
        str | None,
        Option("Web", None, _PATH, "certificate chain, as PEM, to serve HTTPS with"),
    ]
    web_tls_key_file: Annotated[
        str | None,
        Option(
            "Web",
            None,
            _PATH,
            "private key of that certificate, as PEM and without a passphrase",
        ),
    ]
    web_client_ca_file: Annotated[
        str | None,
        Option(
            "Web",
            None,
            _PATH,
            "CA certificates, as PEM; clients must present a certificate that one signed",
        ),
    ]
    web_bearer_token_file: Annotated[
        str | None,
        Option(
            "Web",
            None,
            _PATH,
            "file with the token that clients must send for /metrics and /",
        ),
    ]
    log_level: Annotated[
        str,
        Option(
            "Log",
            "info",
            _choice(LOG_LEVELS, warn="warning"),
            "lowest level; debug adds a line for each request",
        ),
    ]
    log_format: Annotated[
        str,
        Option(
            "Log", "auto", _choice(LOG_FORMATS), "auto is console on a terminal, else logfmt"
        ),
    ]
    # `None`: nothing is pushed.
    push_url: Annotated[
        str | None,
        Option(
            "Push", None, _PUSH_URL, "a Pushgateway to push to, or for expire to delete from"
        ),
    ]
    push_job: Annotated[
        str,
        Option(
            "Push", "docker_prom_exporter", _TEXT, "label job of what is pushed, or expires"
        ),
    ]
    push_instance: Annotated[
        str | None,
        Option(
            "Push",
            None,
            _TEXT,
            "label instance of what is pushed: the name of this host; needed to push",
        ),
    ]
    push_interval: Annotated[
        float, Option("Push", "15", _duration(1, 3600), "time from one push to the next")
    ]
    push_username: Annotated[
        str | None,
        Option("Push", None, _TEXT, "user name for the Pushgateway's basic authentication"),
    ]
    push_password_file: Annotated[
        str | None,
        Option("Push", None, _PATH, "file with the password; read for each push"),
    ]
    push_ca_file: Annotated[
        str | None,
        Option(
            "Push",
            None,
            _PATH,
            "CA certificates, as PEM, for the Pushgateway's; without it the system's",
        ),
    ]
    # `None`: no file is written.
    textfile: Annotated[
        str | None,
        Option(
            "Push",
            None,
            _TEXTFILE,
            "file to write the metrics to, for the textfile collector of node_exporter",
        ),
    ]
    expire_after: Annotated[
        float,
        Option(
            "Expire",
            "1h",
            _duration(1, 30 * 86400),
            "time after which expire deletes a group that is no longer pushed",
        ),
    ]


OPTIONS: Final = tuple(
    annotation.__metadata__[0]._replace(name=name)
    for name, annotation in Settings.__annotations__.items()
)
"""Every option, in the order of `Settings`."""

# Options that are of no use without another one.
_NEEDS: Final = (
    ("push_username", "push_password_file"),
    ("push_password_file", "push_username"),
    ("web_tls_cert_file", "web_tls_key_file"),
    ("web_tls_key_file", "web_tls_cert_file"),
    ("web_client_ca_file", "web_tls_cert_file"),
)


def read_settings(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    defaults: Mapping[str, str] = MappingProxyType({}),
    used: Collection[str] | None = None,
) -> Settings:
    """Read each option from `flags`, else `environ`, `defaults`, its own default.

    `flags` and `defaults` have them by `Option.name`. Of options that are not in `used`
    only the default counts; `None` stands for all options. Raises `BadOptionError` with
    the option as the user wrote it, its value and the valid values, or with a missing
    option that another one needs.
    """
    values = {}
    for option in OPTIONS:
        if used is None or option.name in used:
            values[option.name] = _value(option, flags, environ, defaults)
        else:
            values[option.name] = _value(option, {}, {}, defaults)
    for name, needed in _NEEDS:
        if values[name] is not None and values[needed] is None:
            raise BadOptionError(f"{_spelled(name)} needs {_spelled(needed)}, too")
    return Settings(**values)


def _spelled(name: str) -> str:
    for option in OPTIONS:
        if option.name == name:
            return f"{option.flag} ({option.variable})"
    raise LookupError(name)


def _value(
    option: Option,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    defaults: Mapping[str, str],
) -> Any:
    flag = flags.get(option.name)
    text = flag
    if text is None:
        # An empty variable counts as unset, an empty flag does not.
        text = environ.get(option.variable) or defaults.get(option.name, option.default)
    if text is None:
        return option.unset
    takes = "UTF-8"
    with suppress(ValueError):
        text.encode()  # which fails for bytes that the locale could not decode
        takes = option.values.words
        value = option.values.parse(text)
        if value is not None:
            return value
    # As the user wrote it.
    written = f"{option.variable}={redacted(text)!r}"
    if flag is not None:
        written = f"{option.flag} {redacted(text)!r}"
    raise BadOptionError(f"{written} can't be used: it takes {takes}")
