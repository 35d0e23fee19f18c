"""The commands as processes: their output, exit codes and imports."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from docker_prom_exporter.demo import WATCH
from support.exporters import exporter, run
from support.missing import require_program
from support.simulated import Simulation


def shell(
    argument: str, redirection: str, docker_host: str
) -> subprocess.CompletedProcess[str]:
    """Run the exporter with one argument and a redirection by the shell."""
    wrapper = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    return run(argument, wrapper=wrapper, DOCKER_HOST=docker_host, LOG_LEVEL="error")


def test_once(simulated: Simulation) -> None:
    """`once` prints the exposition and nothing else, and exits with 0 if Docker is up."""
    done = run("once", DOCKER_HOST=simulated.url)

    assert 0 == done.returncode
    assert "\ndocker_up 1.0\n" in done.stdout
    assert 'name="web"} 4.0' in done.stdout
    assert "event=docker.found" in done.stderr


def test_once_prints_utf_8(simulated: Simulation) -> None:
    """The exposition is UTF-8, whatever the locale's encoding is."""
    simulated.stage.add("shop", labels={**WATCH, "team": "café ☃"})
    environment = {"DOCKER_HOST": simulated.url, "PYTHONIOENCODING": "latin-1"}
    done = run("once", "--container-labels", "team", **environment)

    assert 0 == done.returncode
    assert 'label_team="café ☃"' in done.stdout


def test_once_without_docker(tmp_path: Path) -> None:
    """Without Docker, `once` prints `docker_up 0`, logs the error and exits with 1."""
    done = run("once", DOCKER_HOST=f"unix://{tmp_path}/docker.sock")

    assert 1 == done.returncode
    assert "\ndocker_up 0.0\n" in done.stdout
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize("argument", ["once", "--help", "--version"])
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">/dev/full", "No space left on device"), (">&-", "it is closed")],
)
def test_output_that_can_not_be_written(
    simulated: Simulation, argument: str, redirection: str, reason: str
) -> None:
    """When standard output can't be written, the exit code is 1, with one line on standard error."""
    done = shell(argument, redirection, simulated.url)

    assert (1, f"docker-prom-exporter: can't write to standard output: {reason}\n") == (
        done.returncode,
        done.stderr,
    )


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_a_log_that_can_not_be_written(simulated: Simulation, redirection: str) -> None:
    """When standard error can't be written, `once` still works, and writes no log to standard output."""
    done = shell("once", redirection, simulated.url)

    assert 0 == done.returncode
    assert "\ndocker_up 1.0\n" in done.stdout
    assert "event=" not in done.stdout


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("", ""),
        ('{"auths": {"registry": {"auth": "%"}}, "HttpHeaders": {"X-Meta": "x"}}', ""),
        ("not JSON", "config.json is not JSON"),
    ],
)
def test_a_cli_configuration(
    tmp_path: Path, simulated: Simulation, text: str, logged: str
) -> None:
    """An odd or broken `config.json` of the Docker CLI stops nothing; a broken one is logged once."""
    (tmp_path / "config.json").write_text(text)
    done = run("once", DOCKER_CONFIG=str(tmp_path), DOCKER_HOST=simulated.url)

    assert 0 == done.returncode
    assert bool(logged) == done.stderr.count("event=docker.config_ignored")
    assert logged in done.stderr


def test_a_port_in_use_is_one_line(simulated: Simulation) -> None:
    """A port in use ends the exporter with exit code 1 and one line, before it polls."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = run("--listen-port", port, DOCKER_HOST=simulated.url)

    assert 1 == done.returncode
    (line,) = done.stderr.splitlines()
    assert f"--listen-addr 127.0.0.1 --listen-port {port}: Address already in use; " in line
    assert "Portainer, MinIO, php-fpm and ClickHouse often have 9000" in line
    assert [] == simulated.requests


def test_healthcheck(simulated: Simulation) -> None:
    """`healthcheck` finds the exporter by the same options, also on 0.0.0.0, and exits with 0."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with exporter("--docker-host", simulated.url, "--listen-addr", address) as running:
            done = run(
                "healthcheck", LISTEN_ADDR=address, LISTEN_PORT=running.url.rpartition(":")[2]
            )
        assert (0, "healthy\n") == (done.returncode, done.stdout)


def test_healthcheck_without_an_exporter() -> None:
    """`healthcheck` exits with 1 if no exporter listens, and imports no library, so that it starts fast."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        done = run("healthcheck", LISTEN_PORT=port, PYTHONPROFILEIMPORTTIME="1")

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert 1 == done.returncode
    assert "refused" in done.stdout
    assert "docker_prom_exporter.healthcheck" in imported
    assert not imported & {
        "docker",
        "requests",
        "structlog",
        "prometheus_client",
        "tenacity",
        "dataclasses",
    }


def test_demo() -> None:
    """`demo` serves a simulated engine, logs that, and exits with 0."""
    with exporter("demo") as running:
        metrics = running.get("/metrics")[1]
        code, _ = running.stop(signal.SIGTERM)
        log = running.stderr

    assert 0 == code
    assert 'version="29.0.0-simulated"' in metrics
    assert metrics.count("\ncontainer_health{") >= 11
    assert "event=demo.started" in log


READ_ONLY = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -o remount,bind,ro / && ! touch /tmp/x 2>/dev/null && exec "$@"',
    "sh",
)


def test_demo_writes_no_file() -> None:
    """`demo` runs on a read-only root, as in a container."""
    require_program("unshare")
    with exporter("demo", wrapper=READ_ONLY) as running:
        up = running.metrics().value("docker_up")

    assert 1 == up
