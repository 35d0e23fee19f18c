"""What each command does: the wiring, the order of start and end."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import requests
import structlog

from docker_prom_exporter import __version__, logs
from docker_prom_exporter.engine import BadTargetError, Engine, find_target
from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import Publications
from docker_prom_exporter.outlets import Expirer, OutletError, Outlets
from docker_prom_exporter.output import standard_output
from docker_prom_exporter.poller import Poller
from docker_prom_exporter.signals import StopSignals
from docker_prom_exporter.web import (
    BearerToken,
    CredentialsError,
    ServerTls,
    Site,
    StatusPage,
    Web,
    listen,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import Snapshot

# A scrape must not find the exporter before it has found anything, nor wait for an engine that is stuck.
_FIRST_RESULT_TIMEOUT: Final = 0.5
_WORK_TIMEOUT: Final = 0.4
_OUTLETS_TIMEOUT: Final = 0.7
_LOG_TIMEOUT: Final = 0.25


class CommandError(Exception):
    """A command can't do its work: one line for the user, and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def run(command: str | None, settings: Settings, own: Mapping[str, Any]) -> int:
    """Run the command, or serve without one; return the exit code. Raises `CommandError`.

    `own` are the arguments that only this command takes.
    """
    writer = logs.configure(settings.log_level, settings.log_format)
    try:
        return _COMMANDS[command](settings, **own)
    finally:
        writer.close(_LOG_TIMEOUT)


def _engine(settings: Settings, environ: Mapping[str, str]) -> Engine:
    """Find the engine, which asks it nothing yet."""
    if not hasattr(requests.adapters.HTTPAdapter, "get_connection_with_tls_context"):
        raise CommandError(f"requests {requests.__version__} is too old: install 2.32.2 or newer")
    try:
        return Engine(find_target(settings.docker_host, environ), settings.docker_timeout)
    except BadTargetError as error:
        raise CommandError(str(error), 2) from error


def _check(settings: Settings) -> int:
    from docker_prom_exporter.check import Report, check  # noqa: PLC0415

    engine = _engine(settings, os.environ)
    with standard_output() as output:
        coloured = output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return check(engine, settings, Report(output, coloured=coloured))


def _once(settings: Settings) -> int:
    """Poll, deliver and print; what was pushed or written stays."""
    engine, outlets = _engine(settings, os.environ), _outlets(settings)
    with standard_output() as output:
        snapshot = Poller(engine, settings, threading.Event()).poll()
        exposition = Exposition()
        exposition.publish(Publications(settings.container_labels).of(snapshot))
        delivered = outlets.deliver(exposition)
        output.write(b"".join(exposition.render().body).decode())
    return 0 if snapshot.up and delivered else 1


def _demo(settings: Settings, seed: int) -> int:
    """Serve the simulated engine by the same exporter that serves a real one."""
    if sys.platform == "win32":
        raise CommandError("demo needs unix sockets, which Python does not have on Windows")
    from docker_prom_exporter.demo import Play, SimulatedEngine  # noqa: PLC0415

    signals = StopSignals()
    with (
        TemporaryDirectory() as folder,
        SimulatedEngine(Path(folder, "docker.sock"), Play(seed).containers) as simulated,
    ):
        log = structlog.get_logger()
        log.warning("demo.started", engine="simulated", seed=seed, docker_host=simulated.url)
        return _serve_engine(signals, settings._replace(docker_host=simulated.url), {})


def _serve(settings: Settings) -> int:
    return _serve_engine(StopSignals(), settings, os.environ)


def _serve_engine(signals: StopSignals, settings: Settings, environ: Mapping[str, str]) -> int:
    """Poll an engine and serve what is found."""
    engine, stop, publications = (
        _engine(settings, environ),
        threading.Event(),
        Publications(settings.container_labels),
    )

    def publish(snapshot: Snapshot) -> None:
        serving.exposition.publish(publications.of(snapshot))
        serving.outlets.wake()

    poller = Poller(engine, settings, stop, publish)
    serving = _Serving(settings, signals)
    publish(poller.snapshot)
    polling = threading.Thread(target=poller.run, name="poller", daemon=True)

    def end() -> None:
        stop.set()
        engine.abort()
        polling.join(_WORK_TIMEOUT)

    page = _page(settings, lambda: poller.snapshot)
    site = Site(serving.exposition, serving.exposition.is_trusted, poller.first_poll_ended.is_set, page)
    return serving.until_signal(site, polling.start, poller.first_poll_ended, end)


def _registry(settings: Settings, path: str) -> int:
    """Scan a registry's storage and serve what it holds."""
    if sys.platform == "win32":
        raise CommandError("registry needs a POSIX file system, to read files that may be replaced by links")
    from docker_prom_exporter.registry import Scanner  # noqa: PLC0415

    stop, serving = threading.Event(), _Serving(settings, StopSignals())
    scanner = Scanner(path, settings.scan_interval, serving.exposition, stop, serving.outlets.wake)

    def end() -> None:
        stop.set()
        scanner.join(_WORK_TIMEOUT)

    site = Site(serving.exposition, scanner.is_healthy, scanner.is_ready)
    return serving.until_signal(site, scanner.start, scanner.first_scan_ended, end)


def _expire(settings: Settings) -> int:
    """Give the groups of a Pushgateway a time to live, and serve what came of it; push nothing."""
    if settings.push_url is None:
        raise CommandError("expire needs --push-url (PUSH_URL)", 2)
    stop, serving = threading.Event(), _Serving(settings._replace(push_url=None), StopSignals())
    try:
        expirer = Expirer(settings, serving.exposition, stop, serving.outlets.wake)
    except OutletError as error:
        raise CommandError(str(error)) from error

    def end() -> None:
        stop.set()
        expirer.join(_WORK_TIMEOUT)

    site = Site(serving.exposition, serving.exposition.is_trusted, expirer.first_look_ended.is_set)
    return serving.until_signal(site, expirer.start, expirer.first_look_ended, end)


class _Serving:
    """What every serving command has: a listener, credentials, outlets, and one order of start and end.

    All threads are daemons, so that nothing that hangs holds up the end. Raises `CommandError`.
    """

    def __init__(self, settings: Settings, signals: StopSignals) -> None:
        self._settings = settings
        self._signals = signals
        self._tls, self._token = _credentials(settings)
        self.outlets = _outlets(settings)
        self._listener = _listener(settings)
        self.exposition = Exposition(self.outlets.families)

    def until_signal(
        self, site: Site, start: Callable[[], object], found: threading.Event, end: Callable[[], object]
    ) -> int:
        """Start the work, serve once it has `found` something or a moment is over, and end it at a signal."""
        source = self._settings.client_ip_source
        web = Web(self._listener, site, source, tls=self._tls, token=self._token)
        log = structlog.get_logger()
        address = _address(self._listener, "https" if self._tls else "http")
        log.info("exporter.started", version=__version__, metrics=address)
        start()
        found.wait(_FIRST_RESULT_TIMEOUT)
        web.start()
        self.outlets.start(self.exposition)
        self._signals.wait()
        began = time.monotonic()
        self.outlets.stop()
        end()
        web.stop()
        self.outlets.join(began + _OUTLETS_TIMEOUT)
        log.info("exporter.stopped")
        return 0


_COMMANDS: Final[dict[str | None, Callable[..., int]]] = {
    None: _serve,
    "once": _once,
    "check": _check,
    "demo": _demo,
    "registry": _registry,
    "expire": _expire,
}


def _credentials(settings: Settings) -> tuple[ServerTls | None, BearerToken | None]:
    """Read the certificates and the token, where there are any to be used."""
    cert, key, token = settings.web_tls_cert_file, settings.web_tls_key_file, settings.web_bearer_token_file
    try:
        return (
            ServerTls(cert, key, settings.web_client_ca_file) if cert and key else None,
            BearerToken(token) if token else None,
        )
    except CredentialsError as error:
        raise CommandError(str(error)) from error


def _outlets(settings: Settings) -> Outlets:
    if settings.push_url is not None and settings.push_instance is None:
        raise CommandError("--push-url (PUSH_URL) needs --push-instance (PUSH_INSTANCE), too", 2)
    try:
        return Outlets(settings)
    except OutletError as error:
        raise CommandError(str(error)) from error


def _listener(settings: Settings) -> socket.socket:
    try:
        return listen(settings.listen_addr, settings.listen_port)
    except OSError as error:
        address = f"--listen-addr {settings.listen_addr} --listen-port {settings.listen_port}"
        advice = ""
        if error.errno == errno.EADDRINUSE:
            advice = "; Portainer, MinIO, php-fpm and ClickHouse often have 9000: set another --listen-port"
        raise CommandError(f"can't listen on {address}: {error.strerror or error}{advice}") from error


def _page(settings: Settings, take: Callable[[], Snapshot]) -> StatusPage:
    return StatusPage(
        take,
        settings.poll_interval,
        only_labelled=settings.container_health_filter_label,
        details=settings.container_details,
        docs=_documentation(),
    )


def _documentation() -> str:
    """Return the address the package names for its documentation; empty where it names none."""
    from importlib.metadata import PackageNotFoundError, metadata  # noqa: PLC0415

    with suppress(PackageNotFoundError):
        urls: list[str] = metadata("docker-prom-exporter").get_all("Project-URL", [])
        return next((url.partition(", ")[2] for url in urls if url.startswith("Documentation,")), "")
    return ""


def _address(listener: socket.socket, scheme: str) -> str:
    host, port, *_ = listener.getsockname()
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/metrics"
