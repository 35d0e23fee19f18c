"""Debian's registry on a free port of this machine, with pushes by skopeo or of single manifests."""

import gzip
import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from support.missing import require_program
from support.ports import free_port
from support.processes import Command, Daemon
from support.storages import Document, descriptor, digest_of, image, text_of
from support.waiting import wait_for

_CONFIG = """
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Registry:
    """A registry that stores its images in a folder."""

    def __init__(self, folder: Path) -> None:
        """Choose a free port, and write the configuration to `folder`."""
        self._folder = folder
        self._port = free_port()
        self._config = folder / "registry.yml"
        self._config.write_text(_CONFIG.format(root=folder / "data", port=self._port))
        self._program = Command(
            [require_program("docker-registry")], {"OTEL_TRACES_EXPORTER": "none"}
        )
        self._daemon = Daemon(folder / "registry.log")
        self.storage = folder / "data/docker/registry/v2"

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
            self._push_blob(repository, blob)
        text = text_of(document)
        kind = {"Content-Type": document["mediaType"]}
        self._ask(
            201, "PUT", f"/v2/{repository}/manifests/{tag or digest_of(text)}", text, kind
        )
        return digest_of(text)

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest and the tags that point to it."""
        self._ask(202, "DELETE", f"/v2/{repository}/manifests/{digest}")

    def begin_upload(self, repository: str, content: bytes) -> None:
        """Begin an upload and do not complete it."""
        location = self._ask(202, "POST", f"/v2/{repository}/blobs/uploads/")
        self._ask(
            202, "PATCH", location, content, {"Content-Type": "application/octet-stream"}
        )

    def collect_garbage(self, *options: str, check: bool = True) -> None:
        """Run the registry's `garbage-collect`."""
        self._program.run("garbage-collect", *options, str(self._config), check=check)

    def _push_blob(self, repository: str, content: bytes) -> None:
        location = self._ask(202, "POST", f"/v2/{repository}/blobs/uploads/")
        mark = "&" if "?" in location else "?"
        self._ask(201, "PUT", f"{location}{mark}digest={digest_of(content)}", content)

    def _ask(
        self,
        status: int,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> str:
        """Send a request and return its answer's location; raise ValueError if the status differs."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            answer = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status != status:
            raise ValueError(f"{method} {path}: {response.status} {answer}")
        location = urlsplit(response.getheader("Location") or "")
        return f"{location.path}?{location.query}" if location.query else location.path

    def _answers(self) -> bool:
        if not self._daemon.running:
            raise ChildProcessError(f"the registry ended: {self._daemon.log_tail()}")
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self._port)) == 0


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Yield a running registry; kill it afterwards."""
    running = Registry(folder)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def write_layout(folder: Path, *images: Sequence[bytes]) -> tuple[list[Document], list[bytes]]:
    """Write an OCI layout of one image, or of an index of several; return the manifests and all blobs.

    Each image is given as the contents of its layers. The images have different architectures.
    """
    blobs: list[bytes] = []
    manifests = []
    for number, layers in enumerate(images):
        zipped = [gzip.compress(layer, mtime=0) for layer in layers]
        config = text_of(
            {
                "architecture": ("amd64", "arm64", "s390x")[number],
                "os": "linux",
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [digest_of(layer) for layer in layers],
                },
            }
        )
        manifests.append(image(*zipped, config=config))
        blobs += [*zipped, config, text_of(manifests[-1])]
    described = [
        descriptor(text_of(manifest), manifest["mediaType"]) for manifest in manifests
    ]
    top: Document = {"schemaVersion": 2, "manifests": described}
    if len(images) > 1:
        for entry, architecture in zip(described, ("amd64", "arm64", "s390x"), strict=False):
            entry["platform"] = {"architecture": architecture, "os": "linux"}
        nested = text_of({**top, "mediaType": "application/vnd.oci.image.index.v1+json"})
        blobs.append(nested)
        top = {
            "schemaVersion": 2,
            "manifests": [descriptor(nested, "application/vnd.oci.image.index.v1+json")],
        }
    (folder / "blobs/sha256").mkdir(parents=True)
    for blob in blobs:
        (folder / "blobs/sha256" / digest_of(blob).partition(":")[2]).write_bytes(blob)
    (folder / "index.json").write_bytes(text_of(top))
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    return manifests, blobs
