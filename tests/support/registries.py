"""Real registries, distribution 2 and 3, on free ports of this machine: push, pull, delete, collect."""

import fcntl
import functools
import http.client
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.missing import give_up, require_program
from support.ports import free_port
from support.processes import Command, CommandError, Daemon, completed, output_of
from support.storages import DOCKER, OCI_INDEX, OCI_MANIFEST, Document, digest_of, text_of
from support.waiting import wait_for

# distribution's versions: Debian's package, and the one that Go builds.
VERSIONS = ("2.8.2", "3.1.2")

# Without it, distribution 3 refuses sparse indexes, and BuildKit's caches, which are indexes of layers.
VALIDATION = {"manifests": {"indexes": {"platforms": "none"}}}

_MODULE = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"
_CACHE = Path(
    os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "docker-prom-exporter"
)
_MANIFESTS = ", ".join(
    (OCI_MANIFEST, OCI_INDEX, f"{DOCKER}.v2+json", f"{DOCKER}.list.v2+json")
)


def program(version: str) -> str:
    """Return the path of distribution's program; skip the test if there is none."""
    if version.startswith("2."):
        return require_program("docker-registry")
    return str(_distribution_3())


@functools.cache
def _distribution_3() -> Path:
    """Build distribution 3 once on a machine; Debian has no package of it."""
    built = _CACHE / "distribution-3.1.2" / "registry"
    if built.exists():
        return built
    go = shutil.which("go")
    found = re.search(r"go1\.(\d+)", output_of([go, "version"])) if go else None
    if go is None or found is None or int(found[1]) < 23:
        give_up("distribution 3 is built by Go 1.23 or newer, which is not in PATH")
    built.parent.mkdir(parents=True, exist_ok=True)
    with (built.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            env = {**os.environ, "GOBIN": str(built.parent / "new"), "CGO_ENABLED": "0"}
            done = completed([go, "install", _MODULE], env=env)
            if done.returncode:
                give_up(f"go install {_MODULE}: {done.stderr.strip()}")
            (built.parent / "new" / "registry").rename(built)
    return built


class Registry:
    """A registry that stores its images in a folder."""

    def __init__(
        self,
        folder: Path,
        version: str = "2.8.2",
        *,
        upstream: str = "",
        root: Path | None = None,
        **options: object,
    ) -> None:
        """Choose a free port, and write the configuration to `folder`.

        A registry with the address of an `upstream` is its pull-through cache. `root` is that
        of another registry's files, `options` are more sections of the configuration.
        """
        self.version = version
        self._port = free_port()
        self._config = folder / "registry.yml"
        self.root = root or folder / "data"
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.root)},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"127.0.0.1:{self._port}"},
            **options,
        }
        if upstream:
            config["proxy"] = {"remoteurl": f"http://{upstream}"}
        self._config.write_text(json.dumps(config))
        self._program = Command([program(version)], {"OTEL_TRACES_EXPORTER": "none"})
        self._daemon = Daemon(folder / "registry.log")
        self.address = f"127.0.0.1:{self._port}"
        self.storage = self.root / "docker/registry/v2"

    def start(self) -> None:
        """Start the registry and return once it accepts connections."""
        self._daemon.start(
            Command([*self._program.argv, "serve", str(self._config)], self._program.env)
        )
        wait_for(self._answers, what="the registry to answer")

    def stop(self) -> None:
        """Kill the registry."""
        self._daemon.kill()

    def copy(self, repository: str, tag: str, layout: Path, *options: str) -> None:
        """Push the image in an OCI layout with skopeo."""
        skopeo = [
            require_program("skopeo"),
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
        ]
        target = f"docker://127.0.0.1:{self._port}/{repository}:{tag}"
        Command(
            [*skopeo, *options, f"oci:{layout}", target],
            {"PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        ).run()

    def push(self, repository: str, document: Document, *blobs: bytes, tag: str = "") -> str:
        """Push blobs and then a manifest; return the manifest's digest."""
        for blob in blobs:
            self.push_blob(repository, blob)
        text = text_of(document)
        kind = {"Content-Type": document["mediaType"]}
        self._ask(
            201, "PUT", f"/v2/{repository}/manifests/{tag or digest_of(text)}", text, kind
        )
        return digest_of(text)

    def push_blob(self, repository: str, content: bytes, digest: str = "") -> None:
        """Push a blob under its sha256, or under another digest of its content."""
        location = self._ask(202, "POST", f"/v2/{repository}/blobs/uploads/")
        mark = "&" if "?" in location else "?"
        name = digest or digest_of(content)
        self._ask(201, "PUT", f"{location}{mark}digest={name}", content)

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest and the tags that point to it."""
        self._ask(202, "DELETE", f"/v2/{repository}/manifests/{digest}")

    def begin_upload(self, repository: str, content: bytes) -> None:
        """Begin an upload and do not complete it."""
        location = self._ask(202, "POST", f"/v2/{repository}/blobs/uploads/")
        self._ask(
            202, "PATCH", location, content, {"Content-Type": "application/octet-stream"}
        )

    def collect_garbage(self, *options: str, check: bool = True) -> str:
        """Run the registry's `garbage-collect`; return what it printed."""
        return self._program.run("garbage-collect", *options, str(self._config), check=check)

    def collects_garbage(self) -> bool:
        """Return whether `garbage-collect` would succeed, without deleting anything."""
        try:
            self.collect_garbage("--dry-run")
        except CommandError:
            return False
        return True

    def manifest(self, repository: str, reference: str) -> Document | None:
        """Pull a manifest by tag or digest; None if the registry does not serve it."""
        status, body, _ = self._send(
            "GET", f"/v2/{repository}/manifests/{reference}", b"", {"Accept": _MANIFESTS}
        )
        return json.loads(body) if status == 200 else None

    def blob(self, repository: str, digest: str) -> bytes | None:
        """Pull a blob; None if the registry does not serve it."""
        try:
            status, body, _ = self._send("GET", f"/v2/{repository}/blobs/{digest}", b"", {})
        except (http.client.HTTPException, OSError):
            return None
        return body if status == 200 else None

    def _ask(
        self,
        status: int,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> str:
        """Send a request and return its answer's location; raise ValueError if the status differs."""
        answered, answer, location = self._send(method, path, body, headers or {})
        if answered != status:
            raise ValueError(f"{method} {path}: {answered} {answer.decode(errors='replace')}")
        return location

    def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        """Send a request; return status, body and location of the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        location = urlsplit(response.getheader("Location") or "")
        path = f"{location.path}?{location.query}" if location.query else location.path
        return response.status, answer, path

    def _answers(self) -> bool:
        if not self._daemon.running:
            raise ChildProcessError(f"the registry ended: {self._daemon.log_tail()}")
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self._port)) == 0


@contextmanager
def registry(folder: Path, version: str = "2.8.2", **options: Any) -> Iterator[Registry]:
    """Yield a running registry; kill it afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Registry(folder, version, **options)
    running.start()
    try:
        yield running
    finally:
        running.stop()
