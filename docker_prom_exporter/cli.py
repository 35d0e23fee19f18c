"""Parse the command line, read the `Settings` and run the command.

Print an error as one line.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import SUPPRESS, ArgumentParser, HelpFormatter
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from docker_prom_exporter import __doc__ as summary
from docker_prom_exporter import __version__
from docker_prom_exporter.output import CommandError, printable, standard_output
from docker_prom_exporter.settings import OPTIONS, BadOptionError, read_settings
from docker_prom_exporter.signals import StopSignals
from docker_prom_exporter.texts import redacted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from docker_prom_exporter.settings import Settings

_NAME: Final = "docker-prom-exporter"
_HEALTHCHECK_OPTIONS: Final = (
    "listen_addr",
    "listen_port",
    "web_tls_cert_file",
    "web_tls_key_file",
    "web_client_ca_file",
    "web_bearer_token_file",
)


class _Command(NamedTuple):
    help: str
    uses: tuple[str, ...]  # names of options, and of groups of options
    without: tuple[str, ...] = ()  # options of these groups that it does not use
    serves: bool = False  # whether a signal is the normal end
    defaults: Mapping[str, str] = MappingProxyType({})  # instead of those of the options
    argument: str = ""

    @property
    def options(self) -> set[str]:
        """The names of the options that it uses."""
        names = set()
        for option in OPTIONS:
            if option.name in self.uses or option.group in self.uses:
                names.add(option.name)
        return names.difference(self.without)


_COMMANDS: Final[dict[str | None, _Command]] = {
    None: _Command("", ("Docker", "Containers", "Web", "Log", "Push"), serves=True),
    "once": _Command(
        "poll once, print the metrics, push or write them; exit 0 if Docker was up, else 1",
        ("Docker", "Containers", "Log", "Push"),
    ),
    "check": _Command(
        "request each endpoint once, say what to do; exit 0 if health can be reported, else 1",
        ("Docker", "Containers", "Log"),
        without=("poll_interval",),
    ),
    "healthcheck": _Command(
        "ask the running exporter whether it is healthy; exit 0 or 1", _HEALTHCHECK_OPTIONS
    ),
    "demo": _Command(
        "serve the metrics of a simulated engine; needs no Docker",
        ("Docker", "Containers", "Web", "Log", "Push"),
        without=("docker_host",),
        serves=True,
        defaults={"poll_interval": "2"},
    ),
    "registry": _Command(
        "serve the metrics of a Docker registry's file storage; needs no Docker",
        ("Registry", "Web", "Log", "Push"),
        serves=True,
        defaults={"push_job": "docker_prom_exporter_registry"},
        argument="PATH ",
    ),
    "expire": _Command(
        "delete groups from a Pushgateway that are no longer pushed; needs no Docker",
        ("poll_interval", "Expire", "Web", "Log", "Push"),
        without=("push_instance", "push_interval"),
        serves=True,
    ),
}

# The command of the Rust exporter's image, which a Compose file may repeat.
_RUST_EXPORTER: Final = "docker-prometheus-exporter"
_OTHER_FLAGS: Final = ("-h", "--help", "-V", "--version")
_SERVES: Final = "Without a command it serves metrics until SIGTERM, SIGINT or SIGHUP. "
_EPILOG: Final = (
    "The word after each flag is its environment variable. A flag wins over its variable; "
    "an empty variable counts as unset."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 if it failed, 2 for an invalid option."""
    signals = StopSignals()
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        return _parse_and_run(arguments, signals)
    except CommandError as error:
        return _fail(str(error), error.code)


def _parse_and_run(arguments: Sequence[str], signals: StopSignals) -> int:
    name = None
    try:
        given = _parse(arguments)
        name = given.pop("command")
        flags = {}
        for option in OPTIONS:
            value = given.pop(option.name, None)
            # argparse before Python 3.13 drops the value of `--flag=--`.
            flags[option.name] = "--" if value == [] else value
        _refuse_unused(name, flags)
        command = _COMMANDS[name]
        settings = read_settings(flags, os.environ, command.defaults, command.options)
    except BadOptionError as error:
        # The parser may fail before it returns the command.
        name = name or next((word for word in arguments if word in _COMMANDS), None)
        command_line = " ".join(filter(None, (_NAME, name)))
        return _fail(f"{error}; see {command_line} --help", 2)
    # Until the command takes over the signals, which only those that serve do.
    code = None
    if command.serves:
        code = 0
    signals.end_at_once(code)
    return _run(name, settings, given)


def _refuse_unused(name: str | None, flags: Mapping[str, str | None]) -> None:
    """Raise `BadOptionError` for a flag that the command would ignore."""
    used = _COMMANDS[name].options
    for option in OPTIONS:
        if flags[option.name] is None or option.name in used:
            continue
        if name:
            raise BadOptionError(f"{name} has no option {option.flag}")
        commands = []
        for other, command in _COMMANDS.items():
            if other and option.name in command.options:
                commands.append(other)
        raise BadOptionError(f"{option.flag} is an option of {' and '.join(commands)} only")


def _run(name: str | None, settings: Settings, arguments: dict[str, Any]) -> int:
    rust_log = arguments.pop("rust_log", None) or os.environ.get("RUST_LOG")
    if name == "healthcheck":
        from docker_prom_exporter.healthcheck import healthcheck  # noqa: PLC0415

        with standard_output():
            return healthcheck(
                settings.listen_addr,
                settings.listen_port,
                encrypted=bool(settings.web_tls_cert_file),
            )
    # `healthcheck` starts faster without this.
    from docker_prom_exporter import commands  # noqa: PLC0415

    return commands.run(name, settings, arguments, rust_log=bool(rust_log))


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise `BadOptionError` instead of printing the usage.

        Redact a password in a quoted value.
        """
        raise BadOptionError(re.sub(r"(?s)(['\"]).*@", r"\1…@", message))

    def _print_message(self, message: str, file: object = None) -> None:  # noqa: ARG002  inherited
        """Write the help or the version; argparse would ignore errors."""
        with standard_output() as output:
            output.write(message)


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the command (`None`: serve), the given options by name, and its own arguments."""
    if arguments and arguments[0].rpartition("/")[2] == _RUST_EXPORTER:
        arguments = arguments[1:]
    options = _Parser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    _add_options(options)
    given, rest = options.parse_known_args(arguments)
    # Building the full parser takes longer than the rest of a healthcheck.
    if rest == ["healthcheck"]:
        return {"command": "healthcheck", **vars(given)}
    # The full parser would take an unknown flag's value for a command.
    if rest and rest[0].startswith("-") and rest[0] not in _OTHER_FLAGS:
        raise _unknown(rest)
    given, rest = _parser().parse_known_args(arguments)
    if rest:
        raise _unknown(rest)
    return vars(given)


def _unknown(arguments: Sequence[str]) -> BadOptionError:
    return BadOptionError(f"unknown arguments {redacted(' '.join(arguments))!r}")


def _parser() -> ArgumentParser:
    """Build the full parser; options may stand before or after the command."""
    shared: dict[str, Any] = {
        "allow_abbrev": False,
        "argument_default": SUPPRESS,
        "formatter_class": partial(HelpFormatter, max_help_position=6, width=100),
    }
    parser = _Parser(
        prog=_NAME,
        usage="%(prog)s [COMMAND] [OPTIONS]",
        description=summary,
        epilog=_SERVES + _EPILOG,
        **shared,
    )
    parser.add_argument("-V", "--version", action="version", version=f"{_NAME} {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    parsers: dict[str | None, ArgumentParser] = {None: parser}
    for name, command in _COMMANDS.items():
        if name:
            parsers[name] = subparsers.add_parser(
                name,
                help=command.help,
                description=command.help,
                usage=f"{_NAME} {name} {command.argument}[OPTIONS]",
                epilog=_EPILOG,
                **shared,
            )
    for name, each in parsers.items():
        _add_options(each, _COMMANDS[name].options)
    parsers["demo"].add_argument(
        "--seed", type=int, default=0, metavar="N", help="another play"
    )
    parsers["registry"].add_argument(
        "path",
        metavar="PATH",
        help="the storage: the folder docker/registry/v2 of the registry's files",
    )
    return parser


def _add_options(parser: ArgumentParser, shown: Collection[str] = ()) -> None:
    """Add every option, so that one of another command is recognized.

    Show only some in the help.
    """
    # Adding to a group is three times as fast as adding to the parser.
    hidden = parser.add_argument_group()
    groups: dict[str, Any] = {}
    for option in OPTIONS:
        if option.name not in shown:
            hidden.add_argument(option.flag, help=SUPPRESS)
            continue
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(f"{option.group} options")
        text = f"{option.help}; takes {option.values.words}"
        if option.default:
            text += f" (default: {option.default})"
        groups[option.group].add_argument(option.flag, help=text.replace("%", "%%"))
    # Flags of the Rust exporter.
    hidden.add_argument(
        "--container_health.filter_label", dest="container_health_filter_label", help=SUPPRESS
    )
    hidden.add_argument("--rust-log", help=SUPPRESS)


def _fail(message: str, code: int) -> int:
    """Write a line to standard error, unless it is empty or that is closed.

    Return the exit code.
    """
    if not message:
        return code
    with suppress(OSError, AttributeError):
        os.write(sys.stderr.fileno(), f"{_NAME}: {printable(message)}\n".encode())
    return code
