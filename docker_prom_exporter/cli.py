"""Owns the command: arguments to `Settings`, wiring, signals, exit codes."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from docker_prom_exporter import __doc__ as summary
from docker_prom_exporter import __version__
from docker_prom_exporter.settings import OPTIONS, BadOptionError, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from docker_prom_exporter.credentials import BearerToken, ServerTls
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings

_NAME: Final = "docker-prom-exporter"
_COMMANDS: Final = {
    "once": "poll once, print the metrics, push or write them; exit 0 if Docker was up, else 1",
    "check": "ask Docker each question once, say what to do; exit 0 if health is to be had, else 1",
    "healthcheck": "ask the running exporter whether it is healthy; exit 0 or 1",
    "demo": "serve the metrics of a simulated engine; needs no Docker; --seed N: another play",
}
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# A scrape must not find the exporter before it has found Docker, nor wait for a Docker that is stuck.
_SECONDS_TO_FIRST_POLL: Final = 0.5
_SECONDS_TO_LAST_POLL: Final = 0.4
_SECONDS_TO_STOP: Final = 0.9


class _Parser(argparse.ArgumentParser):
    """argparse, but for its help, which here is a table with the variables, and its errors, here one line."""

    def format_help(self) -> str:
        return _help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_NAME}: {message}; see {_NAME} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 where it failed, 2 for an option that can't be used."""
    parser = _Parser(prog=_NAME, allow_abbrev=False)
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
    from docker_prom_exporter import logs  # noqa: PLC0415

    logs.configure(settings.log_level, settings.log_format)
    if command == "demo":
        return _demo(settings, int(seed or 0))
    return _run(settings, {"once": _once, "check": _check}.get(command, _serve))


def _run(settings: Settings, do: Callable[[Engine, Settings], int]) -> int:
    """Find the engine, which asks it nothing yet, and do with it what the command says."""
    from docker_prom_exporter.engine import BadTargetError, Engine, find_target  # noqa: PLC0415

    try:
        target = find_target(settings.docker_host, os.environ)
    except BadTargetError as error:
        return _fail(2, str(error))
    return do(Engine(target, settings.docker_timeout), settings)


def _demo(settings: Settings, seed: int) -> int:
    """Serve the simulated engine by the same exporter that serves a real one."""
    from pathlib import Path  # noqa: PLC0415
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    from docker_prom_exporter.demo import Play, SimulatedEngine  # noqa: PLC0415

    with (
        TemporaryDirectory() as folder,
        SimulatedEngine(Path(folder, "docker.sock"), Play(seed).containers) as engine,
    ):
        structlog.get_logger().warning("demo.started", engine="simulated", seed=seed, docker_host=engine.url)
        return _run(settings._replace(docker_host=engine.url), _serve)


def _check(engine: Engine, settings: Settings) -> int:
    from docker_prom_exporter.check import Report, check  # noqa: PLC0415

    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    with suppress(KeyboardInterrupt, BrokenPipeError):
        return check(engine, settings, Report(sys.stdout, coloured=coloured))
    return 1


def _once(engine: Engine, settings: Settings) -> int:
    """Poll, deliver and print; what was pushed or written stays."""
    from docker_prom_exporter.metrics import Exposition  # noqa: PLC0415
    from docker_prom_exporter.poller import Poller  # noqa: PLC0415
    from docker_prom_exporter.push import OutletError, Outlets  # noqa: PLC0415

    try:
        outlets = Outlets(settings)
    except OutletError as error:
        return _fail(1, str(error))
    poller = Poller(engine, settings, threading.Event())
    delivered = False
    with suppress(KeyboardInterrupt, BrokenPipeError):
        snapshot = poller.poll()
        delivered = outlets.deliver(snapshot)
        sys.stdout.buffer.write(b"".join(Exposition(lambda: snapshot).render().body))
        sys.stdout.flush()
    return 0 if poller.snapshot.up and delivered else 1


def _serve(engine: Engine, settings: Settings) -> int:
    """Poll and serve until a signal. All threads are daemons, so that nothing stuck holds up the end."""
    import structlog  # noqa: PLC0415

    from docker_prom_exporter.credentials import CredentialsError  # noqa: PLC0415
    from docker_prom_exporter.metrics import Exposition  # noqa: PLC0415
    from docker_prom_exporter.poller import Poller  # noqa: PLC0415
    from docker_prom_exporter.push import OutletError, Outlets  # noqa: PLC0415
    from docker_prom_exporter.status_page import StatusPage  # noqa: PLC0415
    from docker_prom_exporter.web import Web, listen  # noqa: PLC0415

    try:
        tls, token = _credentials(settings)
        outlets = Outlets(settings)
        listener = listen(settings.listen_addr, settings.listen_port)
    except (CredentialsError, OutletError) as error:
        return _fail(1, str(error))
    except OSError as error:
        address = f"--listen-addr {settings.listen_addr} --listen-port {settings.listen_port}"
        return _fail(1, f"can't listen on {address}: {error.strerror or error}")
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    log = structlog.get_logger()
    stop = threading.Event()
    poller = Poller(engine, settings, stop, outlets.wake)
    exposition = Exposition(lambda: poller.snapshot, others=outlets.families)
    page = StatusPage(
        settings.poll_interval,
        only_labelled=settings.container_health_filter_label,
        details=settings.container_details,
        docs=_documentation(),
    )
    web = Web(listener, exposition, page, settings.client_ip_source, tls=tls, token=token)
    polling = threading.Thread(target=poller.run, name="poller", daemon=True)

    host, port, *_ = listener.getsockname()
    scheme = "https" if tls else "http"
    log.info("exporter.started", version=__version__, metrics=f"{scheme}://{_bracketed(host)}:{port}/metrics")
    polling.start()
    poller.first_poll_ended.wait(_SECONDS_TO_FIRST_POLL)
    web.start()
    outlets.start(exposition.snapshot)
    _wait_for_signal()
    ends = time.monotonic() + _SECONDS_TO_STOP
    outlets.stop()
    stop.set()
    engine.abort()
    polling.join(_SECONDS_TO_LAST_POLL)
    web.stop()
    outlets.join(ends)
    log.info("exporter.stopped")
    return 0


def _documentation() -> str:
    """Return the address the package names for its documentation; empty where it names none."""
    from importlib.metadata import PackageNotFoundError, metadata  # noqa: PLC0415

    with suppress(PackageNotFoundError):
        urls: list[str] = metadata(_NAME).get_all("Project-URL", [])
        return next((url.partition(", ")[2] for url in urls if url.startswith("Documentation,")), "")
    return ""


def _credentials(settings: Settings) -> tuple[ServerTls | None, BearerToken | None]:
    """Read the certificates and the token, where there are any to be used."""
    from docker_prom_exporter.credentials import BearerToken, ServerTls  # noqa: PLC0415

    cert, key, token = settings.web_tls_cert_file, settings.web_tls_key_file, settings.web_bearer_token_file
    return (
        ServerTls(cert, key, settings.web_client_ca_file) if cert and key else None,
        BearerToken(token) if token else None,
    )


def _wait_for_signal() -> None:
    """Return at the first signal to stop; a second one ends the process at once.

    The signals are blocked and waited for, not handled: that works as PID 1, which the kernel spares signals
    it has no handler for, and leaves no handler that could interrupt a lock it needs.
    """
    signal.sigwait(_STOP_SIGNALS)
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda number, _: os._exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"{_NAME}: {message}\n")
    return code


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
