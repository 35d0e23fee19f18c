"""The outlets with a real engine, Pushgateway, node_exporter and Prometheus."""

import base64
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from docker_prom_exporter.demo import WATCH
from support.certificates import authority, issue
from support.exporters import AT_ONCE, Exporter, exporter, run
from support.expositions import Scrape, parse
from support.missing import give_up
from support.prometheus import Server, node_exporter, prometheus, pushgateway, running
from support.real import Engine
from support.simulated import Simulation, simulation
from support.waiting import wait_for

GROUP = {"job": "docker_prom_exporter", "instance": "host1"}
VERDICTS = {"well": 4.0, "ill": 3.0, "plain": 2.0, "done": 1.0}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Server]:
    with running(pushgateway(tmp_path)) as server:
        yield server


@pytest.fixture
def simulated() -> Iterator[Simulation]:
    with simulation() as engine:
        engine.stage.add("web", health="healthy")
        yield engine


@pytest.fixture
def textfile(tmp_path: Path) -> Path:
    """Return the path of a text file in an empty folder."""
    folder = tmp_path / "textfiles"
    folder.mkdir()
    return folder / "docker_prom_exporter.prom"


def pushing(
    docker_host: str, gateway: Server, *options: str, interval: float = 1
) -> AbstractContextManager[Exporter]:
    return exporter(
        f"--docker-host={docker_host}",
        f"--push-url={gateway.url}",
        "--push-instance=host1",
        f"--push-interval={interval}",
        *options,
    )


def four_verdicts(docker: Engine) -> None:
    docker.run("well", labels=WATCH, health="healthy")
    docker.run("ill", labels=WATCH, health="unhealthy")
    docker.run("plain", labels=WATCH)
    docker.run("done", labels=WATCH, command=["true"])
    docker.await_state("done", "exited")


def verdicts(scrape: Scrape) -> dict[str, float]:
    return scrape.by("name", "container_health")


def has_group(scrape: Scrape) -> bool:
    return scrape.value("push_time_seconds", **GROUP) is not None


def test_values_reach_prometheus(
    docker_26: Engine, gateway: Server, textfile: Path, tmp_path: Path
) -> None:
    """Health reaches Prometheus through the Pushgateway and through node_exporter, and so does a change."""
    four_verdicts(docker_26)
    with (
        running(node_exporter(tmp_path, textfile.parent)) as node,
        running(prometheus(tmp_path, _config(gateway, node))) as server,
        pushing(docker_26.url, gateway, f"--textfile={textfile}"),
    ):
        wait_for(
            lambda: (
                _verdicts(server, 'job="docker_prom_exporter",instance="host1"') == VERDICTS
            ),
            what="a push",
        )
        wait_for(lambda: _verdicts(server, 'job="node"') == VERDICTS, what="a text file")
        docker_26.set_health("well", healthy=False)
        changed = {**VERDICTS, "well": 3.0}
        wait_for(
            lambda: _verdicts(server, 'job="docker_prom_exporter"') == changed,
            what="the next push",
        )
        wait_for(lambda: _verdicts(server, 'job="node"') == changed, what="the next text file")

        assert 0 == node.metrics().value("node_textfile_scrape_error")


def _config(gateway: Server, node: Server) -> str:
    return f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: pushgateway
    honor_labels: true
    static_configs: [{{targets: ["{gateway.url.removeprefix("http://")}"]}}]
  - job_name: node
    static_configs: [{{targets: ["{node.url.removeprefix("http://")}"]}}]
"""


def _verdicts(server: Server, selector: str) -> dict[str, float]:
    found = server.query(f"container_health{{{selector}}}")
    return {sample["metric"]["name"]: float(sample["value"][1]) for sample in found}


def test_a_stop_takes_all_back(simulated: Simulation, gateway: Server, textfile: Path) -> None:
    """The exporter deletes its group and its text file before it ends."""
    with pushing(simulated.url, gateway, f"--textfile={textfile}") as pusher:
        wait_for(
            lambda: has_group(gateway.metrics()) and textfile.exists(),
            what="the group and the file",
        )
        code, _ = pusher.stop(signal.SIGTERM)

    assert 0 == code
    assert not has_group(gateway.metrics())
    assert [] == [*textfile.parent.iterdir()]


@pytest.mark.parametrize("trouble", ["gone", "stuck"])
def test_a_gateway_in_trouble_affects_nothing_else(
    simulated: Simulation, gateway: Server, textfile: Path, trouble: str
) -> None:
    """Polls, scrapes and the text file go on without the Pushgateway; it gets the current values later."""
    with pushing(simulated.url, gateway, f"--textfile={textfile}") as pusher:
        wait_for(lambda: has_group(gateway.metrics()), what="the first push")
        if trouble == "gone":
            gateway.daemon.kill()
        else:
            gateway.daemon.send(signal.SIGSTOP)
        before = pusher.metrics().value("docker_exporter_polls_total", result="success") or 0
        wait_for(lambda: _pushes(pusher)["failure"] >= 2, what="two pushes to fail")
        simulated.stage.change("web", health="unhealthy", failing_streak=3)
        wait_for(
            lambda: verdicts(pusher.metrics()) == {"web": 3}, what="the change in a scrape"
        )
        wait_for(
            lambda: verdicts(parse(textfile.read_text())) == {"web": 3}, what="a changed file"
        )
        polls = (
            pusher.metrics().value("docker_exporter_polls_total", result="success") or 0
        ) - before
        if trouble == "gone":
            gateway.start()
        gateway.daemon.send(signal.SIGCONT)
        wait_for(
            lambda: verdicts(gateway.metrics()) == {"web": 3}, what="the change in the gateway"
        )
        wait_for(lambda: "push.recovered" in pusher.stderr, what="the recovery in the log")

        assert polls >= 2
        assert 1 == pusher.stderr.count("event=push.failed")
        assert 0 == pusher.metrics().value("docker_exporter_polls_total", result="failure")


def _pushes(pusher: Exporter) -> dict[str, float]:
    return pusher.metrics().by("result", "docker_exporter_pushes_total")


def test_a_stuck_gateway_does_not_hold_up_the_end(
    simulated: Simulation, gateway: Server
) -> None:
    """With a stuck Pushgateway the exporter ends at once and logs that its group is left behind."""
    with pushing(simulated.url, gateway) as pusher:
        wait_for(lambda: has_group(gateway.metrics()), what="the first push")
        gateway.daemon.send(signal.SIGSTOP)
        code, seconds = pusher.stop(signal.SIGTERM)
        log = pusher.stderr

    gateway.daemon.send(signal.SIGCONT)
    assert 0 == code
    assert seconds < AT_ONCE
    assert "event=push.not_withdrawn" in log


def test_what_the_gateway_refuses(simulated: Simulation, gateway: Server) -> None:
    """When the Pushgateway rejects a push, the exporter logs the Pushgateway's reason once.

    The push is inconsistent here: another group has `docker_up` as a counter.
    """
    clash = b"# TYPE docker_up counter\ndocker_up 1\n"
    urllib.request.urlopen(
        urllib.request.Request(f"{gateway.url}/metrics/job/other", data=clash, method="PUT"),
        timeout=10,
    ).close()
    with pushing(simulated.url, gateway) as pusher:
        wait_for(lambda: _pushes(pusher)["failure"] >= 2, what="two pushes to fail")

        assert 1 == pusher.stderr.count("event=push.failed")
        assert 'reason="400 Bad Request"' in pusher.stderr
        assert "inconsistent" in pusher.stderr
        assert 0 == _pushes(pusher)["success"]


def test_password_and_private_ca(simulated: Simulation, tmp_path: Path) -> None:
    """A push needs the right password and a trusted certificate; a corrected password file is read again."""
    ca = authority(tmp_path)
    ca_file = ca.cert
    issue(tmp_path, "server", ca)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    config = tmp_path / "web.yml"
    config.write_text(WEB_CONFIG)
    server = pushgateway(tmp_path, f"--web.config.file={config}", scheme="https")
    access = ("--push-username=exporter", f"--push-password-file={password}")

    with running(server):
        with pushing(simulated.url, server, *access, f"--push-ca-file={ca_file}") as pusher:
            wait_for(
                lambda: "401 Unauthorized" in pusher.stderr,
                what="the wrong password to be refused",
            )
            password.write_text("right horse\n")
            wait_for(
                lambda: _pushes(pusher)["success"] >= 1,
                what="the right password to be accepted",
            )
            token = base64.b64encode(b"exporter:right horse").decode()
            scrape = server.metrics({"Authorization": f"Basic {token}"}, ca_file)
            log = pusher.stderr
        with pushing(simulated.url, server, *access) as pusher:
            wait_for(
                lambda: "CERTIFICATE_VERIFY_FAILED" in pusher.stderr,
                what="the certificate to be refused",
            )

    assert has_group(scrape)
    assert not {"wrong", "horse"} & set(log.replace("=", " ").split())


# The password is "right horse".
WEB_CONFIG = """
tls_server_config: {cert_file: server.pem, key_file: server.key}
basic_auth_users: {exporter: "$2b$04$dQLQFUT1vKEq03kwlYlzv.PLNQj309HF.90oP2mupXr88b1Uj0u06"}
"""


def test_once_pushes_and_leaves_the_group(
    docker_26: Engine, gateway: Server, textfile: Path, tmp_path: Path
) -> None:
    """`once` writes and pushes one poll; it exits with 1 if Docker is down or a push fails."""
    docker_26.run("web", labels=WATCH)
    outlets = (f"--push-url={gateway.url}", "--push-instance=host1", f"--textfile={textfile}")
    up = run("once", f"--docker-host={docker_26.url}", *outlets)

    assert (0, {"web": 2}) == (up.returncode, verdicts(parse(up.stdout)))
    assert {"web": 2} == verdicts(gateway.metrics()) == verdicts(parse(textfile.read_text()))

    down = run("once", f"--docker-host=unix://{tmp_path}/none.sock", *outlets)

    assert 1 == down.returncode
    assert (
        0
        == gateway.metrics().value("docker_up")
        == parse(textfile.read_text()).value("docker_up")
    )

    gateway.daemon.kill()
    not_pushed = run("once", f"--docker-host={docker_26.url}", "--push-interval=1", *outlets)

    assert 1 == not_pushed.returncode
    assert "event=push.failed" in not_pushed.stderr
    assert {"web": 2} == verdicts(parse(textfile.read_text()))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Yield a folder on a file system of 64 KiB."""
    if os.geteuid() != 0:
        give_up("a disk of its own needs root: run tests/run as root")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(simulated: Simulation, tmp_path: Path) -> None:
    """On a full disk the text file stays unchanged and one error is logged; later writes succeed."""
    with small_disk(tmp_path / "disk") as disk:
        textfile = disk / "docker.prom"
        with exporter(f"--docker-host={simulated.url}", f"--textfile={textfile}") as writer:
            wait_for(textfile.exists, what="the file")
            before = textfile.read_text()
            _fill(disk / "ballast")
            simulated.stage.change("web", health="unhealthy", failing_streak=3)
            wait_for(lambda: _writes(writer)["failure"] >= 2, what="two writes to fail")
            during = textfile.read_text()
            (disk / "ballast").unlink()
            wait_for(
                lambda: verdicts(parse(textfile.read_text())) == {"web": 3},
                what="a changed file",
            )
            log = writer.stderr
            code, _ = writer.stop(signal.SIGTERM)

        assert before == during
        assert 1 == log.count("event=textfile.failed")
        assert "No space left on device" in log
        assert (0, []) == (code, [*disk.iterdir()])


def _writes(writer: Exporter) -> dict[str, float]:
    return writer.metrics().by("result", "docker_exporter_textfile_writes_total")


def _fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(512))
