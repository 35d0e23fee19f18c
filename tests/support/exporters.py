"""The installed command as a process of its own, asked from outside like any user asks it."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from support.expositions import Scrape, parse
from support.processes import Command, Daemon
from support.waiting import wait_for

_STARTED = re.compile(r"event=exporter\.started .*metrics=(\S+)/metrics")

# As PID 1 of a namespace of its own, as in a container.
AS_PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


class Exporter:
    """A running exporter."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.url = wait_for(self._started, what="the exporter to listen")

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return self._daemon.log.read_text()

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._daemon.running

    def get(self, path: str, *, seconds: float = 1) -> tuple[int, str]:
        """Return the status and body of an answer; TimeoutError where it takes longer than it may."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=seconds)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> Scrape:
        """Return what a scrape gets, which takes a second at the most."""
        status, body = self.get("/metrics")
        if status != 200:
            raise ValueError(f"/metrics: {status} {body}")
        return parse(body)

    def stop(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal; return the exit code, and the seconds until the end."""
        began = time.monotonic()
        for pid in _children(self._daemon.pid) or [self._daemon.pid]:
            os.kill(pid, number)
        code = self._daemon.wait()
        return code, time.monotonic() - began

    def _started(self) -> str:
        if not self.running:
            raise ChildProcessError(f"the exporter ended: {self._daemon.last_words()}")
        found = _STARTED.search(self.stderr)
        return found[1] if found else ""


@contextmanager
def exporter(*options: str, wrapper: Sequence[str] = ()) -> Iterator[Exporter]:
    """Yield an exporter that serves with these options, on any free port; afterwards it is gone.

    It polls twice a second and waits a second for an answer, if no option says otherwise. `wrapper` is what
    starts it instead of this process.
    """
    with TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder, "log"))
        quick = ("--listen-port=0", "--log-format=logfmt", "--poll-interval=0.5", "--docker-timeout=1")
        command = _command(folder)
        try:
            daemon.start(Command([*wrapper, *command.argv, *quick, *options], command.env))
            yield Exporter(daemon)
        finally:
            daemon.kill()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    with TemporaryDirectory() as folder:
        command = _command(folder)
        argv = [*command.argv, *arguments]
        return subprocess.run(
            argv, env=dict(command.env), capture_output=True, text=True, check=False, timeout=30
        )


def _command(home: str) -> Command:
    """Return the exporter with an environment that holds nothing of the user's."""
    return Command(
        [sys.executable, "-P", "-m", "docker_prom_exporter"], {"PATH": os.environ["PATH"], "HOME": home}
    )


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
