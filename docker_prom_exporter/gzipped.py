"""Owns gzip made of parts that are deflated one by one, so that a part that stays need not be deflated again.

It is one member, as a scrape is one answer: of several in a row, curl and browsers take the first for all.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# Lines that are much alike are found in a small window, too; zlib's usual one takes 260 kB while it works.
_LEVEL: Final = 1
_WINDOW_BITS: Final = -12
_MEMORY_LEVEL: Final = 5

_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # RFC 1952, section 2.3: no name, no time
_LAST_BLOCK: Final = b"\x03\x00"
_POLYNOMIAL: Final = 0xEDB88320
_ONE: Final = 1 << 31


class Part(NamedTuple):
    """Some bytes of an answer: as they go out, the length of what they tell, and its CRC-32."""

    data: bytes
    size: int
    crc: int


def plain(texts: Iterable[bytes]) -> Part:
    """Leave a part as it is, for an answer that is not gzip."""
    text = b"".join(texts)
    return Part(text, len(text), 0)


def deflated(texts: Iterable[bytes]) -> Part:
    """Deflate a part; it ends at a byte, and nothing in it refers to what is before."""
    zipping = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS, memLevel=_MEMORY_LEVEL)
    data = []
    size = crc = 0
    for text in texts:
        data.append(zipping.compress(text))
        size += len(text)
        crc = zlib.crc32(text, crc)
    return Part(b"".join([*data, zipping.flush(zlib.Z_FULL_FLUSH)]), size, crc)


def gzipped(parts: Iterable[Part]) -> tuple[bytes, ...]:
    """Put deflated parts together, none of them copied, to the gzip of what they were."""
    body = [_HEADER]
    size = crc = 0
    for part in parts:
        body.append(part.data)
        size += part.size
        crc = _product(crc, _shift(part.size)) ^ part.crc
    return (*body, _LAST_BLOCK + struct.pack("<LL", crc, size & 0xFFFFFFFF))


# zlib's crc32_combine, which Python's zlib lacks. A CRC is a polynomial over GF(2), its highest power in the
# lowest bit; with n bytes behind it, it is multiplied by x to the 8n, modulo CRC-32's own polynomial.


def _product(a: int, b: int) -> int:
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=64)
def _shift(size: int) -> int:
    """Return x to the power of 8 times `size`."""
    power, square = _ONE, _ONE >> 8
    while size:
        if size & 1:
            power = _product(power, square)
        square = _product(square, square)
        size >>= 1
    return power
