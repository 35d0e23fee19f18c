"""The exporter needs no privileges, and exposes no free text of a container."""

import os
import sys
from pathlib import Path

import pytest

from docker_prom_exporter.demo import WATCH
from support.exporters import Client, exporter, run
from support.real import Engine
from support.watching import watching

SECRET = "pl4nted"
ACCEPTED = ("text/html", "application/openmetrics-text")

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534

# Make the root read-only, and let `nobody` read the trees of Python and the exporter below folders that only
# root may enter: an empty file system replaces each such folder, and the trees are bind-mounted into it.
_CONFINED = """
set -e
mount --make-rprivate /
kept=/mnt
mount --types tmpfs --options mode=755 tmpfs "$kept"
for tree in $TREES; do mkdir --parents "$kept$tree"; mount --bind "$tree" "$kept$tree"; done
for top in $TOPS; do mount --types tmpfs --options mode=755 tmpfs "$top"; done
for tree in $TREES; do mkdir --parents "$tree"; mount --bind "$kept$tree" "$tree"; done
mount --options remount,bind,ro /
for top in $TOPS; do mount --options remount,bind,ro "$top"; done
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all -- "$@"
"""


def confined() -> list[str]:
    """Return a command prefix that runs a program as nobody, without capabilities, on a read-only root."""
    trees = {Path(sys.prefix), Path(sys.base_prefix), REPOSITORY}
    tops = {top for tree in trees if not (top := Path(*tree.parts[:2])).stat().st_mode & 0o001}
    hidden = [str(tree) for tree in trees if Path(*tree.parts[:2]) in tops]
    words = f"TREES='{' '.join(hidden)}' TOPS='{' '.join(map(str, tops))}'"
    return ["unshare", "--mount", "sh", "-c", words + _CONFINED, "sh"]


def test_works_as_nobody_with_nothing_to_write_to(docker_26: Engine) -> None:
    """The exporter works as user 65534, without capabilities, on a read-only root, with only the socket."""
    docker_26.run("web", health="healthy", labels=WATCH)
    os.chown(docker_26.listen, NOBODY, NOBODY)
    with exporter(f"--docker-host={docker_26.url}", wrapper=confined()) as process:
        with watching(Client(process)) as watch:
            watch.shows(docker_up=1, web=4)
        proc = Path(f"/proc/{process._daemon.pid}")
        status = dict(line.split(":\t") for line in (proc / "status").read_text().splitlines())
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
        log = process.stderr

    assert {str(NOBODY)} == set(status["Uid"].split())
    assert "1" == status["NoNewPrivs"]
    assert {"0" * 16} == {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert ["ro"] == [mount[5].split(",")[0] for mount in mounts if mount[4] == "/"]
    assert "level=warning" not in log
    assert "level=error" not in log


@pytest.fixture
def planted(docker_26: Engine) -> str:
    """Plant a secret in each free text of a container, and return the engine's address."""
    docker_26.run(
        "web",
        labels={**WATCH, "password": SECRET},
        command=["sh", "-c", f"sleep 86400; : {SECRET}"],
        options=[
            f"--env=PASSWORD={SECRET}",
            f"--health-cmd=echo {SECRET}; false",
            "--health-interval=500ms",
            "--health-retries=1",
            f"--hostname={SECRET}",
            f"--workdir=/{SECRET}",
        ],
    )
    docker_26.await_health("web", "unhealthy")
    return docker_26.url


def test_no_free_text_of_a_container_gets_out(planted: str) -> None:
    """No page, no log at debug level and no output of `once` has a container's free text."""
    with exporter(f"--docker-host={planted}", "--log-level=debug") as process:
        client = Client(process)
        with watching(client) as watch:
            watch.shows(docker_up=1, web=3)
            watch.polls_pass(1)
        said = [client.get(path)[1] for path in ("/metrics", "/", "/-/healthy", "/nope")]
        said += [
            client.get(path, Accept=kind)[1] for path in ("/metrics", "/") for kind in ACCEPTED
        ]
        said.append(process.stderr)
    once = run("once", f"--docker-host={planted}", "--log-level=debug")
    said += [once.stdout, once.stderr]

    assert 'name="web"' in once.stdout
    assert [] == [text for text in said if SECRET in text]
