"""Parts that were deflated one by one make one gzip member that everybody can read."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from docker_prom_exporter.gzipped import deflated, gzipped, plain

LONG = b'container_health{id="4c01db0b339c",name="web"} 4.0\n' * 5000


def unzipped(body: bytes) -> bytes:
    """Read one member, as curl does: nothing may come behind it."""
    zipped = zlib.decompressobj(wbits=31)
    text = zipped.decompress(body)

    assert (True, b"") == (zipped.eof, zipped.unused_data)
    return text


@given(parts=st.lists(st.lists(st.binary() | st.sampled_from([LONG, bytes(70_000)]), max_size=3), max_size=6))
def test_parts_make_one_member(parts: list[list[bytes]]) -> None:
    """Whatever the parts and however many: nothing is lost, and length and check sum are right."""
    expected = b"".join(text for texts in parts for text in texts)

    assert expected == unzipped(b"".join(gzipped(map(deflated, parts))))


def test_a_part_serves_again() -> None:
    """A part is good in any place of any answer, and goes out as it is."""
    part = deflated([LONG])

    assert LONG + b"first" + LONG == unzipped(b"".join(gzipped([part, deflated([b"first"]), part])))
    assert part.data is gzipped([deflated([b"new"]), part])[2]


def test_it_is_worth_it() -> None:
    """Lines that are much alike take a fraction of their length."""
    assert len(deflated([LONG]).data) * 50 < len(LONG)


def test_plain() -> None:
    """What is not zipped goes out as it is."""
    assert (LONG, len(LONG)) == plain([LONG[:9], LONG[9:]])[:2]
