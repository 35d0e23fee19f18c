"""From a real engine to the messages that Alertmanager sends, by the shipped rules and routes."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from docker_prom_exporter.demo import WATCH
from support.exporters import exporter
from support.gateway import FakeGateway, fake_gateway
from support.machine import COMPOSE
from support.prometheus import Server, prometheus, running
from support.real import Engine
from support.waiting import wait_for

ALWAYS = ["--restart=always"]

# What the rules of these alerts wait for, and for how long they look back, in seconds instead of
# minutes. DockerDown needs more than a restart of dockerd takes on a busy machine. The open alerts
# of containers outlive this test.
WAITING = {
    "DockerDown": "20s",
    "ContainerUnhealthy": "2s",
    "ContainerExitedNonZero": "2s",
    "ContainerGone": "2s",
}
RULES = {
    **{
        rf"(- alert: {alert}\n(?:.*\n)*? {{8}}for: )\w+": rf"\g<1>{seconds}"
        for alert, seconds in WAITING.items()
    },
    r"time\(\) - 7200": "time() - 1",
    r"timestamp_seconds\[1m\]": "timestamp_seconds[3s]",
}
# A message for each alert, at once, also for what would not be sent at night.
ROUTES = {
    r"group_by: .*": "group_by: ['...']",
    r"group_(wait|interval): .*": r"group_\1: 1s",
    r"""nobody\n( +matchers: \['severity="info")""": r"today\n\1",
    r"- name: (wake-somebody|today)\n": r"- name: \1\n    webhook_configs: [{url: WEBHOOK}]\n",
}


class Message(NamedTuple):
    """A message: `firing` or `resolved`, the alert, and the container, empty for Docker."""

    status: str
    alert: str
    name: str


class Monitoring(NamedTuple):
    """Prometheus with the shipped rules, and what Alertmanager has sent."""

    prometheus: Server
    webhook: FakeGateway

    @property
    def messages(self) -> list[Message]:
        """What Alertmanager has sent so far."""
        messages = []
        for request in self.webhook.asked:
            for alert in json.loads(request.body)["alerts"]:
                labels = alert["labels"]
                name = labels.get("name", "")
                messages.append(Message(alert["status"], labels["alertname"], name))
        return messages

    def await_samples(self, expression: str) -> None:
        """Wait until a query has a result."""
        wait_for(
            lambda: self.prometheus.query(expression), what=expression, seconds=60, every=0.2
        )


def rewritten(text: str, changes: dict[str, str]) -> str:
    """Return the text with all changes; each of them must change it."""
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    return text


@contextmanager
def monitoring(folder: Path, exporter_url: str) -> Iterator[Monitoring]:
    """Yield a Prometheus and an Alertmanager with the shipped files, their times shortened."""
    rules = rewritten((COMPOSE / "prometheus/rules.yml").read_text(), RULES)
    (folder / "rules.yml").write_text(rules)
    routes = rewritten((COMPOSE / "alertmanager/alertmanager.yml").read_text(), ROUTES)
    with fake_gateway() as webhook:
        (folder / "alertmanager.yml").write_text(routes.replace("WEBHOOK", webhook.url))
        alertmanager = Server(
            "prometheus-alertmanager",
            folder,
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/alertmanager",
            "--cluster.listen-address=",
        )
        target = {
            "targets": [urlsplit(exporter_url).netloc],
            "labels": {"instance": "docker-host"},
        }
        receiver = {"static_configs": [{"targets": [urlsplit(alertmanager.url).netloc]}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [receiver]},
            "scrape_configs": [{"job_name": "docker", "static_configs": [target]}],
        }
        with running(alertmanager), running(prometheus(folder, json.dumps(config))) as server:
            yield Monitoring(server, webhook)


class Scene:
    """An engine and its monitoring; each method waits until it is seen, and what is expected has come."""

    def __init__(self, engine: Engine, monitoring: Monitoring) -> None:
        self.engine = engine
        self.monitoring = monitoring
        self.expected: list[Message] = []

    def await_message(self, status: str, alert: str, name: str = "") -> None:
        """Wait until this message has come; no other may have come before it."""
        message = Message(status, alert, name)
        self.expected.append(message)
        wait_for(lambda: message in self.monitoring.messages, what=str(message), seconds=90)
        assert self.expected == self.monitoring.messages

    def fail(self, name: str) -> None:
        """Have a container fail, whose message shows that no other has come before."""
        self.engine.run(name, command=["sh", "-c", "exit 3"], labels=WATCH)
        self.await_message("firing", "ContainerExitedNonZero", name)

    def freeze(self, seconds: int) -> None:
        """Freeze the engine until Prometheus has seen it down for so long."""
        with self._frozen():
            down = f"count_over_time((docker_up == 0)[1m:1s]) > {seconds}"
            self.monitoring.await_samples(down)
        self.monitoring.await_samples("docker_up == 1")

    def freeze_until_docker_is_down(self) -> None:
        """Freeze the engine until there is a message about it, and thaw it."""
        with self._frozen():
            self.await_message("firing", "DockerDown")
        self.await_message("resolved", "DockerDown")

    def pause(self, name: str) -> None:
        """Pause and unpause a healthy container; Docker then says unhealthy until its next probe."""
        self.engine.await_health(name, "healthy")
        self.engine.cli("pause", name)
        self.monitoring.await_samples(f'container_health{{name="{name}"}} == 1')
        self.engine.cli("unpause", name)
        self.monitoring.await_samples(f'container_health{{name="{name}"}} == 0')

    def deploy(self, name: str) -> None:
        """Rename a container, start another one with its name, and remove the first."""
        self.engine.cli("rename", name, f"{name}.old")
        self.monitoring.await_samples(f'container_health{{name="{name}.old"}}')
        self.engine.run(name, labels=WATCH, options=ALWAYS)
        self.monitoring.await_samples(f'count(container_health{{name=~"{name}.*"}}) == 2')
        self.engine.cli("rm", "--force", f"{name}.old")

    def restart(self) -> None:
        """Kill the daemon and start it again."""
        self.engine.kill()
        self.monitoring.await_samples("docker_up == 0")
        self.engine.start()
        self.monitoring.await_samples('container_health{name="web"} == 3')

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        self.engine.pause()
        try:
            yield
        finally:
            self.engine.resume()


def test_each_message_means_something(docker_28: Engine, tmp_path: Path) -> None:
    """Routine operations and short outages send nothing, whatever is open; a long outage does."""
    host = f"--docker-host={docker_28.url}", "--docker-timeout=3"
    # Its next probe comes long after its unpause.
    probed = [*ALWAYS, "--health-cmd=true", "--health-interval=15s"]
    docker_28.run("paused", labels=WATCH, options=probed)
    docker_28.run("service", labels=WATCH, options=ALWAYS)
    docker_28.run("lost", labels=WATCH, options=ALWAYS)
    docker_28.run("web", health="unhealthy", labels=WATCH, options=ALWAYS)
    with exporter(*host) as first, monitoring(tmp_path, first.url) as monitored:
        scene = Scene(docker_28, monitored)
        scene.await_message("firing", "ContainerUnhealthy", "web")
        scene.fail("failed")
        scene.freeze(seconds=3)
        scene.fail("after-the-freeze")
        scene.pause("paused")
        scene.fail("after-the-pause")
        scene.deploy("service")
        # Otherwise a poll might see it exited, like one that was stopped before it was removed.
        with first.frozen():
            docker_28.cli("rm", "--force", "lost")
        scene.await_message("firing", "ContainerGone", "lost")
        first.stop(signal.SIGTERM)
        monitored.await_samples("up == 0")
        with exporter(*host, f"--listen-port={urlsplit(first.url).port}"):
            monitored.await_samples("docker_up == 1")
            scene.fail("after-the-update")
            scene.restart()
            scene.fail("after-the-restart")
            scene.freeze_until_docker_is_down()
            scene.fail("after-the-outage")
