"""Owns the command line: arguments to `Settings` and a command, the help, and one line for what is wrong."""

from __future__ import annotations

import os
import re
import sys
from getopt import GetoptError, gnu_getopt
from typing import TYPE_CHECKING, Final

from docker_prom_exporter import __doc__ as summary
from docker_prom_exporter import __version__
from docker_prom_exporter.settings import OPTIONS, BadOptionError, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME: Final = "docker-prom-exporter"
_COMMANDS: Final = {
    "once": "poll once, print the metrics, push or write them; exit 0 if Docker was up, else 1",
    "check": "ask Docker each question once, say what to do; exit 0 if health is to be had, else 1",
    "healthcheck": "ask the running exporter whether it is healthy; exit 0 or 1",
    "demo": "serve the metrics of a simulated engine; needs no Docker; --seed N: another play",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 where it failed, 2 for an option that can't be used."""
    try:
        given, command = _parse(sys.argv[1:] if arguments is None else arguments)
        if "help" in given:
            sys.stdout.write(_help())
            return 0
        if "version" in given:
            sys.stdout.write(f"{_NAME} {__version__}\n")
            return 0
        seed = _seed(given.pop("seed", None), command)
        settings = read_settings(given, os.environ)
    except BadOptionError as error:
        sys.stderr.write(f"{_NAME}: {error}; see {_NAME} --help\n")
        return 2
    if command == "healthcheck":
        from docker_prom_exporter.healthcheck import healthcheck  # noqa: PLC0415  it's quick without the rest

        return healthcheck(settings)
    from docker_prom_exporter import commands  # noqa: PLC0415

    try:
        return commands.run(command, settings, seed)
    except commands.CommandError as error:
        sys.stderr.write(f"{_NAME}: {error}\n")
        return error.code


def _parse(arguments: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """Return the options given, by name, and the command. getopt: the start is quick, and argparse is not."""
    names = {option.flag: option.name for option in OPTIONS} | {"--seed": "seed"}
    others = {"--help": "help", "-h": "help", "--version": "version"}
    long = [*(f"{flag[2:]}=" for flag in names), "help", "version"]
    for flag in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        if flag not in {*names, *others, "--"}:  # getopt takes the beginning of a flag for all of it
            raise BadOptionError(f"option {flag} not recognized")
    try:
        pairs, commands = gnu_getopt(list(arguments), "h", long)
    except GetoptError as error:
        raise BadOptionError(error.msg) from None
    if len(commands) > 1 or {*commands} - {*_COMMANDS}:
        raise BadOptionError(f"{' '.join(commands)!r} is not one of the commands {', '.join(_COMMANDS)}")
    return {(names | others)[flag]: value for flag, value in pairs}, next(iter(commands), None)


def _seed(text: str | None, command: str | None) -> int:
    if text is None:
        return 0
    if command != "demo":
        raise BadOptionError("--seed is for demo only")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise BadOptionError(f"--seed {text!r} can't be used: it takes a whole number")
    return int(text)


def _help() -> str:
    import textwrap  # noqa: PLC0415  only here, and healthcheck is quick without it

    lines = [f"{summary}", "", f"Usage: {_NAME} [COMMAND] [OPTIONS]", "", "Commands:"]
    lines.append(f"  {'':<14}without one: serve metrics until SIGTERM or SIGINT")
    lines += [f"  {name:<14}{does}" for name, does in _COMMANDS.items()]
    group = ""
    for option in OPTIONS:
        if option.group != group:
            group = option.group
            lines += ["", f"{group + ' options':<35}{'Variable':<33}Default"]
        lines.append(f"  {option.flag:<33}{option.variable:<33}{option.default or '-'}")
        lines += textwrap.wrap(
            f"{option.help}; takes {option.takes}", 90, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    lines += ["", f"  {'--help':<33}show this", f"  {'--version':<33}show the version"]
    lines += ["", "A flag wins over its variable; an empty variable counts as unset."]
    return "\n".join(lines) + "\n"
