"""The README's commands that start the exporter without Docker, run unchanged."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.bases import checkout
from support.certificates import authority, issue
from support.documents import ON_THE_IMAGE, blocks
from support.machine import REPOSITORY
from support.ports import free_port
from support.processes import completed
from support.waiting import wait_for

README = REPOSITORY / "README.md"
RUN_HERE = {"With Python", "TLS and a token"}
WITH_DOCKER = "Get it and run it, with Docker"


def commands(section: str) -> list[str]:
    return [block.text for block in blocks(README, "sh") if block.section == section]


@contextmanager
def running(script: str, folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script in the background; kill it afterwards."""
    everything = {**os.environ, "HOME": str(folder), **env}
    process = subprocess.Popen(
        ["bash", "-c", f"exec 2>&1; {script}"],
        cwd=folder,
        env=everything,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answer(command: str) -> str:
    return completed(["bash", "-c", command], timeout=10).stdout


def test_every_command_is_run() -> None:
    """The commands of every README section are run here or, on an image, by tests/deploy/test_image.py."""
    assert (
        RUN_HERE | {WITH_DOCKER}
        == {block.section for block in blocks(README, "sh")} - ON_THE_IMAGE
    )


def test_with_python(tmp_path: Path) -> None:
    """On a clean checkout the README's commands install the exporter with Python, and curl gets metrics."""
    install, look = commands("With Python")
    checkout(tmp_path / "checkout")
    port = str(free_port())
    path = f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
    with running(install, tmp_path / "checkout", LISTEN_PORT=port, PATH=path):
        seen = wait_for(
            lambda: answer(look.replace("9000", port)),
            what="the metrics",
            seconds=240,
            every=0.5,
        )

    assert "\ndocker_up 1.0\n" in seen
    assert "shop-database-1" in seen


def test_the_package_is_pypis_where_there_is_an_owner() -> None:
    """With OWNER set, the README's commands install the package by its name."""
    (with_docker,) = commands(WITH_DOCKER)
    variables = "".join(with_docker.splitlines(keepends=True)[:2])
    script = variables.replace("OWNER=\n", "OWNER=example\n") + 'echo "${PACKAGE:-.}"'

    assert "docker-prom-exporter\n" == answer(script)


def test_tls_and_a_token(tmp_path: Path) -> None:
    """The README's TLS example needs no files except those that it names."""
    (command,) = commands("TLS and a token")
    ca = authority(tmp_path)
    issue(tmp_path, "server", ca)
    client = issue(tmp_path, "client", ca, "clientAuth")
    (tmp_path / "token").write_text("secret\n")
    port = str(free_port())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    look = (
        f"curl --silent --noproxy '*' --cacert {ca.cert} --cert {client.cert} --key {client.key} "
        f"--header 'Authorization: Bearer secret' https://127.0.0.1:{port}/metrics"
    )
    with running(
        command, tmp_path, LISTEN_PORT=port, PATH=path, DOCKER_HOST=f"unix://{tmp_path}/none"
    ):
        seen = wait_for(lambda: answer(look), what="the metrics")

    assert "\ndocker_up 0.0\n" in seen
