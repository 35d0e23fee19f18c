"""OCI image layouts, in a folder or in the form that `docker load` reads.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md describes the format.
"""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from support.archives import archive
from support.storages import (
    OCI_INDEX,
    OCI_MANIFEST,
    Document,
    descriptor,
    digest_of,
    image,
    index,
    text_of,
)

PLATFORMS = ("386", "amd64", "arm/v5", "arm/v7", "arm64/v8", "ppc64le", "riscv64", "s390x")
"""The architecture and variant of each platform of Docker's official images."""

LAYERS = 8
"""The number of layers on each platform. The engine looks at all layers whenever it lists a container."""

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ATTESTATION = "application/vnd.in-toto+json"
_UNKNOWN = {"os": "unknown", "architecture": "unknown"}


def loadable(name: str, root: bytes) -> bytes:
    """Return an archive of an image that has the root file system `root` on each platform.

    Like an index from BuildKit, its index also has an attestation for each platform.
    """
    layers = [root, *(archive({f"layer-{number}": b""}) for number in range(1, LAYERS))]
    blobs, images, attestations = [*layers], list[Document](), list[Document]()
    for platform in map(_platform, PLATFORMS):
        config = _config(platform, layers)
        manifest = image(config=config, layers=[descriptor(each, _LAYER) for each in layers])
        images.append(_entry(manifest, platform))
        statement = text_of(
            {
                "_type": "https://in-toto.io/Statement/v0.1",
                "subject": images[-1]["digest"],
            }
        )
        unknown = _config(_UNKNOWN, [statement])
        attestation = image(config=unknown, layers=[descriptor(statement, _ATTESTATION)])
        about = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": images[-1]["digest"],
        }
        attestations.append({**_entry(attestation, _UNKNOWN), "annotations": about})
        blobs += [config, text_of(manifest), statement, unknown, text_of(attestation)]
    top = text_of(index(manifests=[*images, *attestations]))
    named = {"io.containerd.image.name": f"docker.io/library/{name}"}
    entry = descriptor(top, OCI_INDEX, annotations=named)
    return archive(_files(entry, [*blobs, top]))


def write_layout(folder: Path, *images: Sequence[bytes]) -> tuple[list[Document], list[bytes]]:
    """Write a layout of one image, or of an index of several; return the manifests and all blobs.

    Each image is given as the contents of its layers. The images have different architectures.
    """
    blobs: list[bytes] = []
    manifests: list[Document] = []
    entries: list[Document] = []
    for layers, architecture in zip(images, ("amd64", "arm64", "s390x"), strict=False):
        platform = _platform(architecture)
        zipped = [gzip.compress(layer, mtime=0) for layer in layers]
        config = _config(platform, layers)
        manifests.append(image(*zipped, config=config))
        entries.append(_entry(manifests[-1], platform))
        blobs += [*zipped, config, text_of(manifests[-1])]
    if len(images) > 1:
        blobs.append(text_of(index(manifests=entries)))
        entries = [descriptor(blobs[-1], OCI_INDEX)]
    for name, content in _files(entries[0], blobs).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return manifests, blobs


def _platform(text: str) -> dict[str, str]:
    architecture, _, variant = text.partition("/")
    platform = {"os": "linux", "architecture": architecture}
    return {**platform, "variant": variant} if variant else platform


def _config(platform: Mapping[str, str], layers: Iterable[bytes]) -> bytes:
    """Return the configuration of an image with these layers, which are not compressed."""
    root = {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}
    return text_of({**platform, "config": {}, "rootfs": root})


def _entry(manifest: Document, platform: Mapping[str, str]) -> Document:
    """Return the entry of a manifest in an index."""
    return descriptor(text_of(manifest), OCI_MANIFEST, platform=platform)


def _files(entry: Document, blobs: Iterable[bytes]) -> dict[str, bytes]:
    """Return the files of a layout whose only top entry is this one."""
    contents = {f"blobs/{digest_of(blob).replace(':', '/')}": blob for blob in blobs}
    top = text_of({"schemaVersion": 2, "manifests": [entry]})
    return {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": top, **contents}
