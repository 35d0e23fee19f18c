"""Manifests of every kind, and registry storages in the layout of distribution, written by tests."""

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

Document = dict[str, Any]

DOCKER = "application/vnd.docker.distribution.manifest"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


def digest_of(content: bytes) -> str:
    """Return the digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def text_of(document: Document) -> bytes:
    """Return the stored form of a manifest."""
    return json.dumps(document).encode()


def descriptor(content: bytes, media_type: str = OCI_LAYER, **more: Any) -> Document:
    """Return the descriptor of a blob."""
    return {
        "mediaType": media_type,
        "digest": digest_of(content),
        "size": len(content),
        **more,
    }


def image(*layers: bytes, config: bytes = CONFIG, **more: Any) -> Document:
    """Return the manifest of an OCI image."""
    described = descriptor(config, "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described}
    return {**manifest, "layers": [descriptor(layer) for layer in layers], **more}


def index(*children: Document, **more: Any) -> Document:
    """Return an OCI index of these manifests."""
    named = [descriptor(text_of(child), child["mediaType"]) for child in children]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": named, **more}


def content_of(document: Document) -> list[str]:
    """Return the digests of the layers and configs that a manifest names."""
    config = [document["config"]] if "config" in document else []
    entries = [*config, *document.get("layers", ()), *document.get("blobs", ())]
    for entry in document.get("manifests", ()):
        kind = str(entry.get("mediaType", "manifest"))
        if "manifest" not in kind and "index" not in kind:
            entries.append(entry)
    named = [entry["digest"] for entry in entries]
    return named + [entry["blobSum"] for entry in document.get("fsLayers", ())]


class HandMade:
    """A registry storage that a test writes to directly, without a registry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("repositories", "blobs"):
            (path / folder).mkdir(parents=True, exist_ok=True)

    def blob(self, content: bytes) -> str:
        """Write a blob and return its digest."""
        digest = digest_of(content)
        _write(self.data(digest), content)
        return digest

    def blobs(self, *contents: bytes) -> None:
        """Write blobs."""
        for content in contents:
            self.blob(content)

    def push(self, repository: str, document: Document, *tags: str) -> str:
        """Write a manifest, the links of all that it names, and tags; return its digest."""
        digest = self.blob(text_of(document))
        self.link(repository, digest)
        for blob in content_of(document):
            self.link_layer(repository, blob)
        for tag in tags:
            self.tag(repository, tag, digest)
        return digest

    def push_image(
        self, repository: str, *layers: bytes, tag: str = "latest", config: bytes = CONFIG
    ) -> str:
        """Write an image with all its blobs; return its digest."""
        self.blobs(config, *layers)
        return self.push(repository, image(*layers, config=config), *filter(None, [tag]))

    def link(self, repository: str, digest: str) -> None:
        """Link a manifest as a revision of the repository."""
        _write(self.revision(repository, digest), digest.encode())

    def link_layer(self, repository: str, digest: str, target: str = "") -> None:
        """Link a layer or config to the repository, under the name of `digest`."""
        _write(self.layer(repository, digest), (target or digest).encode())

    def unlink(self, repository: str, digest: str) -> None:
        """Remove the link of a revision but not its folder, as a delete by digest does."""
        self.revision(repository, digest).unlink()

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """Point a tag to a manifest."""
        _write(self.tag_link(repository, tag), digest.encode())

    def upload(self, repository: str, content: bytes) -> None:
        """Write an upload that is not complete."""
        _write(self.repository(repository) / "_uploads" / str(uuid.uuid4()) / "data", content)

    def repository(self, name: str) -> Path:
        """Return the folder of a repository."""
        return self.path / "repositories" / name

    def tag_link(self, repository: str, tag: str) -> Path:
        """Return the file that links a tag to its manifest."""
        return self.repository(repository) / "_manifests/tags" / tag / "current/link"

    def revision(self, repository: str, digest: str) -> Path:
        """Return the file that links a manifest as a revision of the repository."""
        return (
            self.repository(repository)
            / "_manifests/revisions"
            / digest.replace(":", "/")
            / "link"
        )

    def layer(self, repository: str, digest: str) -> Path:
        """Return the file that links a layer or config to the repository."""
        return self.repository(repository) / "_layers" / digest.replace(":", "/") / "link"

    def data(self, digest: str) -> Path:
        """Return the file of a blob."""
        return data(self.path, digest)


def data(storage: Path, digest: str) -> Path:
    """Return the file of a blob in a storage."""
    algorithm, _, name = digest.partition(":")
    return storage / "blobs" / algorithm / name[:2] / name / "data"


def sizes(storage: Path) -> dict[str, int]:
    """Return the size of each blob on disk in bytes, by digest."""
    files = (storage / "blobs").glob("*/*/*/data")
    return {f"{file.parts[-4]}:{file.parts[-2]}": file.stat().st_size for file in files}


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def crowd(path: Path, *, repositories: int, tags: int) -> HandMade:
    """Write a storage with many tags; each is an image of one own layer on the repository's common layers."""
    storage = HandMade(path)
    for number in range(repositories):
        common = [f"base {number} {layer} ".encode() * 10 for layer in range(5)]
        for tag in range(tags):
            own = f"{number} {tag}".encode()
            storage.push_image(
                f"team-{number % 20}/app-{number}",
                *common,
                own,
                tag=f"1.{tag}",
                config=CONFIG + own,
            )
    return storage


def crowd_of_indexes(path: Path, *, repositories: int, tags: int) -> HandMade:
    """Write a storage with many tags of the shape that buildx pushes.

    Each is an index of two images, of one own layer on five of the repository's, and of two
    attestations, of one own layer: provenance.
    """
    storage = HandMade(path)
    for number in range(repositories):
        name = f"team-{number % 20}/app-{number}"
        common = [f"base {number} {layer} ".encode() * 10 for layer in range(5)]
        for tag in range(tags):
            children = []
            for platform in range(2):
                own = f"{number} {tag} {platform}".encode()
                for layers in ([*common, own], [b"provenance " + own]):
                    config = CONFIG + layers[-1]
                    storage.push_image(name, *layers, tag="", config=config)
                    children.append(image(*layers, config=config))
            storage.push(name, index(*children), f"1.{tag}")
    return storage
