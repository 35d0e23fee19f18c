"""Owns the command line: arguments to `Settings` and a command, the help, and one line for what is wrong."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Final, NoReturn

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


class _Parser(argparse.ArgumentParser):
    """argparse, but for its help, which here is a table with the variables, and its errors, here one line."""

    def format_help(self) -> str:
        return _help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_NAME}: {message}; see {_NAME} --help\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Format nothing, as the help is made here; with a width, argparse needs no shutil to find out one."""
    return argparse.HelpFormatter(prog, width=100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 where it failed, 2 for an option that can't be used."""
    parser = _Parser(prog=_NAME, allow_abbrev=False, formatter_class=_formatter)
    parser.add_argument("command", nargs="?", choices=list(_COMMANDS))
    parser.add_argument("--version", action="version", version=f"{_NAME} {__version__}")
    for option in OPTIONS:
        parser.add_argument(option.flag, dest=option.name)
    parser.add_argument("--seed")
    parsed = vars(parser.parse_args(arguments))
    command, seed = parsed.pop("command"), parsed.pop("seed")
    if seed is not None and command != "demo":
        parser.error("--seed is for demo only")
    if seed is not None and not re.fullmatch(r"[0-9]{1,18}", seed):
        parser.error(f"--seed {seed!r} can't be used: it takes a whole number")
    try:
        settings = read_settings(parsed, os.environ)
    except BadOptionError as error:
        parser.error(str(error))
    if command == "healthcheck":
        from docker_prom_exporter.healthcheck import healthcheck  # noqa: PLC0415  it's quick without the rest

        return healthcheck(settings)
    from docker_prom_exporter import commands  # noqa: PLC0415

    try:
        return commands.run(command, settings, int(seed or 0))
    except commands.CommandError as error:
        parser.exit(error.code, f"{_NAME}: {error}\n")


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
