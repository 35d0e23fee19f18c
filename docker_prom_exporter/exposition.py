"""Encode families once per change, gzip them, and assemble the answer to each scrape."""

from __future__ import annotations

import math
import threading
import time
import zlib
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import PLATFORM_COLLECTOR, PROCESS_COLLECTOR
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

_GZIP_WBITS: Final = 31
# Of 9. The compressor, which is kept, takes 160 KiB instead of the default's 256 KiB.
_GZIP_MEMORY: Final = 6


class Publication(NamedTuple):
    """The families to serve until the next publication. All samples of one have one name."""

    # One that is the same object as in the last publication is not encoded again.
    families: Sequence[Metric] = ()
    # Served instead of `families` after `trusted_until`.
    fallback: Sequence[Metric] = ()
    # About the exporter itself; they change with each publication.
    own: Sequence[Metric] = ()
    # On the monotonic clock.
    trusted_until: float = math.inf


class Answer(NamedTuple):
    """An encoded exposition in parts; gzipped, or plain."""

    body: tuple[bytes, ...]
    gzipped: bool


class Families:
    """Families as a prometheus-client collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


class Format(NamedTuple):
    """One of prometheus-client's two formats."""

    content_type: str
    encode: Callable[[Collector], bytes]


TEXT: Final = Format("text/plain; version=0.0.4; charset=utf-8", encode_text)
OPENMETRICS: Final = Format(
    "application/openmetrics-text; version=1.0.0; charset=utf-8", encode_openmetrics
)


class _EncodedFamily(NamedTuple):
    family: Metric
    sample_name: str  # empty without samples
    text: bytes


class Encoded(NamedTuple):
    """A publication in one format.

    The families are compressed once. A scrape copies the compressor, and adds its own.
    """

    families: tuple[_EncodedFamily, ...]
    zipped: bytes  # what the compressor has returned for `families`
    zipping: zlib._Compress  # its state after them
    own: bytes  # `Publication.own`, not compressed


def _encode(form: Format, publication: Publication, before: Encoded | None = None) -> Encoded:
    """Encode a publication.

    A family that is the same object as in `before` is not encoded again.
    """
    own = _text(form, publication.own)
    known: dict[int, _EncodedFamily] = {}
    if before is not None:
        for each in before.families:
            known[id(each.family)] = each
    # Nothing but `own` has changed, as after most polls.
    if before is not None and [*known] == [*map(id, publication.families)]:
        return before._replace(own=own)
    families = []
    zipped = b""
    zipping = zlib.compressobj(level=1, wbits=_GZIP_WBITS, memLevel=_GZIP_MEMORY)
    for family in publication.families:
        encoded = known.get(id(family)) or _encode_family(form, family)
        families.append(encoded)
        zipped += zipping.compress(encoded.text)
    return Encoded(tuple(families), zipped, zipping, own)


def _encode_family(form: Format, family: Metric) -> _EncodedFamily:
    # The samples of containers are generated, so they have no index.
    name = next((sample.name for sample in family.samples), "")
    return _EncodedFamily(family, name, _text(form, [family]))


def _text(form: Format, families: Iterable[Metric]) -> bytes:
    # The end is added once, by `render`.
    return form.encode(Families(families)).removesuffix(b"# EOF\n")


def _picked(
    form: Format,
    encoded: Iterable[_EncodedFamily],
    others: Iterable[Metric],
    names: Collection[str],
) -> tuple[bytes, ...]:
    """Return the families whose samples have one of the names."""
    texts = []
    for each in encoded:
        if each.sample_name in names:
            texts.append(each.text)
    rest = []
    for family in others:
        if family.samples and family.samples[0].name in names:
            rest.append(family)
    return *texts, form.encode(Families(rest))


class _Served(NamedTuple):
    """The served publication, encoded in each format requested so far."""

    publication: Publication
    encoded: dict[Format, Encoded]


class Exposition:
    """Serves the last publication. Any thread may call any method.

    The publishing thread encodes a publication in each format requested before. A scrape
    encodes only the families that are collected for it: `others`, `process_*` and
    `python_info`. The first scrape after `trusted_until` encodes `fallback`.
    """

    # Replaced as a whole, by the thread that holds `_encoding`; read without a lock.
    _served: _Served

    def __init__(
        self,
        others: Callable[[], Iterable[Metric]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._others = others
        self._clock = clock
        self._served = _Served(Publication(), {})
        self._encoding = threading.RLock()

    def publish(self, publication: Publication) -> None:
        """Replace the served publication.

        A scrape gets either all of the old one or all of the new one.
        """
        with self._encoding:
            encoded = {}
            for form, before in self._served.encoded.items():
                encoded[form] = _encode(form, publication, before)
            self._served = _Served(publication, encoded)

    def is_trusted(self) -> bool:
        """Return whether the last publication is recent enough."""
        return self._clock() <= self._served.publication.trusted_until

    def current_families(self) -> tuple[Metric, ...]:
        """Return the published `families`, or `fallback` after `trusted_until`."""
        return tuple(self._current().publication.families)

    def families(self) -> list[Metric]:
        """Return the current families and `own`, without `others` and `process_*`."""
        publication = self._current().publication
        return [*publication.families, *publication.own]

    def render(
        self, form: Format = TEXT, *, gzipped: bool = False, names: Collection[str] = ()
    ) -> Answer:
        """Answer a scrape: all families, or only the samples in `names` (`name[]`).

        With `names` the answer is not gzipped, so that no client makes the exporter
        compress for it alone.
        """
        current = self._current()
        encoded = current.encoded.get(form) or self._first(current, form)
        collected = chain(
            self._others(), PLATFORM_COLLECTOR.collect(), PROCESS_COLLECTOR.collect()
        )
        if names:
            own = current.publication.own
            body = _picked(form, encoded.families, chain(own, collected), names)
            return Answer(body, gzipped=False)
        rest = encoded.own + form.encode(Families(collected))
        if gzipped:
            zipping = encoded.zipping.copy()
            body = encoded.zipped, zipping.compress(rest) + zipping.flush()
            return Answer(body, gzipped=True)
        texts = [each.text for each in encoded.families]
        return Answer((*texts, rest), gzipped=False)

    def _current(self) -> _Served:
        """Return the publication to serve.

        After `trusted_until`, `fallback` replaces its `families`.
        """
        served = self._served
        publication = served.publication
        if self._clock() <= publication.trusted_until:
            return served
        # The first scrape that came too late has done the rest.
        if publication.families is publication.fallback:
            return served
        with self._encoding:
            # Unless another thread has published meanwhile.
            if self._served is served:
                self.publish(publication._replace(families=publication.fallback))
            return self._served

    def _first(self, current: _Served, form: Format) -> Encoded:
        """Encode in a format that was not requested before."""
        with self._encoding:
            if form not in current.encoded:
                current.encoded[form] = _encode(form, current.publication)
            return current.encoded[form]
