"""Owns what each command does: the wiring, the signals, the order of start and end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import structlog

from docker_prom_exporter import __version__, logs
from docker_prom_exporter.engine import BadTargetError, Engine, find_target
from docker_prom_exporter.exposition import Exposition, Publication
from docker_prom_exporter.metrics import ENGINE_INFO, UP, container_families, exporter_families
from docker_prom_exporter.outlets import OutletError, Outlets
from docker_prom_exporter.poller import Poller
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

    from prometheus_client.core import Metric

    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import Snapshot

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# A scrape must not find the exporter before it has found Docker, nor wait for a Docker that is stuck.
_SECONDS_TO_FIRST_POLL: Final = 0.5
_SECONDS_TO_LAST_POLL: Final = 0.4
_SECONDS_TO_STOP: Final = 0.9


class CommandError(Exception):
    """The command can't do what it is to do: one line for the user, and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def run(command: str | None, settings: Settings, seed: int) -> int:
    """Do what the command says, or serve without one; return the exit code. Raises `CommandError`."""
    logs.configure(settings.log_level, settings.log_format)
    if command == "demo":
        return _demo(settings, seed)
    engine = _engine(settings, os.environ)
    return {"once": _once, "check": _check}.get(command or "", _serve)(engine, settings)


def _engine(settings: Settings, environ: Mapping[str, str]) -> Engine:
    """Find the engine, which asks it nothing yet."""
    try:
        return Engine(find_target(settings.docker_host, environ), settings.docker_timeout)
    except BadTargetError as error:
        raise CommandError(str(error), 2) from error


def _demo(settings: Settings, seed: int) -> int:
    """Serve the simulated engine by the same exporter that serves a real one."""
    from docker_prom_exporter.demo import Play, SimulatedEngine  # noqa: PLC0415

    with (
        TemporaryDirectory() as folder,
        SimulatedEngine(Path(folder, "docker.sock"), Play(seed).containers) as simulated,
    ):
        log = structlog.get_logger()
        log.warning("demo.started", engine="simulated", seed=seed, docker_host=simulated.url)
        settings = settings._replace(docker_host=simulated.url)
        return _serve(_engine(settings, {}), settings)


def _check(engine: Engine, settings: Settings) -> int:
    from docker_prom_exporter.check import Report, check  # noqa: PLC0415

    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    with suppress(KeyboardInterrupt, BrokenPipeError):
        return check(engine, settings, Report(sys.stdout, coloured=coloured))
    return 1


def _once(engine: Engine, settings: Settings) -> int:
    """Poll, deliver and print; what was pushed or written stays."""
    outlets = _outlets(settings)
    poller = Poller(engine, settings, threading.Event())
    delivered = False
    with suppress(KeyboardInterrupt, BrokenPipeError):
        snapshot = poller.poll()
        delivered = outlets.deliver(snapshot)
        exposition = Exposition()
        exposition.publish(publication(snapshot))
        sys.stdout.buffer.write(b"".join(exposition.render().body))
        sys.stdout.flush()
    return 0 if poller.snapshot.up and delivered else 1


def _serve(engine: Engine, settings: Settings) -> int:
    """Poll and serve until a signal. All threads are daemons, so that nothing stuck holds up the end."""
    tls, token = _credentials(settings)
    outlets = _outlets(settings)
    listener = _listener(settings)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    stop = threading.Event()
    exposition = Exposition(outlets.families)

    def publish() -> None:
        exposition.publish(publication(poller.snapshot))
        outlets.wake()

    poller = Poller(engine, settings, stop, publish)
    exposition.publish(publication(poller.snapshot))
    site = Site(
        exposition,
        lambda: poller.snapshot.is_trusted(time.monotonic()),
        lambda: poller.snapshot.polled,
        _page(settings, lambda: poller.snapshot),
    )
    web = Web(listener, site, settings.client_ip_source, tls=tls, token=token)
    polling = threading.Thread(target=poller.run, name="poller", daemon=True)

    log = structlog.get_logger()
    log.info("exporter.started", version=__version__, metrics=_address(listener, "https" if tls else "http"))
    polling.start()
    poller.first_poll_ended.wait(_SECONDS_TO_FIRST_POLL)
    web.start()
    outlets.start(lambda: _trusted(poller.snapshot))
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
    try:
        return Outlets(settings)
    except OutletError as error:
        raise CommandError(str(error)) from error


def _listener(settings: Settings) -> socket.socket:
    try:
        return listen(settings.listen_addr, settings.listen_port)
    except OSError as error:
        address = f"--listen-addr {settings.listen_addr} --listen-port {settings.listen_port}"
        raise CommandError(f"can't listen on {address}: {error.strerror or error}") from error


def publication(snapshot: Snapshot) -> Publication:
    """Return what to serve of a snapshot."""
    trusted_until = snapshot.ended + snapshot.trusted_for
    return Publication(
        _engine_families(snapshot), _engine_families(snapshot.distrusted()), _own(snapshot), trusted_until
    )


def _engine_families(snapshot: Snapshot) -> list[Metric]:
    return [*(f for f in exporter_families(snapshot) if _is_of_engine(f)), *container_families(snapshot)]


def _own(snapshot: Snapshot) -> list[Metric]:
    return [family for family in exporter_families(snapshot) if not _is_of_engine(family)]


def _is_of_engine(family: Metric) -> bool:
    return family.name in (UP.name, ENGINE_INFO.name)


def _trusted(snapshot: Snapshot) -> Snapshot:
    return snapshot if snapshot.is_trusted(time.monotonic()) else snapshot.distrusted()


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


def _wait_for_signal() -> None:
    """Return at the first signal to stop; a second one ends the process at once.

    The signals are blocked and waited for, not handled: that works as PID 1, which the kernel spares signals
    it has no handler for, and leaves no handler that could interrupt a lock it needs.
    """
    signal.sigwait(_STOP_SIGNALS)
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda number, _: os._exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
