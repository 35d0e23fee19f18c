"""Owns a JSON array read from pieces of its text, an element at a time: never is all of it in memory read."""

from __future__ import annotations

import codecs
import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SPACE: Final = r"[ \t\n\r]*"  # RFC 8259, section 2
_OPENING: Final = re.compile(rf"{_SPACE}\[{_SPACE}(?:(?P<end>\])|(?=\S))")
_COMMA: Final = re.compile(rf"{_SPACE}(?:(?P<end>\])|,{_SPACE})")
_FOLLOWING: Final = re.compile(rf"{_SPACE}[,\]]")
_DECODER: Final = json.JSONDecoder()


def elements(pieces: Iterable[bytes]) -> Iterator[Any]:
    """Yield the elements; raise `ValueError` once the text turns out to be no JSON array."""
    texts = codecs.iterdecode(pieces, "utf-8", "replace")
    text, position, mark, wanted = "", 0, _OPENING, 1
    while True:
        try:
            ended, element, end = _next(text, position, mark)
        except ValueError:
            more = "".join(islice(texts, wanted))
            if not more:
                raise
            text, position, wanted = text[position:] + more, 0, 2 * wanted
            continue
        if ended:
            break
        yield element
        position, mark, wanted = end, _COMMA, 1
    if not re.fullmatch(_SPACE, text[end:] + "".join(texts)):
        raise ValueError("something follows the JSON array")


def _next(text: str, position: int, mark: re.Pattern[str]) -> tuple[bool, Any, int]:
    """Return whether the array ends at the mark, else the element behind it, and the position after that.

    Raises `ValueError`, too, where the text ends before what follows the element: it could go on.
    """
    found = mark.match(text, position)
    if found is None:
        raise ValueError("the answer is no JSON array")
    if found["end"]:
        return True, None, found.end()
    element, end = _DECODER.raw_decode(text, found.end())
    if not _FOLLOWING.match(text, end):
        raise ValueError("the JSON array breaks off")
    return False, element, end
