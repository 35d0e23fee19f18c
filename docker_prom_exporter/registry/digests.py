"""Digests as bytes, which take half the memory; the length tells the algorithm."""

from __future__ import annotations

from binascii import unhexlify
from typing import Final

WIDTHS: Final = {"sha256": 32, "sha384": 48, "sha512": 64}  # algorithm → bytes of a digest

_ALGORITHMS: Final = {width: algorithm for algorithm, width in WIDTHS.items()}


def from_name(algorithm: str, name: str) -> bytes | None:
    """Return the digest that a folder `name` stands for, None if the name is not one."""
    if len(name) != 2 * WIDTHS.get(algorithm, 0) or name != name.lower():
        return None
    try:
        return unhexlify(name)
    except ValueError:
        return None


def from_text(text: str) -> bytes | None:
    """Return the digest of a text like `sha256:…`, None if it is not one."""
    algorithm, _, name = text.partition(":")
    return from_name(algorithm, name)


def algorithm(digest: bytes) -> str:
    """Return the algorithm of a digest, like `sha256`."""
    return _ALGORITHMS[len(digest)]


def as_text(digest: bytes) -> str:
    """Return a digest as manifests and links have it: `sha256:…`."""
    return f"{algorithm(digest)}:{digest.hex()}"
