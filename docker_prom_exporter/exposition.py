"""Encode families once per change, gzip them, and assemble the answer to each scrape."""

from __future__ import annotations

import math
import re
import threading
import time
import zlib
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import PLATFORM_COLLECTOR, PROCESS_COLLECTOR
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.exposition import gzip_accepted
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

_SAMPLE_NAME: Final = re.compile(rb"(?:#[^\n]*\n)*([^{ \n]+)")
_GZIP_WBITS: Final = 31
_GZIP_MEMORY: Final = 6  # of 9: the kept compressor takes 160 KiB, not the default's 256 KiB


class Publication(NamedTuple):
    """The families to serve until the next publication.

    A family in `families` that is the same object as in the last publication is not encoded again. After
    `trusted_until`, a time on the monotonic clock, `fallback` replaces `families`. `own` are the exporter's
    own families, which change with each publication. All samples of a family have one name.
    """

    families: Sequence[Metric] = ()
    fallback: Sequence[Metric] = ()
    own: Sequence[Metric] = ()
    trusted_until: float = math.inf


class Answer(NamedTuple):
    """An encoded exposition; `content_encoding` is `gzip` or empty."""

    content_type: str
    content_encoding: str
    body: tuple[bytes, ...]


class Families:
    """Families as a prometheus-client collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


class _Format(NamedTuple):
    """One of prometheus-client's two formats."""

    content_type: str
    encode: Callable[[Collector], bytes]


_TEXT: Final = _Format("text/plain; version=0.0.4; charset=utf-8", encode_text)
_OPENMETRICS: Final = _Format(
    "application/openmetrics-text; version=1.0.0; charset=utf-8", encode_openmetrics
)


class _Page(NamedTuple):
    """A publication in one format; `zipping` is the compressor state between `zipped` families and `own`."""

    families: Sequence[Metric]
    encoded: Sequence[bytes]
    zipped: bytes
    zipping: zlib._Compress
    own: bytes


def _page(form: _Format, publication: Publication, before: _Page | None = None) -> _Page:
    """Encode a publication; families that are in the page before are not encoded again."""

    def encoded(families: Sequence[Metric]) -> bytes:
        return form.encode(Families(families)).removesuffix(b"# EOF\n")

    own, families = encoded(publication.own), publication.families
    known = dict(zip(map(id, before.families), before.encoded, strict=True)) if before else {}
    if before and [*known] == [*map(id, families)]:
        return before._replace(own=own)
    parts = [known.get(id(family)) or encoded([family]) for family in families]
    zipping = zlib.compressobj(level=1, wbits=_GZIP_WBITS, memLevel=_GZIP_MEMORY)
    return _Page(families, parts, b"".join(map(zipping.compress, parts)), zipping, own)


def _sample_name(encoded: bytes) -> str | None:
    """Return the name of an encoded family's samples; None if it has no samples."""
    match = _SAMPLE_NAME.match(encoded)
    return match and match[1].decode()


class _Published(NamedTuple):
    """The served publication, and its page in each format requested so far."""

    publication: Publication
    pages: dict[_Format, _Page]


class Exposition:
    """Serves the last publication. Any thread may call any method.

    The publishing thread encodes a publication in each format requested before. A scrape encodes only the
    families that are collected for it: `others`, `process_*` and `python_info`. The first scrape after
    `trusted_until` encodes `fallback`.
    """

    def __init__(
        self,
        others: Callable[[], Iterable[Metric]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._others = others
        self._clock = clock
        self._published = _Published(Publication(), {})
        self._encoding = threading.RLock()

    def publish(self, publication: Publication) -> None:
        """Replace the served publication; a scrape gets either all of the old one or all of the new one."""
        with self._encoding:
            before = self._published.pages.items()
            pages = {form: _page(form, publication, page) for form, page in before}
            self._published = _Published(publication, pages)

    def is_trusted(self) -> bool:
        """Return whether the last publication is recent enough."""
        return self._clock() <= self._published.publication.trusted_until

    def current_families(self) -> tuple[Metric, ...]:
        """Return the published `families`, or `fallback` after `trusted_until`."""
        return tuple(self._current().publication.families)

    def families(self) -> list[Metric]:
        """Return the current families and the published `own`, without `others` and `process_*`."""
        publication = self._current().publication
        return [*publication.families, *publication.own]

    def render(
        self, accept: str = "", accept_encoding: str = "", names: Collection[str] = ()
    ) -> Answer:
        """Answer a scrape with these headers: all families, or only the samples in `names` (`name[]`).

        With `names` the answer is not gzipped, so that no client makes the exporter compress for it alone.
        """
        form = _OPENMETRICS if accepts_openmetrics(accept) else _TEXT
        current = self._current()
        page = current.pages.get(form) or self._first_page(current, form)
        collected = chain(
            self._others(), PLATFORM_COLLECTOR.collect(), PROCESS_COLLECTOR.collect()
        )
        if names:
            named = [text for text in page.encoded if _sample_name(text) in names]
            others = chain(current.publication.own, collected)
            picked = Families(
                each for each in others if each.samples and each.samples[0].name in names
            )
            return Answer(form.content_type, "", (*named, form.encode(picked)))
        rest = page.own + form.encode(Families(collected))
        if not gzip_accepted(accept_encoding):
            return Answer(form.content_type, "", (*page.encoded, rest))
        zipping = page.zipping.copy()
        return Answer(
            form.content_type, "gzip", (page.zipped, zipping.compress(rest) + zipping.flush())
        )

    def _current(self) -> _Published:
        """Return the publication to serve; after `trusted_until`, `fallback` replaces its `families`."""
        published = self._published
        publication = published.publication
        if (
            self._clock() <= publication.trusted_until
            or publication.families is publication.fallback
        ):
            return published
        with self._encoding:
            if self._published is published:
                self.publish(publication._replace(families=publication.fallback))
            return self._published

    def _first_page(self, current: _Published, form: _Format) -> _Page:
        with self._encoding:
            if form not in current.pages:
                current.pages[form] = _page(form, current.publication)
            return current.pages[form]


def media_ranges(accept: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each media range of an `Accept` header, and its parameters, all in lower case."""
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        yield media_type, {name: value.strip('"') for name, _, value in pairs}


def accepts_openmetrics(accept: str) -> bool:
    """Return whether an `Accept` header has OpenMetrics with version 1.0.0, or without a version."""
    openmetrics = (
        values
        for name, values in media_ranges(accept)
        if name == "application/openmetrics-text"
    )
    return "1.0.0" in (values.get("version", "1.0.0") for values in openmetrics)
