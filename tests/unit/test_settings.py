"""Options have a value from a flag, the environment or a default; a bad value is refused in one line."""

import re
from typing import Any

import pytest

from docker_prom_exporter.settings import (
    CLIENT_IP_SOURCES,
    OPTIONS,
    BadOptionError,
    Settings,
    read_settings,
)

DEFAULTS = read_settings({}, {})

GOOD = [
    ("docker_host", "unix:///run/docker.sock", "unix:///run/docker.sock"),
    ("docker_host", "proxy", "proxy"),
    ("docker_timeout", "0.1", 0.1),
    ("docker_timeout", "600", 600.0),
    ("poll_interval", "0.5", 0.5),
    ("poll_interval", "3600", 3600.0),
    ("poll_interval", "500ms", 0.5),
    ("poll_interval", "1m30s", 90.0),
    ("container_health_filter_label", "No", False),
    ("container_health_filter_label", "1", True),
    ("container_details", "OFF", False),
    ("container_details", "yes", True),
    ("container_labels", "com.example.team", ("com.example.team",)),
    (
        "container_labels",
        "team, com.docker.swarm.service.name",
        ("team", "com.docker.swarm.service.name"),
    ),
    ("container_labels", "Team,team", ("Team", "team")),
    ("listen_addr", "0.0.0.0", "0.0.0.0"),
    ("listen_addr", "::", "::"),
    ("listen_addr", "[::1]", "::1"),
    ("listen_port", "0", 0),
    ("listen_port", "65535", 65535),
    ("log_level", "DEBUG", "debug"),
    ("log_level", "error", "error"),
    ("log_level", "warn", "warning"),
    ("log_format", "JSON", "json"),
    ("log_format", "console", "console"),
    ("push_job", "ci/runners", "ci/runners"),
    ("push_instance", "runner 7", "runner 7"),
    ("push_interval", "1", 1.0),
    ("push_ca_file", "/etc/ssl/ca.pem", "/etc/ssl/ca.pem"),
    ("textfile", "docker.prom", "docker.prom"),
    ("expire_after", "1", 1.0),
    ("expire_after", "30d", 2592000.0),
    *(("client_ip_source", source.lower(), source) for source in CLIENT_IP_SOURCES),
]

DURATIONS = ", also as 500ms, 15s, 1m30s or 1h"
BAD = {
    ("docker_timeout", f"seconds from 0.1 to 600{DURATIONS}"): "0 0.09 601 -1 nan inf five",
    ("poll_interval", f"seconds from 0.5 to 3600{DURATIONS}"): (
        "0 0.4 3601 499ms 1h1s -5 nan inf 1e1 1_0 5,0"
    ),
    ("push_interval", f"seconds from 1 to 3600{DURATIONS}"): "0 0.9 3601 2h",
    ("expire_after", f"seconds from 1 to 2592000{DURATIONS}"): "0 999ms 31d",
    ("container_health_filter_label", "true or false"): "maybe 2 truefalse",
    ("container_details", "true or false"): "y -1",
    (
        "container_labels",
        "keys with commas between, none empty or with =, none twice (a.b and a-b are one label)",
    ): ", a, a,,b a=b a,a com.example/team,com.example-team",
    ("listen_addr", "an IPv4 or IPv6 address"): (
        "localhost [127.0.0.1 256.0.0.1 1.2.3.4:9000 ::g"
    ),
    ("listen_port", "a port from 0 to 65535"): "70000 65536 -1 9000.0 0x50 ٩ 1_0 http",
    ("client_ip_source", f"one of {' '.join(CLIENT_IP_SOURCES)}"): "Forwarded XForwardedFor",
    ("log_level", "one of debug info warning error"): "verbose trace 10",
    ("log_format", "one of auto console logfmt json"): "xml",
    (
        "push_url",
        "http://HOST:PORT or https://HOST:PORT; a password goes to --push-password-file",
    ): "gateway:9091 ftp://gateway http:// http://h:x http://h:0 http://h/#a http://[::1",
    ("textfile", "a path that ends in .prom"): "foo.txt docker.prom/ /var/lib",
}
BAD_ROWS = [
    (name, text, takes) for (name, takes), texts in BAD.items() for text in texts.split()
]
TAKES = dict([*BAD])
BAD_ROWS += [
    ("container_labels", " ", TAKES["container_labels"]),
    ("log_format", "log\nfmt", TAKES["log_format"]),
    ("push_url", "http://h/a b", TAKES["push_url"]),
    ("push_url", "http://h/\n", TAKES["push_url"]),
]


def variable_of(name: str) -> str:
    return name.upper()


def test_each_option_is_a_setting() -> None:
    """Each option has a field of the settings, in the same order."""
    assert [*Settings._fields] == [option.name for option in OPTIONS]


def test_an_empty_variable_is_unset() -> None:
    """An empty variable counts as unset. README's table, which a test compares, has the defaults."""
    assert DEFAULTS == read_settings({}, {option.variable: "" for option in OPTIONS})


@pytest.mark.parametrize(("name", "text", "expected"), GOOD)
def test_good_values(name: str, text: str, expected: Any) -> None:
    """A value is read in the same way from a flag and a variable, and the flag takes precedence."""
    variable = variable_of(name)
    read = [
        getattr(read_settings(flags, environ), name)
        for flags, environ in (
            ({name: text}, {}),
            ({name: None}, {variable: text}),
            ({name: text}, {variable: "not a value of any option"}),
        )
    ]

    assert [expected] * 3 == read
    assert {type(expected)} == {type(value) for value in read}


def test_defaults_of_a_command() -> None:
    """Flags and variables take precedence over the defaults of a command."""
    read = [
        read_settings(flags, environ, {"poll_interval": "2"}).poll_interval
        for flags, environ in (
            ({}, {}),
            ({}, {"POLL_INTERVAL": "3"}),
            ({"poll_interval": "4"}, {"POLL_INTERVAL": "3"}),
        )
    ]

    assert [2, 3, 4] == read


def test_an_option_that_is_not_used() -> None:
    """An option that a command does not use has its default, whatever its variable has."""
    settings = read_settings({}, {"LISTEN_PORT": "x", "LOG_LEVEL": "debug"}, {}, ["log_level"])

    assert (9000, "debug") == (settings.listen_port, settings.log_level)


def test_other_options_are_unchanged() -> None:
    """A value changes only its own option, and unknown variables change none."""
    settings = read_settings(
        {"listen_port": "1"}, {"LOG_LEVEL": "debug", "POLL": "x", "listen_addr": "::1"}
    )

    assert DEFAULTS._replace(listen_port=1, log_level="debug") == settings


@pytest.mark.parametrize(("name", "text", "takes"), BAD_ROWS)
def test_bad_values(name: str, text: str, takes: str) -> None:
    """The error is one line with the option as the user wrote it, the value, and the values that it takes."""
    variable = variable_of(name)
    flag = "--" + name.replace("_", "-")

    with pytest.raises(BadOptionError) as by_flag:
        read_settings({name: text}, {})
    with pytest.raises(BadOptionError) as by_variable:
        read_settings({}, {variable: text})

    assert f"{flag} {text!r} can't be used: it takes {takes}" == str(by_flag.value)
    assert f"{variable}={text!r} can't be used: it takes {takes}" == str(by_variable.value)
    assert 1 == len(str(by_flag.value).splitlines())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp://user:hunter2@engine:2375", "tcp://…@engine:2375"),
        ("tcp://user:hunter2@hunter2@engine:2375", "tcp://…@engine:2375"),
        ("http://us/er:hunter2/@engine", "http://…@engine"),
        ("http://hunter2@engine", "http://…@engine"),
        ("ssh://hunter2@engine:22", "ssh://…@engine:22"),
        ("http://user:hunter2\n@engine", "http://…@engine"),
        (" http://user:hunter2@engine", "…@engine"),
        ("user:hunter2@engine", "…@engine"),
        ("http://engine/?password=hunter2", "http://engine/?…"),
        ("http://\udcff:hunter2@engine", "http://…@engine"),
    ],
)
def test_a_password_is_not_repeated(text: str, shown: str) -> None:
    """The error for a bad address leaves out what may be secret."""
    name = "push_url"
    for flags, environ in (({name: text}, {}), ({}, {variable_of(name): text})):
        with pytest.raises(BadOptionError, match=re.escape(repr(shown))) as error:
            read_settings(flags, environ)
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["docker_host", "listen_addr", "push_username", "push_job", "textfile"]
)
def test_bytes_that_are_not_utf_8(name: str) -> None:
    """A value that is not UTF-8 is refused, because Python's surrogates for it can't be written."""
    with pytest.raises(BadOptionError, match=r"=.*\\udcff.*can't be used: it takes UTF-8"):
        read_settings({}, {variable_of(name): "a\udcff"})


def test_an_empty_flag_is_a_bad_value() -> None:
    """An empty flag is refused, whereas an empty variable counts as unset."""
    for option in OPTIONS:
        with pytest.raises(BadOptionError, match=f"{option.flag} ''"):
            read_settings({option.name: ""}, {option.variable: ""})


def test_a_bad_flag_and_a_good_variable() -> None:
    """A bad flag is refused even if the variable is good."""
    with pytest.raises(BadOptionError, match="--listen-port '70000'"):
        read_settings({"listen_port": "70000"}, {"LISTEN_PORT": "9000"})


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (
            {"push_username": "me"},
            r"--push-username \(PUSH_USERNAME\) needs --push-password-file \(PUSH_PASSWORD_FILE\)",
        ),
        (
            {"push_password_file": "/p"},
            r"--push-password-file .* needs --push-username \(PUSH_USERNAME\)",
        ),
        ({"web_tls_cert_file": "/c"}, r"--web-tls-cert-file .* needs --web-tls-key-file .*"),
        ({"web_tls_key_file": "/k"}, r"--web-tls-key-file .* needs --web-tls-cert-file .*"),
        (
            {"web_client_ca_file": "/a"},
            r"--web-client-ca-file .* needs --web-tls-cert-file .*",
        ),
    ],
)
def test_an_option_that_needs_another(options: dict[str, str], needed: str) -> None:
    """If an option needs another one, the error names the flag and variable of both."""
    with pytest.raises(BadOptionError, match=needed):
        read_settings(options, {})
