"""The exporter as a process, which tests control with signals and query over HTTP."""

import http.client
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from support.expositions import Scrape, parse
from support.processes import Command, Daemon, completed
from support.waiting import wait_for

AT_ONCE = 5
"""The seconds that an answer, or the end, of an exporter may take on a busy machine.

What could delay it takes longer: 10 s a client that asks slowly, 10 s before `docker stop` kills. How fast it
is, the benchmarks show.
"""

_STARTED = re.compile(r"event=exporter\.started .*metrics=(\S+)/metrics")

# Starts a program as PID 1 of its own PID namespace, as in a container.
AS_PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


class Exporter:
    """A running exporter process."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.url = wait_for(self._started, what="the exporter to listen")

    @property
    def stderr(self) -> str:
        """Everything that the exporter has logged so far."""
        return self._daemon.log.read_text()

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._daemon.running

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and body of a response, which must be there at once."""
        return Client(self).get(path)

    def metrics(self) -> Scrape:
        """Return a scrape, which must be there at once."""
        return Client(self).metrics()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process with SIGSTOP, and let it go on at the end."""
        self._daemon.freeze()
        try:
            yield
        finally:
            self._daemon.send(signal.SIGCONT)

    def stop(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal; return the exit code and the seconds until the process ended."""
        began = time.monotonic()
        for pid in _children(self._daemon.pid) or [self._daemon.pid]:
            os.kill(pid, number)
        code = self._daemon.wait()
        return code, time.monotonic() - began

    def _started(self) -> str:
        if not self.running:
            raise ChildProcessError(f"the exporter ended: {self._daemon.log_tail()}")
        found = _STARTED.search(self.stderr)
        return found[1] if found else ""


@dataclass(frozen=True)
class Client:
    """An HTTP client of an exporter that behaves like Prometheus.

    It speaks TLS if `tls` is set, and shows a token if it has one. `address` is its source
    address.
    """

    exporter: Exporter
    tls: ssl.SSLContext | None = None
    token: str = ""
    address: str = "127.0.0.1"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return the status and body of a response; raise TimeoutError if it is not there at once."""
        connection = self._connection()
        authorization = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        began = time.monotonic()
        try:
            connection.request("GET", path, headers={**authorization, **headers})
            response = connection.getresponse()
            status, body = response.status, response.read().decode()
        finally:
            connection.close()
        if time.monotonic() - began > AT_ONCE:
            raise TimeoutError(f"{path} took {time.monotonic() - began:.2f} s")
        return status, body

    def metrics(self) -> Scrape:
        """Return a scrape; raise ValueError if its status is not 200."""
        status, body = self.get("/metrics")
        if status != 200:
            raise ValueError(f"/metrics: {status} {body}")
        return parse(body)

    def _connection(self) -> http.client.HTTPConnection:
        url = urlsplit(self.exporter.url)
        host, port = str(url.hostname), url.port
        if self.tls is None:
            return http.client.HTTPConnection(
                host, port, timeout=AT_ONCE, source_address=(self.address, 0)
            )
        return http.client.HTTPSConnection(
            host, port, timeout=AT_ONCE, source_address=(self.address, 0), context=self.tls
        )


@contextmanager
def exporter(*options: str, wrapper: Sequence[str] = ()) -> Iterator[Exporter]:
    """Yield an exporter that serves with these options on a free port; kill it afterwards.

    By default it polls twice a second. `wrapper` is the command that starts it;
    without one, this process starts it.
    """
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # it is the home of exporters that run as other users
        daemon = Daemon(Path(folder, "log"))
        # As variables: a command ignores those that it does not use.
        quick = {"LISTEN_PORT": "0", "LOG_FORMAT": "logfmt", "POLL_INTERVAL": "0.5"}
        command = _command(folder)
        try:
            daemon.start(
                Command([*wrapper, *command.argv, *options], {**command.env, **quick})
            )
            yield Exporter(daemon)
        finally:
            daemon.kill()


def run(
    *arguments: str, wrapper: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the exporter's command with these arguments and variables until it ends.

    `wrapper` is the command that starts it; without one, this process starts it.
    """
    with TemporaryDirectory() as folder:
        command = _command(folder)
        argv = [*wrapper, *command.argv, *arguments]
        return completed(argv, env=command.environ | environment)


def _command(home: str) -> Command:
    """Return the exporter's command, with an environment that inherits only PATH."""
    return Command(
        [sys.executable, "-P", "-m", "docker_prom_exporter"],
        {"PATH": os.environ["PATH"], "HOME": home},
    )


def _children(pid: int) -> list[int]:
    return [
        int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]
