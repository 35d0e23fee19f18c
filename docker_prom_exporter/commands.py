"""The commands: each connects the parts it needs, and starts and stops them in order."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import requests
import structlog

from docker_prom_exporter import __version__, logs, web
from docker_prom_exporter.engine import BadTargetError, Engine, Target, find_target
from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.metrics import SnapshotMetrics
from docker_prom_exporter.notify import Notifier
from docker_prom_exporter.outlets import Expirer, Outlet, OutletError, open_outlets
from docker_prom_exporter.output import CommandError, may_colour, standard_output
from docker_prom_exporter.poller import Poller
from docker_prom_exporter.settings import OPTIONS
from docker_prom_exporter.signals import StopSignals

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from prometheus_client.core import Metric

    from docker_prom_exporter.exposition import Publication
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import Snapshot

# In seconds. The server starts after the first result, so that no scrape is empty, or then.
_FIRST_RESULT_TIMEOUT: Final = 0.5
# Limits of the steps of the end, which together are below the second that users wait for.
_WORK_TIMEOUT: Final = 0.4
_OUTLETS_TIMEOUT: Final = 0.7
_LOG_TIMEOUT: Final = 0.25


def run(
    command: str | None,
    settings: Settings,
    arguments: Mapping[str, Any],
    *,
    rust_log: bool = False,
) -> int:
    """Run the command (`None`: serve) and return its exit code. Raises `CommandError`.

    `arguments` are those that only this command takes. `rust_log`: the Rust exporter's
    log level is set.
    """
    writer = logs.configure(settings.log_level, settings.log_format)
    try:
        if rust_log:
            structlog.get_logger().info(
                "option.ignored", option="RUST_LOG", advice="LOG_LEVEL is used instead"
            )
        return _COMMANDS[command](settings, **arguments)
    except BadTargetError as error:
        raise CommandError(str(error), 2) from error
    except web.CredentialsError as error:
        raise CommandError(f"can't use {_web_option(settings, error.path)} {error}") from error
    except OutletError as error:
        raise CommandError(error.detail) from error
    finally:
        writer.close(_LOG_TIMEOUT)


def _engine(settings: Settings, environ: Mapping[str, str]) -> Engine:
    """Return the engine; no request is sent to it yet."""
    if not hasattr(requests.adapters.HTTPAdapter, "get_connection_with_tls_context"):
        raise CommandError(
            f"requests {requests.__version__} is too old: install 2.32.2 or newer"
        )
    target = find_target(settings.docker_host, environ)
    _warn_about(target)
    return Engine(target, settings.docker_timeout)


def _warn_about(target: Target) -> None:
    """Warn once of what the Docker CLI warns of, or lets pass."""
    log = structlog.get_logger()
    if target.ignored:
        log.warning("docker.config_ignored", cause=target.ignored)
    if target.unverified:
        log.warning(
            "docker.certificate_not_verified",
            engine=target.url,
            origin=target.origin,
            advice="whoever holds this address can pose as the engine: set "
            "DOCKER_TLS_VERIFY=1, or create the context without skip-tls-verify",
        )


def _check(settings: Settings) -> int:
    from docker_prom_exporter.check import Report, check  # noqa: PLC0415

    engine = _engine(settings, os.environ)
    with standard_output() as output:
        coloured = output.isatty() and may_colour()
        return check(engine, settings, Report(output, coloured=coloured))


def _once(settings: Settings) -> int:
    """Poll once; push, write and print the metrics."""
    never = threading.Event()
    engine, outlets = _engine(settings, os.environ), _outlets(settings, never)
    with standard_output() as output:
        snapshot = Poller(engine, settings, never).poll()
        exposition = Exposition()
        exposition.publish(SnapshotMetrics(settings.container_labels).families_of(snapshot))
        # They are not withdrawn: what is pushed and written stays for Prometheus.
        delivered = [outlet.deliver(exposition) for outlet in outlets]
        # Not as text: the locale's encoding may differ from the exposition's.
        output.buffer.write(b"".join(exposition.render().body))
    if snapshot.up and all(delivered):
        return 0
    return 1


def _demo(settings: Settings, seed: int) -> int:
    """Serve the metrics of a simulated engine, with the same code as those of a real one."""
    from docker_prom_exporter.demo import Play, SimulatedEngine  # noqa: PLC0415

    signals = StopSignals()
    with SimulatedEngine(None, Play(seed).containers) as simulated:
        log = structlog.get_logger()
        log.warning("demo.started", engine="simulated", seed=seed, docker_host=simulated.url)
        return _serve(settings._replace(docker_host=simulated.url), {}, signals)


def _serve(
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    signals: StopSignals | None = None,
) -> int:
    """Poll an engine and serve its metrics."""
    engine = _engine(settings, environ)
    metrics = SnapshotMetrics(settings.container_labels)
    serving = _Serving(settings, signals or StopSignals())

    def publish(snapshot: Snapshot) -> None:
        serving.publish(metrics.families_of(snapshot))

    poller = Poller(engine, settings, serving.stop, publish)
    publish(poller.snapshot)
    page = web.StatusPage(
        lambda: poller.snapshot,
        settings.poll_interval,
        only_labelled=settings.container_health_filter_label,
        details=settings.container_details,
    )
    polling = threading.Thread(target=poller.run, name="poller", daemon=True)
    healthy = serving.exposition.is_trusted
    return serving.until_signal(
        polling, healthy, poller.first_poll_ended, page, abort=engine.abort
    )


def _registry(settings: Settings, path: str) -> int:
    """Scan a registry's storage and serve its metrics."""
    if sys.platform == "win32":
        raise CommandError(
            "registry needs a POSIX file system, to read files that may be replaced by links"
        )
    if not path:
        raise CommandError("registry needs a PATH that is not empty: docker/registry/v2", 2)
    from docker_prom_exporter.registry import Scanner  # noqa: PLC0415

    serving = _Serving(settings, StopSignals())
    scanner = Scanner(path, settings.scan_interval, serving.publish, serving.stop)
    # Healthy as long as the thread lives: a scan may take long, and a storage may hang.
    scanning = threading.Thread(target=scanner.run, name="scanner", daemon=True)
    return serving.until_signal(scanning, scanning.is_alive, scanner.first_scan_ended)


def _expire(settings: Settings) -> int:
    """Delete the expired groups of a Pushgateway and serve metrics of the deletions.

    Push nothing.
    """
    if settings.push_url is None:
        raise CommandError("expire needs --push-url (PUSH_URL)", 2)
    serving = _Serving(settings._replace(push_url=None), StopSignals())
    expirer = Expirer(settings, serving.publish, serving.stop)
    expiring = threading.Thread(target=expirer.run, name="expirer", daemon=True)
    return serving.until_signal(expiring, serving.exposition.is_trusted, expirer.first_result)


class _Serving:
    """Listener, credentials and outlets of a serving command, started and stopped in order.

    All threads are daemons, so that a thread that hangs does not delay the exit. Raises
    `CommandError`.
    """

    exposition: Exposition
    stop: threading.Event
    """Is set when the command has to end."""

    _tls: web.ServerTls | None
    _token: web.BearerToken | None

    def __init__(self, settings: Settings, signals: StopSignals) -> None:
        self._settings = settings
        self._signals = signals
        self.stop = threading.Event()
        # Everything that can be wrong with the options is opened before anything starts.
        self._tls = self._token = None
        cert, key = settings.web_tls_cert_file, settings.web_tls_key_file
        if cert and key:
            self._tls = web.ServerTls(cert, key, settings.web_client_ca_file)
        if settings.web_bearer_token_file:
            self._token = web.BearerToken(settings.web_bearer_token_file)
        self._outlets = _outlets(settings, self.stop)
        self._listener = _listener(settings)
        self.exposition = Exposition(self._outlet_families)

    def publish(self, publication: Publication) -> None:
        """Replace the served publication and wake the outlets."""
        self.exposition.publish(publication)
        self._wake_outlets()

    def until_signal(
        self,
        worker: threading.Thread,
        is_healthy: Callable[[], bool],
        first_result: threading.Event,
        page: web.StatusPage | None = None,
        abort: Callable[[], object] = lambda: None,
    ) -> int:
        """Start the worker, then the server, and stop all at a signal.

        The server starts at the first result, or 0.5 s after the worker. The worker ends
        when `stop` is set; `abort` interrupts the requests that it waits for.
        """
        site = web.Site(self.exposition, is_healthy, first_result.is_set, page)
        app = web.App(site, self._settings.client_ip_source, self._token)
        server = web.BoundedServer(self._listener, app, self._tls)
        log = structlog.get_logger()
        log.info("exporter.started", version=__version__, metrics=self._address())
        worker.start()
        first_result.wait(_FIRST_RESULT_TIMEOUT)
        server.start()
        for outlet in self._outlets:
            outlet.start(self.exposition)
        self._wait(is_healthy, first_result)
        # Everything is told to end before anything is waited for.
        began = time.monotonic()
        self.stop.set()
        self._wake_outlets()
        abort()
        worker.join(_WORK_TIMEOUT)
        server.stop()
        for outlet in self._outlets:
            outlet.join(began + _OUTLETS_TIMEOUT)
        log.info("exporter.stopped")
        return 0

    def _wait(self, is_healthy: Callable[[], bool], first_result: threading.Event) -> None:
        """Wait for a signal; meanwhile tell systemd, if it asks, how the worker is."""
        notifier = Notifier(os.environ)
        stopped = False
        while not stopped:
            pause = notifier.report(ready=first_result.is_set(), healthy=is_healthy())
            stopped = self._signals.wait(pause)
        notifier.stopping()

    def _outlet_families(self) -> list[Metric]:
        families = []
        for outlet in self._outlets:
            families += outlet.families()
        return families

    def _wake_outlets(self) -> None:
        for outlet in self._outlets:
            outlet.wake()

    def _address(self) -> str:
        host, port, *_ = self._listener.getsockname()
        scheme = "http"
        if self._tls:
            scheme = "https"
        if ":" in host:
            host = f"[{host}]"
        return f"{scheme}://{host}:{port}/metrics"


_COMMANDS: Final[dict[str | None, Callable[..., int]]] = {
    None: _serve,
    "once": _once,
    "check": _check,
    "demo": _demo,
    "registry": _registry,
    "expire": _expire,
}


def _outlets(settings: Settings, stop: threading.Event) -> list[Outlet]:
    if settings.push_url is not None and settings.push_instance is None:
        raise CommandError(
            "--push-url (PUSH_URL) needs --push-instance (PUSH_INSTANCE), too", 2
        )
    return open_outlets(settings, stop)


def _web_option(settings: Settings, path: str) -> str:
    """Return the flag of the option that names the file."""
    for option in OPTIONS:
        if option.group == "Web" and getattr(settings, option.name) == path:
            return str(option.flag)
    return ""


def _listener(settings: Settings) -> socket.socket:
    try:
        return web.listen(settings.listen_addr, settings.listen_port)
    except OSError as error:
        address = f"--listen-addr {settings.listen_addr} --listen-port {settings.listen_port}"
        reason = error.strerror or error
        # Otherwise `create_server` repeats the address. A name lookup has negative numbers.
        if error.errno and error.errno > 0:
            reason = os.strerror(error.errno)
        message = f"can't listen on {address}: {reason}"
        if error.errno == errno.EADDRINUSE:
            message += (
                "; Portainer, MinIO, php-fpm and ClickHouse often have 9000: "
                "set another --listen-port"
            )
        raise CommandError(message) from error
