"""The command as a user types it: what it says, what it serves, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from docker_prom_exporter import __version__
from docker_prom_exporter.settings import OPTIONS
from support.exporters import Exporter, exporter
from support.simulated import Simulation, hangs
from support.waiting import wait_for


@pytest.fixture
def simulated(simulated: Simulation) -> Simulation:
    simulated.stage.add("web", health="healthy")
    return simulated


def serving(simulated: Simulation, *options: str) -> AbstractContextManager[Exporter]:
    """Serve the simulated engine."""
    return exporter("--docker-host", simulated.url, *options)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end with nothing in its environment but what is given."""
    return subprocess.run(
        [sys.executable, "-m", "docker_prom_exporter", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    """One line with the name and the version."""
    done = run("--version")

    assert (0, f"docker-prom-exporter {__version__}\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_a_table(flag: str) -> None:
    """Each option with its variable and default on one line, none of it wider than a terminal."""
    done = run(flag)

    assert 0 == done.returncode
    lines = done.stdout.splitlines()
    for option in OPTIONS:
        assert [[option.flag, option.variable, option.default or "-"]] == [
            line.split() for line in lines if line.startswith(f"  {option.flag} ")
        ]
    assert max(map(len, lines)) <= 100


BAD: list[tuple[Sequence[str], dict[str, str], Sequence[str]]] = [
    (["--listen-port", "70000"], {}, ["--listen-port", "70000", "0 to 65535"]),
    ([], {"LISTEN_PORT": "70000"}, ["LISTEN_PORT", "70000", "0 to 65535"]),
    ([], {"POLL_INTERVAL": "0"}, ["POLL_INTERVAL", "0.5 to 3600"]),
    ([], {"CONTAINER_HEALTH_FILTER_LABEL": "maybe"}, ["maybe", "true or false"]),
    ([], {"LISTEN_ADDR": "localhost:9000"}, ["LISTEN_ADDR", "IPv4 or IPv6"]),
    ([], {"DOCKER_HOST": "ftp://x"}, ["DOCKER_HOST", "ftp://x", "unix://"]),
    ([], {"DOCKER_CONTEXT": "elsewhere"}, ["context", "elsewhere"]),
    ([], {"DOCKER_HOST": "tcp://x:1", "DOCKER_TLS_VERIFY": "1"}, ["certificate"]),
    (["--nonsense"], {}, ["--nonsense"]),
    (["--poll", "5"], {}, ["--poll"]),
    (["--web-tls-cert=x"], {}, ["--web-tls-cert "]),
    (["-x"], {}, ["-x"]),
    (["--version=1"], {}, ["--version"]),
    (["serve"], {}, ["serve", "once, check, healthcheck, demo"]),
    (["check"] * 2, {}, ["check check"]),
    (["--log-level"], {}, ["--log-level"]),
]


@pytest.mark.parametrize("command", [[], ["once"]], ids=["serve", "once"])
@pytest.mark.parametrize(("arguments", "environment", "words"), BAD, ids=str)
def test_bad_input_is_one_line(
    arguments: Sequence[str], environment: dict[str, str], words: Sequence[str], command: Sequence[str]
) -> None:
    """It names what is wrong and what would do, without a traceback, and exits with 2."""
    done = run(*command, *arguments, **environment)

    assert 2 == done.returncode
    assert "" == done.stdout
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line


def test_a_malformed_cli_configuration_is_one_line(tmp_path: Path) -> None:
    """The Docker CLI's own file is named, for it is not the exporter's."""
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"registry": {"auth": "%"}}}))
    done = run("once", DOCKER_CONFIG=str(tmp_path))

    assert 2 == done.returncode
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path}/config.json" in line


@pytest.mark.parametrize("text", ["", "not JSON", '{"auths": {}}', '{"HttpHeaders": {"X-Meta": "x"}}'])
def test_other_cli_configurations_do(tmp_path: Path, simulated: Simulation, text: str) -> None:
    """Empty, unreadable as JSON, or with settings that are not the exporter's business."""
    (tmp_path / "config.json").write_text(text)

    assert 0 == run("once", DOCKER_CONFIG=str(tmp_path), DOCKER_HOST=simulated.url).returncode


def test_once(simulated: Simulation) -> None:
    """Prints the exposition and nothing else, and exits with 0 where Docker is up."""
    done = run("once", DOCKER_HOST=simulated.url)

    assert 0 == done.returncode
    assert "\ndocker_up 1.0\n" in done.stdout
    assert 'name="web"} 4.0' in done.stdout
    assert "event=docker.found" in done.stderr


def test_once_without_docker(tmp_path: Path) -> None:
    """Says so in the exposition, in the log and by its exit code."""
    done = run("once", DOCKER_HOST=f"unix://{tmp_path}/docker.sock")

    assert 1 == done.returncode
    assert "\ndocker_up 0.0\n" in done.stdout
    assert "No such file or directory" in done.stderr


def test_serves(simulated: Simulation) -> None:
    """From the first scrape on it knows what there is, and the log says where to scrape."""
    with serving(simulated) as running:
        first = running.get("/metrics")[1]

    assert "\ndocker_up 1.0\n" in first
    assert 'name="web"} 4.0' in first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stuck", [False, True], ids=["idle", "stuck"])
def test_a_signal_ends_it(simulated: Simulation, number: signal.Signals, *, stuck: bool) -> None:
    """With exit code 0, within a second, in the middle of a request that is stuck, too."""
    if stuck:
        simulated.faults = {"list": hangs()}
    with serving(simulated, "--docker-timeout", "600") as running:
        wait_for(lambda: simulated.asked("list"), what="a list to be asked for")
        code, seconds = running.stop(number)
        log = running.stderr

    assert 0 == code
    assert seconds < 2
    assert "event=exporter.stopped" in log


def test_a_port_in_use_is_one_line(simulated: Simulation) -> None:
    """Named with the option that changes it, before anything is polled; exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = run("--listen-port", port, DOCKER_HOST=simulated.url)

    assert 1 == done.returncode
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in ("--listen-port", port, "in use"))
    assert [] == simulated.requests


def test_healthcheck(simulated: Simulation) -> None:
    """Finds the exporter by the same options, on all addresses too, and tells by its exit code."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with serving(simulated, "--listen-addr", address) as running:
            done = run("healthcheck", LISTEN_ADDR=address, LISTEN_PORT=running.url.rpartition(":")[2])
        assert (0, "healthy\n") == (done.returncode, done.stdout)


def test_healthcheck_without_an_exporter() -> None:
    """Nothing listens there."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = run("healthcheck", LISTEN_PORT=str(unused.getsockname()[1]))

    assert 1 == done.returncode
    assert "refused" in done.stdout
    assert "" == done.stderr


def test_healthcheck_imports_no_library() -> None:
    """It runs every few seconds in every container: the standard library does."""
    done = run("healthcheck", "--listen-port", "1", PYTHONPROFILEIMPORTTIME="1")

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"docker", "requests", "structlog", "prometheus_client", "tenacity", "asyncio"}


def test_demo() -> None:
    """Serves a simulated engine through the same exporter, says so, and leaves no file."""
    with exporter("demo") as running:
        metrics = running.get("/metrics")[1]
        code, _ = running.stop(signal.SIGTERM)
        log = running.stderr

    assert 0 == code
    assert 'version="29.0.0-simulated"' in metrics
    assert metrics.count("\ncontainer_health{") >= 11
    assert "event=demo.started" in log


@pytest.mark.parametrize(
    ("form", "beginning"), [("logfmt", "time="), ("json", "{"), ("auto", "time="), ("console", "20")]
)
def test_log_formats(simulated: Simulation, form: str, beginning: str) -> None:
    """`auto` is logfmt where there is no terminal; no colours without one."""
    done = run("once", LOG_FORMAT=form, DOCKER_HOST=simulated.url)

    assert done.stderr.startswith(beginning)
    assert "\x1b" not in done.stderr
