"""The command line: help, version, errors and exit codes."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import requests

from docker_prom_exporter import __version__, cli, commands
from docker_prom_exporter.output import CommandError
from docker_prom_exporter.settings import OPTIONS, read_settings


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("DOCKER_")]:
        monkeypatch.delenv(name)
    for name in (option.variable for option in OPTIONS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that prints and exits with 0; return its standard output."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capfd.readouterr()

    assert (0, "") == (ended.value.code, captured.err)
    return captured.out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    """`--version` prints one line with the name and the version."""
    assert f"docker-prom-exporter {__version__}\n" == printed(capfd, "--version")


@pytest.mark.parametrize("command", [None, "once", "check", "healthcheck", "demo", "expire"])
def test_help(command: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    """Help lists each option of the command with its variable, values and default, and no other."""
    text = printed(capfd, *filter(None, [command]), "--help")
    lines = [line.strip() for line in text.splitlines()]
    flat = " ".join(lines)
    used = cli._COMMANDS[command].options

    for option in OPTIONS:
        assert (option.name in used) == (f"{option.flag} {option.variable}" in lines)
        if option.name in used:
            assert option.values.words in flat
            assert option.default is None or f"(default: {option.default})" in flat
    assert max(map(len, text.splitlines())) <= 100


# What each command does without; all others it uses.
UNUSED = {
    "once": {"Web", "Registry", "Expire"},
    "check": {"Web", "Registry", "Expire", "Push", "poll_interval"},
    "healthcheck": {"Docker", "Containers", "Log", "Push", "Registry", "Expire"}
    | {"client_ip_source"},
    "demo": {"docker_host", "Registry", "Expire"},
    "registry": {"Docker", "Containers", "Expire"},
    "expire": {"docker_host", "docker_timeout", "Containers", "Registry"}
    | {"push_instance", "push_interval"},
    None: {"Registry", "Expire"},
}


@pytest.mark.parametrize("command", UNUSED)
def test_an_option_of_another_command(
    command: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A command refuses each flag that it does not use, and ignores its variable."""
    monkeypatch.setattr(commands, "run", lambda *_, **__: 0)
    monkeypatch.setattr("docker_prom_exporter.healthcheck.healthcheck", lambda *_, **__: 0)
    own = {"registry": ["registry", "/"], None: []}.get(command, [str(command)])
    refused = set()
    for option in OPTIONS:
        code = cli.main([*own, option.flag, "x"])
        line = capfd.readouterr().err
        if "has no option" in line or "is an option of" in line:
            assert 2 == code
            assert 1 == line.count("\n")
            assert option.flag in line
            refused.add(option.name)
    unused = {
        option.name for option in OPTIONS if {option.name, option.group} & UNUSED[command]
    }
    for option in OPTIONS:
        if option.name in unused:
            monkeypatch.setenv(option.variable, "\n")

    assert unused == refused
    assert 0 == cli.main(own)


@pytest.mark.parametrize(
    "path", ["/app/docker-prometheus-exporter", "docker-prometheus-exporter"]
)
def test_the_command_of_the_rust_exporter(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The Rust exporter's binary as first argument is understood: a Compose file may name it."""
    assert printed(capfd, "-V") == printed(capfd, path, "--version")


def test_the_log_level_of_the_rust_exporter(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--rust-log` and `RUST_LOG` are ignored, with one line that names `LOG_LEVEL`."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///missing")
    logged = []
    for arguments, variable in (([], "info"), (["--rust-log", "x"], ""), ([], "")):
        monkeypatch.setenv("RUST_LOG", variable)
        assert 1 == cli.main(["once", *arguments])
        logged.append(capfd.readouterr().err.count("LOG_LEVEL is used instead"))

    assert [1, 1, 0] == logged


def test_help_on_commands(capfd: pytest.CaptureFixture[str]) -> None:
    """The general help lists the commands; only the help of `demo` has the option `--seed`."""
    general, demo = printed(capfd, "--help"), printed(capfd, "demo", "--help")

    assert all(
        f"\n    {name}\n" in general
        for name in ("once", "check", "healthcheck", "demo", "expire")
    )
    assert "--seed" not in general
    assert "--seed N" in demo


BAD: list[tuple[Sequence[str], Mapping[str, str], Sequence[str]]] = [
    (["--listen-port", "70000"], {}, ["--listen-port", "70000", "0 to 65535"]),
    ([], {"LISTEN_PORT": "70000"}, ["LISTEN_PORT", "70000", "0 to 65535"]),
    ([], {"DOCKER_CONTEXT": "elsewhere"}, ["context", "elsewhere"]),
    ([], {"DOCKER_HOST": "tcp://x:1", "DOCKER_TLS_VERIFY": "1"}, ["certificate"]),
    ([], {"PUSH_URL": "http://user:hunter2\n@gateway"}, ["PUSH_URL", "'http://…@gateway'"]),
    (
        ["--container_health.filter_label", "x"],
        {},
        ["--container-health-filter-label", "true or false"],
    ),
    (["--nonsense"], {}, ["unknown arguments '--nonsense'"]),
    (["--nonsense\n\udcff"], {}, [r"unknown arguments '--nonsense\n\udcff'"]),
    (["--url=http://user:hunter2@gateway"], {}, ["unknown arguments '…@gateway'"]),
    (["--poll", "5"], {}, ["unknown arguments '--poll 5'"]),
    (["--web-tls-cert=x"], {}, ["unknown arguments '--web-tls-cert=x'"]),
    (["-x"], {}, ["unknown arguments '-x'"]),
    (["--version=1"], {}, ["unknown arguments '--version=1'"]),
    (["--log-level"], {}, ["--log-level: expected one argument"]),
    (["--log-level=--"], {}, ["--log-level '--' can't be used"]),
    (["--seed", "1"], {}, ["unknown arguments '--seed 1'"]),
    (
        [],
        {"PUSH_URL": "http://gateway"},
        ["--push-url (PUSH_URL)", "--push-instance (PUSH_INSTANCE)"],
    ),
    # Commands and their arguments; a command's own help has its arguments.
    (["serve"], {}, ["'serve'", "once", "check", "healthcheck", "demo"]),
    (["http://user:hunter2@gateway"], {}, ["'…@gateway'"]),
    (["check", "check"], {}, ["unknown arguments 'check'"]),
    (["once", "extra"], {}, ["; see docker-prom-exporter once --help"]),
    (["demo", "--seed", "x"], {}, ["--seed", "'x'", "; see docker-prom-exporter demo --help"]),
    (["registry"], {}, ["PATH", "; see docker-prom-exporter registry --help"]),
    (["registry", ""], {}, ["PATH"]),
    (["expire"], {}, ["docker-prom-exporter: expire needs --push-url (PUSH_URL)"]),
]


@pytest.mark.parametrize(("arguments", "environment", "words"), BAD, ids=str)
def test_bad_input_is_one_line(
    arguments: list[str],
    environment: dict[str, str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Bad input gives exit code 2 and one line that names it and what is accepted, but no password."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert 2 == cli.main(arguments)

    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert "" == captured.out
    assert all(word in line for word in words), line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen-port", "1", "demo", "--listen-addr", "::1"],
        ["demo", "--listen-port=1", "--listen-addr", "::1"],
        ["--listen-addr=::1", "--listen-port=1", "demo"],
    ],
    ids=" ".join,
)
def test_options_may_stand_before_and_after_a_command(arguments: list[str]) -> None:
    """Options may stand before and after a command, and those of the command alone have their defaults."""
    assert {
        "command": "demo",
        "listen_port": "1",
        "listen_addr": "::1",
        "seed": 0,
    } == cli._parse(arguments)


def test_exit_codes_on_a_signal(monkeypatch: pytest.MonkeyPatch, signals: Mock) -> None:
    """On a signal, serving commands end with exit code 0; `once` and `check` end with the signal's.

    Exit code 0 of `once` or `check` means that Docker is up.
    """
    monkeypatch.setattr(commands, "run", lambda *_, **__: 0)
    for command in ([], ["demo"], ["expire"], ["once"], ["check"]):
        cli.main(command)

    assert [
        call(0),
        call(0),
        call(0),
        call(None),
        call(None),
    ] == signals.return_value.end_at_once.mock_calls


def test_demo_polls_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """`demo` polls every two seconds by default, so that its events are visible."""
    intervals: list[float] = []
    monkeypatch.setattr(
        commands,
        "run",
        lambda _, settings, *__, **___: intervals.append(settings.poll_interval),
    )
    for arguments in (["demo"], ["demo", "--poll-interval=9"], []):
        cli.main(arguments)

    assert [2, 9, 15] == intervals


def test_the_health_check_of_expire_needs_no_instance(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`healthcheck` accepts PUSH_URL without PUSH_INSTANCE, as `expire` does."""
    monkeypatch.setenv("PUSH_URL", "http://gateway")

    assert 1 == cli.main(["healthcheck", "--listen-port=1"])
    assert "no answer from 127.0.0.1 port 1: Connection refused\n" == capfd.readouterr().out


def test_a_closed_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With standard error closed, a bad option still gives exit code 2."""
    monkeypatch.setattr(sys, "stderr", None)

    assert 2 == cli.main(["--nonsense"])


@pytest.mark.parametrize("command", ["once", "check", "healthcheck"])
def test_a_closed_standard_output_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With standard output closed, a command that prints gives one line and exit code 1."""
    monkeypatch.setattr(sys, "stdout", None)

    assert 1 == cli.main([command])
    assert (
        "docker-prom-exporter: can't write to standard output: it is closed\n"
        == capfd.readouterr().err
    )


def test_requests_is_too_old(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A version of requests that is too old, which docker-py accepts, gives one line and exit code 1."""
    monkeypatch.delattr(requests.adapters.HTTPAdapter, "get_connection_with_tls_context")
    monkeypatch.setattr(requests, "__version__", "2.31.0")

    assert 1 == cli.main(["once"])
    assert (
        "docker-prom-exporter: requests 2.31.0 is too old: install 2.32.2 or newer\n"
        == capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--web-bearer-token-file", "/missing"],
            "use --web-bearer-token-file /missing: No such file or directory",
        ),
        (
            ["--web-bearer-token-file", "/dev/null"],
            "use --web-bearer-token-file /dev/null: the file is empty",
        ),
        (
            ["--web-tls-cert-file", "/missing", "--web-tls-key-file", "/none"],
            "use --web-tls-cert-file /missing: No such file or directory",
        ),
        (
            ["once", "--textfile", "/missing\n/docker.prom"],
            r"write --textfile /missing\n/docker.prom: No such file or directory",
        ),
    ],
)
def test_an_unusable_file_is_named_with_its_option(
    arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line for a file that can't be used names the option that has it; its newlines are escaped."""
    assert 1 == cli.main(arguments)
    assert f"docker-prom-exporter: can't {complaint}\n" == capfd.readouterr().err


def test_an_address_on_a_missing_interface() -> None:
    """An address on an interface that does not exist can't be listened on, and the line says why."""
    settings = read_settings({"listen_addr": "fe80::1%nope"}, {})

    with pytest.raises(CommandError, match="listen-port 9000: Name"):
        commands._listener(settings)
