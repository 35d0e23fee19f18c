"""Parse the command line, read the `Settings` and run the command; print an error as one line."""

from __future__ import annotations

import os
import re
import sys
from argparse import SUPPRESS, ArgumentParser, HelpFormatter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from docker_prom_exporter import __doc__ as summary
from docker_prom_exporter import __version__
from docker_prom_exporter.output import CommandError, printable, standard_output
from docker_prom_exporter.settings import OPTIONS, BadOptionError, read_settings, redacted
from docker_prom_exporter.signals import StopSignals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from docker_prom_exporter.settings import Settings

_NAME: Final = "docker-prom-exporter"
_COMMANDS: Final = {
    "once": "poll once, print the metrics, push or write them; exit 0 if Docker was up, else 1",
    "check": "ask Docker each question once, say what to do; exit 0 if health can be reported, else 1",
    "healthcheck": "ask the running exporter whether it is healthy; exit 0 or 1",
    "demo": "serve the metrics of a simulated engine; needs no Docker",
    "registry": "serve the metrics of a Docker registry's file storage; needs no Docker",
    "expire": "delete groups from a Pushgateway that are no longer pushed; needs no Docker",
}
_ARGUMENTS: Final = {"registry": "PATH "}
_OTHER_FLAGS: Final = ("-h", "--help", "--version")
_SERVING: Final = (None, "demo", "registry", "expire")
_DEFAULTS: Final = {
    "demo": {"poll_interval": "2"},
    "registry": {"push_job": "docker_prom_exporter_registry"},
}
_EPILOG: Final = (
    "Without a command it serves metrics until SIGTERM, SIGINT or SIGHUP. The word after each flag is its "
    "environment variable. A flag wins over its variable; an empty variable counts as unset."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 if it failed, 2 for an invalid option."""
    signals = StopSignals()
    try:
        given = _parse(sys.argv[1:] if arguments is None else arguments)
        command = given.pop("command")
        flags = {option.name: given.pop(option.name, None) for option in OPTIONS}
        settings = read_settings(flags, os.environ, _DEFAULTS.get(command, {}))
    except BadOptionError as error:
        return _fail(f"{error}; see {_NAME} --help", 2)
    signals.end_at_once(0 if command in _SERVING else None)
    try:
        return _run(command, settings, given)
    except CommandError as error:
        return _fail(str(error), error.code)


def _run(command: str | None, settings: Settings, own: Mapping[str, Any]) -> int:
    if command == "healthcheck":
        from docker_prom_exporter.healthcheck import healthcheck  # noqa: PLC0415

        with standard_output():
            return healthcheck(settings)
    from docker_prom_exporter import commands  # noqa: PLC0415  healthcheck starts faster without this

    return commands.run(command, settings, own)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise `BadOptionError` instead of printing the usage; redact a password in a quoted value."""
        raise BadOptionError(re.sub(r"(?s)(['\"]).*@", r"\1…@", message))


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the command (`None`: serve), the given options by name, and the command's own arguments."""
    options = _Parser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    _add_options(options)
    given, rest = options.parse_known_args(arguments)
    if rest == ["healthcheck"]:  # building the full parser takes longer than the rest
        return {"command": "healthcheck", **vars(given)}
    if rest and rest[0].startswith("-") and rest[0] not in _OTHER_FLAGS:
        raise _unknown(rest)  # the full parser would take the flag's value for a command
    given, rest = _parser(options).parse_known_args(arguments)
    if rest:
        raise _unknown(rest)
    return vars(given)


def _unknown(arguments: Sequence[str]) -> BadOptionError:
    return BadOptionError(f"unknown arguments {redacted(' '.join(arguments))!r}")


def _parser(options: ArgumentParser) -> ArgumentParser:
    """Build the full parser; options may stand before or after the command."""
    shared: dict[str, Any] = {
        "allow_abbrev": False,
        "argument_default": SUPPRESS,
        "formatter_class": partial(HelpFormatter, max_help_position=6, width=100),
        "epilog": _EPILOG,
    }
    parser = _Parser(
        prog=_NAME, usage="%(prog)s [COMMAND] [OPTIONS]", description=summary, **shared
    )
    parser.add_argument("--version", action="version", version=f"{_NAME} {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    _add_options(parser)
    shared["parents"] = [options]
    commands = {
        name: subparsers.add_parser(
            name,
            help=description,
            description=description,
            usage=f"{_NAME} {name} {_ARGUMENTS.get(name, '')}[OPTIONS]",
            **shared,
        )
        for name, description in _COMMANDS.items()
    }
    commands["demo"].add_argument(
        "--seed", type=int, default=0, metavar="N", help="another play"
    )
    commands["registry"].add_argument(
        "path",
        metavar="PATH",
        help="the storage: the folder docker/registry/v2 of the registry's files",
    )
    return parser


def _add_options(parser: ArgumentParser) -> None:
    groups = {
        option.group: parser.add_argument_group(f"{option.group} options")
        for option in OPTIONS
    }
    for option in OPTIONS:
        default = f" (default: {option.default})" if option.default else ""
        text = f"{option.help}; takes {option.values.words}{default}"
        groups[option.group].add_argument(option.flag, help=text.replace("%", "%%"))
    # The Rust exporter's name for this flag.
    groups["Containers"].add_argument(
        "--container_health.filter_label", dest="container_health_filter_label", help=SUPPRESS
    )


def _fail(message: str, code: int) -> int:
    """Write a line to standard error, unless it is closed, and return the exit code."""
    with suppress(OSError, AttributeError):
        os.write(sys.stderr.fileno(), f"{_NAME}: {printable(message)}\n".encode())
    return code
