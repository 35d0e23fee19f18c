"""Private container engines for tests; they run beside any other engine and are removed completely."""

import atexit
import functools
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from docker import APIClient
from docker.types import Ulimit

from support.archives import add
from support.layouts import loadable
from support.processes import Command, CommandError, Daemon, Sandbox
from support.waiting import wait_for

Health = Literal["starting", "unhealthy", "healthy"]

IMAGE = "toolbox:tests"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": SYSTEM_PATH, "HOME": "/root"}
HEALTHY = "/healthy"  # a container with a healthcheck is healthy while it has this file
FOREVER = ("sleep", "86400")
GREEDY = "sleep 1; x=a; while true; do x=$x$x; done"
"""A script that uses up all memory, a second after its start, so that containerd notices the OOM kill."""
INSTALLED = "tests/run, as root on Debian, installs it"
NO_NETWORK = ("--bridge", "none", "--iptables=false")


class EngineUnavailableError(Exception):
    """The engine can't be started here. The message has the reason and the remedy."""


class Engine:
    """A private engine: `start()` brings it up, `stop()` removes everything it has created.

    In between, a test may kill, pause and restart it. `listen` puts the engine on a given socket, so that one
    engine can follow another there, as in an upgrade.
    """

    def __init__(self, kind: "Kind", *, listen: Path | None = None) -> None:
        self.kind = kind
        self.sandbox = Sandbox()
        self.listen = listen or self.sandbox.directory / "engine.sock"
        self._daemon = Daemon(self.sandbox.directory / "log")

    @property
    def name(self) -> str:
        """The engine and its release line, like `docker-20.10`."""
        return self.kind.name

    @property
    def url(self) -> str:
        """The engine's address for `DOCKER_HOST`."""
        return f"unix://{self.listen}"

    @property
    def running(self) -> bool:
        """Whether the daemon's process exists, paused or not."""
        return self._daemon.running

    def start(self) -> None:
        """Start the engine and import its image; an engine that is running is only resumed.

        After `kill()` the engine has the same containers again, in the states that it finds.
        Raises EngineUnavailableError with the reason if the engine can't be started.
        """
        if self.running:
            self.resume()
        else:
            self._bring_up()

    def stop(self) -> None:
        """Terminate the engine, then remove by force everything that is left."""
        if self.running:
            self.resume()
            with suppress(CommandError):
                self.remove_containers()
        self._daemon.terminate()
        self.sandbox.clear()
        vars(self).pop("_client", None)  # its configuration is gone with the folder
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """Send SIGKILL: the socket file stays, and the containers run on until the next `start()`.

        Docker's containerd dies with dockerd.
        """
        self._daemon.kill()

    def pause(self) -> None:
        """Send SIGSTOP: the engine accepts connections and never answers."""
        self._daemon.freeze()

    def resume(self) -> None:
        """Send SIGCONT, which ends a `pause()`."""
        self._daemon.send(signal.SIGCONT)

    def answers(self) -> bool:
        """Whether the engine answers a ping with 200 within a second."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.listen))
                connection.sendall(
                    b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
                )
                return b" 200 " in connection.recv(1024)
            except OSError:
                return False

    def cli(self, *args: str, stdin: bytes = b"") -> str:
        """Run the engine's own client and return its output; CommandError has its standard error."""
        return self._client.run(*args, stdin=stdin)

    def pause_containers(self, *names: str) -> None:
        """Pause containers, and wait until inspect answers.

        Docker 20.10 holds the lock of a container that is paused during a probe until the probe's timeout.
        """
        self.cli("pause", *names)
        self.cli("inspect", *names)

    def run(
        self,
        name: str,
        *,
        command: Sequence[str] = FOREVER,
        health: Health | None = None,
        image: str = IMAGE,
        labels: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> str:
        """Run a container in the background and return its full id.

        With `health` the container has a healthcheck, and this health on return. `starting` lasts until
        `set_health(name, healthy=True)`.
        """
        checks = self._health_options(health) if health else []
        everything = [*self._options(name, labels or {}), *checks, *options]
        container = self.cli("run", "--detach", *everything, image, *command)
        if health == "healthy":
            self.set_health(name, healthy=True)
        elif health == "unhealthy":
            self.await_health(name, health)
        return container

    def create(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> str:
        """Create a container without starting it, and return its full id."""
        everything = [*self._options(name, labels or {}), *options]
        return self.cli("create", *everything, IMAGE, *FOREVER)

    def load_platforms(self, name: str) -> None:
        """Load an image for eight platforms, which makes lists expensive with the containerd image store."""
        if not self.cli("images", "--quiet", name):
            self.cli("load", stdin=loadable(name, toolbox()))

    def crowd(
        self,
        *,
        running: int,
        created: int,
        labels: Mapping[str, str],
        image: str = IMAGE,
        name: str = "crowd",
    ) -> list[str]:
        """Create many containers, the first of them running, and return their ids.

        They are created through the API, four at a time: the command line client is slower.
        """
        with closing(APIClient(base_url=self.url, version="1.41")) as api:
            limits = [Ulimit(name=name, soft=1024, hard=1024) for name in ("nofile", "nproc")]
            host = api.create_host_config(
                network_mode="none", cgroup_parent=self.sandbox.cgroup, ulimits=limits
            )

            def create(number: int) -> str:
                container: str = api.create_container(
                    image,
                    list(FOREVER),
                    name=f"{name}-{number}",
                    labels=dict(labels),
                    host_config=host,
                    stop_signal="KILL",
                )["Id"]
                if number < running:
                    api.start(container)
                return container

            with ThreadPoolExecutor(4) as pool:
                return list(pool.map(create, range(running + created)))

    @property
    def pid(self) -> int:
        """Return the daemon's process id."""
        return self._daemon.pid

    @contextmanager
    def client(self, *args: str) -> Iterator[None]:
        """Run the engine's own client in the background, without reading its output."""
        command = [*self._client.argv, *args]
        with subprocess.Popen(
            command, env=self._client.environ, stdout=subprocess.PIPE
        ) as process:
            try:
                yield
            finally:
                process.kill()

    def exec(self, name: str, *command: str) -> str:
        """Run a command in a container and return its output."""
        return self.cli("exec", name, *command)

    def state(self, name: str) -> str:
        """Return the state of a container."""
        return self.cli("inspect", "--format", "{{.State.Status}}", name)

    def health(self, name: str) -> str:
        """Return the health of a container that has a healthcheck."""
        return self.cli("inspect", "--format", "{{.State.Health.Status}}", name)

    def set_health(self, name: str, *, healthy: bool) -> None:
        """Make a container healthy or unhealthy, and wait until the engine reports it."""
        self.exec(name, *(("touch", HEALTHY) if healthy else ("rm", "-f", HEALTHY)))
        self.await_health(name, "healthy" if healthy else "unhealthy")

    def probe(self, name: str) -> str:
        """Return the health after one more probe: Docker's next one, or one that Podman runs on request."""
        self.kind.probe(self._client, name)
        return self.health(name)

    def await_health(self, name: str, verdict: Health) -> None:
        """Wait until the engine reports this health."""
        wait_for(
            lambda: self.probe(name) == verdict, what=f"{self.name} to find {name} {verdict}"
        )

    def await_state(self, name: str, state: str) -> None:
        """Wait until the engine reports this state, such as `exited`."""
        wait_for(lambda: self.state(name) == state, what=f"{self.name} to find {name} {state}")

    def await_settled(self) -> None:
        """Wait until the list has no container that started or ended within the last two seconds."""

        def settled() -> bool:
            return not re.search(
                r"Less than|\b1 second\b", self.cli("ps", "--all", "--format={{.Status}}")
            )

        wait_for(settled, what=f"the containers of {self.name} to be two seconds old")

    def remove_containers(self) -> None:
        """Remove all containers, running or not."""
        if containers := self.cli("ps", "--all", "--quiet").split():
            self.cli("rm", "--force", "--volumes", *containers)

    def restore(self) -> None:
        """Start the engine and remove its containers, unless it was never started."""
        if self.sandbox.exists:
            self.start()
            self.remove_containers()

    @functools.cached_property
    def _client(self) -> Command:
        return self.kind.client(self.sandbox, self.listen)

    def _bring_up(self) -> None:
        self._require()
        self.sandbox.create()
        atexit.register(self.stop)
        try:
            self._daemon.start(self.kind.daemon(self.sandbox, self.listen))
            wait_for(self._up, what="an answer")
            self._provide_image()
        except (TimeoutError, ChildProcessError, CommandError) as error:
            reason = f"{self.name} did not come up: {error}\n{self._daemon.log_tail()}"
            self.stop()
            raise EngineUnavailableError(reason) from error

    def _require(self) -> None:
        if os.geteuid() != 0:
            raise EngineUnavailableError("a private engine needs root: run tests/run as root")
        self.kind.require()

    def _provide_image(self) -> None:
        if not self.cli("images", "--quiet", IMAGE):
            self.cli("import", "-", IMAGE, stdin=toolbox())

    def _up(self) -> bool:
        if not self.running:
            raise ChildProcessError("the daemon ended")
        return self.answers()

    def _options(self, name: str, labels: Mapping[str, str]) -> list[str]:
        """Return the options of every container."""
        life = [
            f"--name={name}",
            f"--cgroup-parent={self.sandbox.cgroup}",
            "--stop-signal=KILL",
        ]
        return [
            *life,
            *self.kind.run_options,
            *(f"--label={key}={value}" for key, value in labels.items()),
        ]

    def _health_options(self, health: Health) -> list[str]:
        """Return a healthcheck whose first result counts; for `starting` only its first success counts."""
        patience = "1h" if health == "starting" else "0s"
        return [
            f"--health-cmd=test -f {HEALTHY}",
            f"--health-interval={self.kind.health_interval}",
            "--health-retries=1",
            f"--health-start-period={patience}",
        ]


@dataclass(frozen=True)
class Docker:
    """One release line of Docker with one of its two image stores, unpacked by `tests/run`."""

    version: str
    containerd_store: bool = False
    options: Sequence[str] = NO_NETWORK
    run_options: Sequence[str] = ("--network=none",)
    health_interval: str = "500ms"

    @property
    def name(self) -> str:
        """Return `docker-` and the release line, and the image store if it isn't the graph driver."""
        return f"docker-{self.version}{'-containerd' if self.containerd_store else ''}"

    @property
    def folder(self) -> Path:
        """Return the folder in which this Docker is unpacked."""
        return cache() / f"docker-{self.version}"

    @property
    def path(self) -> str:
        """Return the PATH of Docker's programs and of those they start."""
        return f"{self._own_path}:{cache()}/runc/usr/sbin:{SYSTEM_PATH}"

    @property
    def _own_path(self) -> str:
        return f"{self.folder}/usr/sbin:{self.folder}/usr/bin"

    def require(self) -> None:
        """Raise EngineUnavailableError unless this release line and all that it needs are installed."""
        source = _unpacked_in(self.folder)
        require_programs(("dockerd", "docker", "containerd"), self._own_path, source)
        require_programs(("runc", "iptables", "busybox"), self.path)
        version = Command(
            [_find("dockerd", self.path), "--version"], {"PATH": self.path}
        ).run()
        _require_version(self.version, version, source)

    def daemon(self, sandbox: Sandbox, listen: Path) -> Command:
        """Return the command of dockerd, with its own configuration file instead of the machine's.

        A killed containerd stays a zombie if process 1 does not reap orphans. If its pid file existed, a new
        dockerd would take the zombie for running and wait for it in vain.
        """
        settings = sandbox.state / "daemon.json"
        settings.write_text(
            json.dumps({"features": {"containerd-snapshotter": self.containerd_store}})
        )
        (sandbox.state / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        return self._program(
            sandbox,
            "dockerd",
            f"--host=unix://{listen}",
            f"--config-file={settings}",
            f"--data-root={sandbox.state}/data",
            f"--exec-root={sandbox.state}/exec",
            f"--pidfile={sandbox.state}/pid",
            f"--cgroup-parent={sandbox.cgroup}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--shutdown-timeout=1",
            "--log-level=warn",
            *self.options,
        )

    def client(self, sandbox: Sandbox, listen: Path) -> Command:
        """Return the docker command with its plugins and without the user's configuration."""
        folder = sandbox.state / "client"
        folder.mkdir(exist_ok=True)
        plugins = self.folder / "usr/libexec/docker/cli-plugins"
        (folder / "config.json").write_text(
            json.dumps({"cliPluginsExtraDirs": [str(plugins)]})
        )
        return self._program(
            sandbox, "docker", f"--config={folder}", f"--host=unix://{listen}"
        )

    def probe(self, client: Command, container: str) -> None:
        """Wait until dockerd, which probes twice a second, has stored another result."""
        results = functools.partial(
            client.run, "inspect", "--format={{json .State.Health.Log}}", container
        )
        before = results()
        wait_for(lambda: results() != before, what=f"{self.name} to probe {container}")

    def _program(self, sandbox: Sandbox, name: str, *args: str) -> Command:
        # containerd writes its stacks to the folder for temporary files when dockerd finds it stuck, and a build
        # leaves a Dockerfile from standard input in it
        env = {"PATH": self.path, "TMPDIR": str(sandbox.state)}
        return Command([_find(name, self.path), *args], env)


@dataclass(frozen=True)
class Podman:
    """One release line of Podman and its Docker-compatible service, with its own root file system.

    `tests/run` unpacks it with all its libraries, since the system's may be too old or too new.
    """

    version: str
    cgroups: Literal["machine", "v2"] = "machine"
    run_options: Sequence[str] = (
        "--network=none",
        "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=1024:1024",
    )
    health_interval: str = "disable"  # its own probes need systemd's timers

    @property
    def name(self) -> str:
        """Return `podman-` and the release line."""
        return f"podman-{self.version}"

    def require(self) -> None:
        """Raise EngineUnavailableError unless this release line and all that it needs are installed."""
        require_programs(("podman",), f"{self._root}/usr/bin", _unpacked_in(self._root))
        require_programs(("busybox", "nsenter", "unshare"), SYSTEM_PATH)
        script = 'mount -t proc proc "$1/proc" && exec chroot "$1" podman --version'
        asked = Command(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(self._root)], _ENVIRONMENT
        )
        _require_version(self.version, asked.run(check=False), _unpacked_in(self._root))

    def daemon(self, sandbox: Sandbox, listen: Path) -> Command:
        """Return the command of the service; its locks are files, since every Podman shares those in memory.

        There is no limit on processes: it needs a controller that a hierarchy of version 2 may lack.
        """
        if not (sandbox.state / "mounts").exists():
            new_root = Command([str(Path(__file__).with_name("new_root.sh"))], _ENVIRONMENT)
            new_root.run(
                str(self._root), str(sandbox.state), tempfile.gettempdir(), self.cgroups
            )
        (sandbox.state / "containers.conf").write_text(
            '[engine]\nlock_type = "file"\n[containers]\npids_limit = 0\n'
        )
        client = self.client(sandbox, listen)
        return replace(
            client, argv=[*client.argv, "system", "service", "--time=0", f"unix://{listen}"]
        )

    def client(self, sandbox: Sandbox, listen: Path) -> Command:
        """Return the podman command for the service's folders; it works without the service."""
        del listen
        podman = [
            "nsenter",
            f"--mount={sandbox.state}/mounts/namespace",
            "podman",
            f"--root={sandbox.state}/storage",
            f"--runroot={sandbox.state}/run",
            f"--tmpdir={sandbox.state}/tmp",
            "--storage-driver=overlay",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--runtime=runc",
        ]
        files = {
            "CONTAINERS_CONF": f"{sandbox.state}/containers.conf",
            "TMPDIR": str(sandbox.state),
        }
        return Command(podman, {**_ENVIRONMENT, **files})

    def probe(self, client: Command, container: str) -> None:
        """Run the healthcheck; a failing healthcheck is a valid result."""
        client.run("healthcheck", "run", container, check=False)

    @property
    def _root(self) -> Path:
        return cache() / self.name


def cache() -> Path:
    """Return the folder in which `tests/run` keeps its downloads."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "docker-prom-exporter"


Kind = Docker | Podman

DOCKER_20 = Docker("20.10")
DOCKER_26 = Docker("26.1")
DOCKER_28 = Docker("28")
DOCKER_28_CONTAINERD = Docker("28", containerd_store=True)
PODMAN_4 = Podman("4.3")
PODMAN_5 = Podman("5")
PODMAN_6 = Podman("6", cgroups="v2")  # Podman 6 supports no other version


@functools.cache
def toolbox() -> bytes:
    """Return a tar archive of a root file system: busybox, and a link to it for each of its commands."""
    busybox = _find("busybox", SYSTEM_PATH)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for applet in {*Command([busybox, "--list"], {}).run().split()} - {"busybox"}:
            add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox")
    return archive.getvalue()


def require_programs(names: Sequence[str], path: str, source: str = INSTALLED) -> None:
    """Raise EngineUnavailableError if a program is missing in a path."""
    missing = [name for name in names if shutil.which(name, path=path) is None]
    if missing:
        raise EngineUnavailableError(f"{', '.join(missing)} not found: {source}")


def _require_version(wanted: str, found: str, source: str) -> None:
    if f" {wanted}." not in found:
        raise EngineUnavailableError(f"found {found!r} instead of {wanted}: {source}")


def _unpacked_in(folder: Path) -> str:
    return f"tests/run, as root on Debian, unpacks it in {folder}"


def _find(name: str, path: str) -> str:
    return shutil.which(name, path=path) or name
