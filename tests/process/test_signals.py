"""Signals end the exporter at once, from its start on and during any request."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.exporters import AS_PID_1, AT_ONCE, exporter
from support.gateway import fake_gateway
from support.missing import give_up, require_program
from support.processes import Command, Daemon
from support.simulated import Fault, Simulation, hangs
from support.waiting import wait_for

NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("pid_1", [(), AS_PID_1], ids=["child", "PID 1"])
@pytest.mark.parametrize("fault", [{}, {"list": hangs()}], ids=["idle", "stuck"])
@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_it(
    simulated: Simulation,
    number: signal.Signals,
    fault: dict[str, Fault],
    pid_1: Sequence[str],
) -> None:
    """A signal ends the exporter at once with exit code 0, also as PID 1 and during a stuck request."""
    if pid_1 and os.geteuid() != 0:
        give_up("a PID namespace needs root: run tests/run as root")
    simulated.faults = fault
    # these tests may run under nohup themselves
    wrapper = [require_program("env"), "--default-signal=HUP", *pid_1]
    with exporter(
        "--docker-host", simulated.url, "--docker-timeout", "600", wrapper=wrapper
    ) as running:
        wait_for(lambda: simulated.asked("list"), what="a list to be asked for")
        code, seconds = running.stop(number)
        log = running.stderr

    assert 0 == code
    assert seconds < AT_ONCE
    assert log.endswith("event=exporter.stopped\n")


def test_a_hang_up_that_is_ignored_at_the_start_stays_ignored(simulated: Simulation) -> None:
    """SIGHUP does not end the exporter if the signal is ignored at the start, as under nohup."""
    wrapper = [require_program("nohup")]
    with exporter("--docker-host", simulated.url, wrapper=wrapper) as running:
        running._daemon.send(signal.SIGHUP)
        polls = len(simulated.requests)
        wait_for(lambda: len(simulated.requests) > polls + 2, what="the next polls")
        code, _ = running.stop(signal.SIGTERM)

    assert 0 == code


def test_a_second_signal_ends_it_at_once(simulated: Simulation) -> None:
    """A second signal ends the exporter while it waits for the Pushgateway to delete its group."""
    with fake_gateway() as gateway:
        gateway.answers = [hangs()]
        push = (f"--push-url={gateway.url}", "--push-instance=host1")
        with exporter("--docker-host", simulated.url, *push) as running:
            wait_for(lambda: gateway.asked, what="a push that hangs")
            running._daemon.send(signal.SIGINT)
            running._daemon.send(signal.SIGTERM)
            code = running._daemon.wait()
            log = running.stderr

    assert 128 + signal.SIGTERM == code
    assert "exporter.stopped" not in log


@contextmanager
def launched(folder: Path, *arguments: str, environment: dict[str, str]) -> Iterator[Daemon]:
    """Yield a command that was just started as PID 1 of its own PID namespace."""
    if os.geteuid() != 0:
        give_up("a PID namespace needs root: run tests/run as root")
    require_program("unshare")
    daemon = Daemon(folder / "log")
    argv = [*AS_PID_1, sys.executable, "-P", "-m", "docker_prom_exporter", *arguments]
    daemon.start(
        Command(argv, {"PATH": os.environ["PATH"], "HOME": str(folder), **environment})
    )
    try:
        yield daemon
    finally:
        daemon.kill()


def _first_process(daemon: Daemon) -> int:
    """Return the outer pid of the namespace's PID 1, once that process handles SIGTERM."""

    def handles() -> int:
        for child in (
            Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        ):
            status = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{child}/status").read_text().splitlines()
            )
            if int(status["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1:
                return int(child)
        return 0

    return wait_for(handles, what="a handler for SIGTERM", every=0.001)


@pytest.mark.parametrize("arguments", [[], ["demo"]], ids=["serve", "demo"])
def test_a_signal_while_it_starts(tmp_path: Path, arguments: list[str]) -> None:
    """A signal ends the exporter with exit code 0 and no output while it still imports its libraries."""
    environment = {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock", "LISTEN_PORT": "0"}
    with launched(tmp_path, *arguments, environment=environment) as daemon:
        os.kill(_first_process(daemon), signal.SIGTERM)
        code = daemon.wait()

    assert (0, "") == (code, daemon.log.read_text())


def test_a_signal_ends_the_command_once(tmp_path: Path, simulated: Simulation) -> None:
    """A signal ends `once` as PID 1, which gets handled signals only, with the exit code of that signal."""
    simulated.faults = {"list": hangs()}
    environment = {"DOCKER_HOST": simulated.url, "DOCKER_TIMEOUT": "600"}
    with launched(tmp_path, "once", environment=environment) as daemon:
        pid = _first_process(daemon)
        wait_for(lambda: simulated.asked("list"), what="a list to be asked for")
        os.kill(pid, signal.SIGTERM)
        code = daemon.wait()

    assert 128 + signal.SIGTERM == code
