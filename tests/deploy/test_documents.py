"""The Markdown documents: their links have targets, their configurations are valid, their commands work."""

import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docker_prom_exporter import __version__
from support.bases import package_index
from support.documents import DOCUMENTS, ON_THE_IMAGE, anchors, blocks, links
from support.images import CALUM4, EXPORTER, SAMPLE, WOLLOMATIC, provide
from support.machine import COMPOSE, REPOSITORY, Machine
from support.processes import Command
from support.promtool import promtool, takes_queries
from support.real import DOCKER_26, SYSTEM_PATH

IMAGES = (
    EXPORTER,
    SAMPLE,
    CALUM4,
    WOLLOMATIC,
    "prom/prometheus:v3.5.0",
    "prom/pushgateway:v1.11.1",
    "prom/alertmanager:v0.28.1",
    "grafana/grafana:12.1.1",
    "registry:2",
)

DEPLOYING = "compose/README.md"
DEPLOYED = ("socket-proxy.calum4", "monitoring", "pushgateway", "registry")

# A pattern of what a section's commands print together. A new section with commands needs an entry here.
PRINTED = {
    (DEPLOYING, "Compose files"): r"^docker_up [01]\.0$",
    (DEPLOYING, "When the proxy denies"): r"^result +good",
    (DEPLOYING, "All of it on one machine"): r"^$",
    (DEPLOYING, "Alerts"): r"SUCCESS",
    (DEPLOYING, "A registry's storage"): r"^docker_registry_up [01]\.0$",
    (
        DEPLOYING,
        "A container that is stopped on purpose",
    ): r"^docker-monitoring-\S+\n[0-9a-f-]{36}$",
    (DEPLOYING, "Routing by team"): r"SUCCESS(.|\n)*^shop-on-call$",
    (DEPLOYING, "Pushgateway"): r"^docker_up\{.*\} 1$",
    (DEPLOYING, "A time to live"): r"^docker_exporter_gateway_up 1",
    (DEPLOYING, "Text file"): r"^docker_up 1",
    (DEPLOYING, "Upgrades and logs"): r"starting pushgateway|[Ll]istening on",
}
ON_A_HOST = (DEPLOYING, "On a host, without a container")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: str(document.relative_to(REPOSITORY))
)


@each_document
def test_a_link_has_a_target(document: Path) -> None:
    """Each relative link points to an existing file and, if it has a fragment, to an existing heading."""
    broken = [
        link
        for link in links(document)
        if "://" not in link and not has_target(document, link)
    ]

    assert [] == broken


def has_target(document: Path, link: str) -> bool:
    """Return whether the file of a relative link exists, and its heading if the link has a fragment."""
    path, _, fragment = link.partition("#")
    target = (document.parent / path) if path else document
    return target.exists() and (not fragment or fragment in anchors(target))


@each_document
def test_prometheus_takes_the_configurations(document: Path, tmp_path: Path) -> None:
    """`promtool` accepts each YAML block as a Prometheus configuration."""
    file = tmp_path / "prometheus.yml"
    for block in blocks(document, "yaml"):
        file.write_text(block.text)

        checked = promtool("check", "config", "--syntax-only", str(file))
        assert "is valid" in checked, block.section


@each_document
def test_prometheus_takes_the_queries(document: Path, tmp_path: Path) -> None:
    """`promtool` parses each PromQL block."""
    assert takes_queries((block.text for block in blocks(document, "promql")), tmp_path)


def commands(document: str, section: str) -> str:
    """Return all commands of a section as one script."""
    found = blocks(REPOSITORY / document, "sh")
    return "".join(block.text for block in found if block.section == section)


def test_all_commands_are_run() -> None:
    """Each section with shell commands has a test that runs them."""
    documents = {document for document, _ in PRINTED}
    there = {
        (name, block.section)
        for name in documents
        for block in blocks(REPOSITORY / name, "sh")
    }

    assert {*PRINTED, ON_A_HOST} == {each for each in there if each[1] not in ON_THE_IMAGE}


# The files pin some images by digests, which the stand-ins don't have. IMAGES has the files that name them.
PRELUDE = """
set -euo pipefail
docker() {
    local images=()
    if [[ $1 == compose && ($4 == pull || $4 == build) ]]; then return; fi  # no registry is in reach
    if [[ $1 == compose && -e $IMAGES/${3##*/} ]]; then images=(-f "$IMAGES/${3##*/}"); fi
    command docker "${@:1:3}" "${images[@]}" "${@:4}"
}
docker-prom-exporter() {
    if [[ $1 == once ]]; then command docker-prom-exporter "$@"; return; fi
    command docker-prom-exporter "$@" >&2 & exporter=$!
    trap 'kill "$exporter"; wait "$exporter"' EXIT
    case $1 in
        --push-url) until curl --silent "$2/metrics" | grep "^docker_up.*$4.* 1$"; do sleep 0.1; done ;;
        expire)
            until curl -s localhost:9000/metrics | grep "^docker_exporter_gateway_up 1"; do sleep 0.1; done ;;
        --textfile) until grep "^docker_up 1" "$2"; do sleep 0.1; done ;;
    esac
}
"""
STACK_IS_UP = """
docker compose -f compose/monitoring.yml up --detach
until curl --silent --fail --output /dev/null http://127.0.0.1:9093/-/ready; do sleep 0.1; done
"""


@pytest.fixture
def shell(machine: Machine, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Yield a function that runs a script in the machine's network and returns its output."""
    provide(machine, *IMAGES)
    machine.compose(
        "version", files=()
    )  # writes the client's configuration, which names the Compose plugin
    pid = (machine.sandbox.state / "pid").read_text()
    env = {
        "PATH": f"{Path(sys.executable).parent}:{DOCKER_26.path}",
        "HOME": str(tmp_path),
        "DOCKER_HOST": machine.url,
        "DOCKER_CONFIG": f"{machine.sandbox.state}/client",
        "IMAGES": str(machine.images),
    }
    for name in DEPLOYED:
        machine.with_local_images(COMPOSE / f"{name}.yml")
    bash = Command(["nsenter", f"--net=/proc/{pid}/ns/net", "bash", "-c"], env, cwd=REPOSITORY)
    yield functools.partial(bash.run, seconds=120)
    for name in DEPLOYED:
        machine.compose("down", "--volumes", "--timeout=1", files=(COMPOSE / f"{name}.yml",))


@pytest.mark.parametrize(("document", "section"), PRINTED)
def test_the_commands_work(
    shell: Callable[[str], str], tmp_path: Path, document: str, section: str
) -> None:
    """The commands of each section succeed in order and print what the pattern demands."""
    script = commands(document, section)
    script = script.replace("/var/lib/prometheus/node-exporter", str(tmp_path))
    script = script.replace("groups.tar", f"{tmp_path}/groups.tar")
    before = STACK_IS_UP if "docker-monitoring-" in script else ""
    printed = shell(PRELUDE + before + script)

    assert re.search(PRINTED[document, section], printed, re.MULTILINE), printed


# This machine has no systemd. The files are installed into tmpfs mounts of the test's own mount namespace.
WITHOUT_SYSTEMD = """
set -euo pipefail
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs /etc/systemd/system
systemctl() { echo "systemctl $*"; }
"""


def test_the_commands_for_a_host_work() -> None:
    """The commands install a program that runs, the unit that starts it, and the unit's drop-in."""
    after = """
        cd /etc/systemd/system
        program=$(sed -n 's/^ExecStart=//p' docker-prom-exporter.service)
        echo "$program"
        cat docker-prom-exporter.service.d/docker-group.conf
        "$program" --version
    """
    with package_index() as index:
        env = {"PATH": SYSTEM_PATH, "PIP_INDEX_URL": index, "PIP_NO_CACHE_DIR": "1"}
        bash = Command(["unshare", "--mount", "bash", "-c"], env, cwd=REPOSITORY)
        printed = bash.run(WITHOUT_SYSTEMD + commands(*ON_A_HOST) + after, seconds=240)

    assert printed.endswith(
        "systemctl daemon-reload\nsystemctl enable --now docker-prom-exporter\n"
        "/opt/docker-prom-exporter/bin/docker-prom-exporter\n[Service]\nSupplementaryGroups=docker\n"
        f"docker-prom-exporter {__version__}"
    )
