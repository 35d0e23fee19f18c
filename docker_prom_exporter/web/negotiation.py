"""What a client accepts: `Accept` and `Accept-Encoding`, with qualities (RFC 9110)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.exposition import OPENMETRICS, TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from docker_prom_exporter.exposition import Format

# A longer header counts as absent: a client could make reading it take half a second of CPU.
_MAX_LENGTH: Final = 1000
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")

# What a client may name that gets the text format.
_TEXT_RANGES: Final = ("text/plain", "text/*", "*/*")

# Prometheus's escaping schemes for names. All names of the exporter are the same in each.
_ESCAPINGS: Final = ("allow-utf-8", "underscores", "dots", "values")


class _Range(NamedTuple):
    """An entry of a header."""

    name: str  # a media type or a coding, in lower case
    quality: float  # from 0, refused, to 1
    parameters: dict[str, str]  # without the quality


_REFUSED: Final = _Range("", 0, {})


def choose_exposition(accept: str) -> tuple[Format, str]:
    """Return the format of a scrape, and its content type.

    OpenMetrics is chosen if the client names version 1.0.0, or none, and prefers nothing
    else to it. If the chosen range has a valid `escaping`, the content type repeats it,
    as Prometheus 3 expects.
    """
    text = openmetrics = _REFUSED
    for each in _ranges(accept):
        if each.name in _TEXT_RANGES:
            text = _better(text, each)
        elif each.name == "application/openmetrics-text" and _is_1_0(each):
            openmetrics = _better(openmetrics, each)
    form, chosen = TEXT, text
    if openmetrics.quality > 0 and openmetrics.quality >= text.quality:
        form, chosen = OPENMETRICS, openmetrics
    escaping = chosen.parameters.get("escaping")
    if escaping in _ESCAPINGS:
        return form, f"{form.content_type}; escaping={escaping}"
    return form, form.content_type


def _is_1_0(openmetrics: _Range) -> bool:
    # A client that names no version takes any.
    return openmetrics.parameters.get("version", "1.0.0") == "1.0.0"


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client names gzip, with a quality above 0."""
    return _quality(_ranges(accept_encoding), "gzip") > 0


def prefers_html(accept: str) -> bool:
    """Return whether a client prefers HTML to text and OpenMetrics, as browsers do."""
    ranges = [*_ranges(accept)]
    html = _quality(ranges, "text/html")
    other = _quality(ranges, "text/plain", "application/openmetrics-text")
    return html > 0 and html >= other


def _better(best: _Range, other: _Range) -> _Range:
    """Return the range with the higher quality, the first of equals."""
    if other.quality > best.quality:
        return other
    return best


def _quality(ranges: Iterable[_Range], *names: str) -> float:
    """Return the highest quality of the ranges with these names, 0 without one."""
    best = _REFUSED
    for each in ranges:
        if each.name in names:
            best = _better(best, each)
    return best.quality


def _ranges(header: str) -> Iterator[_Range]:
    """Yield the entries of a header that are well-formed."""
    if len(header) > _MAX_LENGTH:
        return
    for choice in header.lower().split(","):
        name, *pairs = choice.split(";")
        name = name.strip()
        parameters = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            parameters[key.strip()] = value.strip().strip('"')
        quality = parameters.pop("q", "1")
        if name and _QUALITY.fullmatch(quality):
            yield _Range(name, float(quality), parameters)
