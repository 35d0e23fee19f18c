"""A JSON array is read an element at a time, from pieces, as json reads it at once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_prom_exporter import json_array
from docker_prom_exporter.json_array import elements

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    value=JSON | st.lists(JSON),
    indent=st.none() | st.integers(0, 3),
    around=st.text(" \t\n\r", max_size=3),
    cut=st.integers(0, 5),
    length=st.integers(1, 20),
)
def test_reads_as_json_does(value: Any, indent: int | None, around: str, cut: int, length: int) -> None:
    """An element at a time, however it is spaced and cut; what is no array, or breaks off, is an error."""
    text = around + json.dumps(value, indent=indent, ensure_ascii=length % 2 == 0) + around
    text = text[: len(text) - cut]
    body = text.encode()
    pieces = [body[start : start + length] for start in range(0, len(body), length)]
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None

    if isinstance(expected, list):
        assert expected == [*elements(pieces)]
    else:
        with pytest.raises(ValueError, match=r"JSON array|\(char"):
            [*elements(pieces)]


def test_an_element_is_there_before_the_last_piece_is_read() -> None:
    """No more is read than it takes to see that the element has ended, or about as much again."""
    pieces = iter([b"[", b'{"Id":', b' "a"}', *[b', {"Id": "b"}'] * 100, b"]"])

    assert {"Id": "a"} == next(elements(pieces))
    assert len([*pieces]) > 90


def test_a_long_element_is_not_tried_with_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """An element of ten thousand pieces is tried a dozen times."""
    text = json.dumps(["x" * 1_000_000]).encode()
    pieces = [text[start : start + 100] for start in range(0, len(text), 100)]
    tries = 0

    def counted(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        return find(*arguments)

    find = json_array._next
    monkeypatch.setattr(json_array, "_next", counted)

    assert [1_000_000] == [len(element) for element in json_array.elements(pieces)]
    assert tries < 20
