"""What a client accepts: `Accept` and `Accept-Encoding`, with qualities (RFC 9110)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.exposition import OPENMETRICS, TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from docker_prom_exporter.exposition import Format

_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")

# What a client that names none of the formats may mean by "anything", with its text range
# first.
_TEXT_RANGES: Final = ("text/plain", "text/*", "*/*")

# Prometheus's escaping schemes for names. All names of the exporter are the same in each.
_ESCAPINGS: Final = ("allow-utf-8", "underscores", "dots", "values")


class _Range(NamedTuple):
    """A media type or a coding in lower case, with its quality and parameters."""

    name: str
    quality: float
    parameters: dict[str, str]


def choose_exposition(accept: str) -> tuple[Format, str]:
    """Return the format of a scrape, and its content type.

    OpenMetrics is chosen if the client names version 1.0.0, or none, and prefers nothing else
    to it. If the chosen range has a valid `escaping`, the content type repeats it, as
    Prometheus 3 expects.
    """
    ranges = [*_ranges(accept)]
    understood = [each for each in ranges if each.parameters.get("version") in (None, "1.0.0")]
    openmetrics = _best(understood, "application/openmetrics-text")
    form, chosen = TEXT, _best(ranges, *_TEXT_RANGES)
    if openmetrics is not None and openmetrics.quality >= _quality(chosen):
        form, chosen = OPENMETRICS, openmetrics
    escaping = chosen.parameters.get("escaping") if chosen else None
    if escaping in _ESCAPINGS:
        return form, f"{form.content_type}; escaping={escaping}"
    return form, form.content_type


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client names gzip, with a quality above 0."""
    return _best(_ranges(accept_encoding), "gzip") is not None


def prefers_html(accept: str) -> bool:
    """Return whether a client prefers HTML to text and OpenMetrics, as browsers do."""
    ranges = [*_ranges(accept)]
    html = _best(ranges, "text/html")
    other = _best(ranges, "text/plain", "application/openmetrics-text")
    return html is not None and html.quality >= _quality(other)


def _best(ranges: Iterable[_Range], *names: str) -> _Range | None:
    """Return the range with the highest quality above 0, the first of equals.

    `None` without one.
    """
    best = None
    for each in ranges:
        if each.name in names and each.quality > _quality(best):
            best = each
    return best


def _quality(best: _Range | None) -> float:
    return 0 if best is None else best.quality


def _ranges(header: str) -> Iterator[_Range]:
    """Yield the entries of a header; those whose quality is malformed are left out."""
    for choice in header.lower().split(","):
        name, *pairs = (part.strip() for part in choice.split(";"))
        parameters = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            parameters[key.strip()] = value.strip().strip('"')
        quality = parameters.pop("q", "1")
        if name and _QUALITY.fullmatch(quality):
            yield _Range(name, float(quality), parameters)
