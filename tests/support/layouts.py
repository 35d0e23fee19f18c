"""An image for many platforms, as registries store it, in the form that `docker load` reads."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PLATFORMS = ("386", "amd64", "arm/v5", "arm/v7", "arm64/v8", "ppc64le", "riscv64", "s390x")
"""The architecture and variant of each platform of Docker's official images."""

LAYERS = 8
"""The number of layers on each platform. The engine looks at all layers whenever it lists a container."""

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ATTESTATION = "application/vnd.in-toto+json"

Descriptor = dict[str, Any]


def oci_layout(name: str, root: bytes) -> bytes:
    """Return a tar archive of an OCI layout: the image has the root file system `root` on each platform.

    Like an index from BuildKit, its index also has an attestation for each platform. The format is that of
    https://github.com/opencontainers/image-spec/blob/main/image-layout.md.
    """
    layout = _Layout()
    contents = [root, *(_tar_archive({f"layer-{number}": b""}) for number in range(1, LAYERS))]
    layers = [layout.add(_LAYER, content) for content in contents]
    images = [layout.image(platform, layers) for platform in PLATFORMS]
    attestations = [layout.attestation(image["digest"]) for image in images]
    index = layout.add_json(
        _INDEX, {"schemaVersion": 2, "manifests": [*images, *attestations]}
    )
    named = {**index, "annotations": {"io.containerd.image.name": f"docker.io/library/{name}"}}
    return layout.archive(named)


@dataclass
class _Layout:
    blobs: dict[str, bytes] = field(default_factory=dict)

    def add(self, media_type: str, content: bytes) -> Descriptor:
        """Add a blob and return its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def add_json(self, media_type: str, content: Mapping[str, Any]) -> Descriptor:
        return self.add(media_type, json.dumps({"mediaType": media_type, **content}).encode())

    def image(self, platform: str, layers: Sequence[Descriptor]) -> Descriptor:
        architecture, _, variant = platform.partition("/")
        described = {
            "os": "linux",
            "architecture": architecture,
            **({"variant": variant} if variant else {}),
        }
        return {**self._manifest(described, layers), "platform": described}

    def attestation(self, image: str) -> Descriptor:
        unknown = {"os": "unknown", "architecture": "unknown"}
        statement = json.dumps(
            {"_type": "https://in-toto.io/Statement/v0.1", "subject": image}
        ).encode()
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image,
        }
        manifest = self._manifest(unknown, [self.add(_ATTESTATION, statement)])
        return {**manifest, "platform": unknown, "annotations": annotations}

    def archive(self, index: Descriptor) -> bytes:
        """Return a tar archive of the layout."""
        files = {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [index]}).encode(),
            **{f"blobs/sha256/{digest}": content for digest, content in self.blobs.items()},
        }
        return _tar_archive(files)

    def _manifest(
        self, platform: Mapping[str, str], layers: Sequence[Descriptor]
    ) -> Descriptor:
        root = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = self.add_json(_CONFIG, {**platform, "config": {}, "rootfs": root})
        return self.add_json(
            _MANIFEST, {"schemaVersion": 2, "config": config, "layers": layers}
        )


def _tar_archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of these files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()
