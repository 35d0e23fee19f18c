"""Families to bytes: encoded once a change, gzipped, and put together for each scrape."""

from __future__ import annotations

import math
import re
import threading
import time
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.exposition import gzip_accepted
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

_EOF: Final = b"# EOF\n"
_SAMPLE_NAME: Final = re.compile(rb"(?:#[^\n]*\n)*([^{ \n]+)")
_GZIP_WBITS: Final = 31


class Publication(NamedTuple):
    """What is to be served from now on.

    `families` are kept encoded: one that is the same object as in the last publication is not encoded again.
    Once `trusted_until`, a time on the monotonic clock, is over, `fallback` stands in for them. `own` are
    those of the exporter itself, which change with each publication. All samples of a family have one name.
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
    """One of prometheus-client's two formats. `end` is what it writes last."""

    content_type: str
    encode: Callable[[Collector], bytes]
    end: bytes

    def encoded(self, families: Iterable[Metric]) -> bytes:
        return self.encode(Families(families)).removesuffix(_EOF)


_TEXT: Final = _Format("text/plain; version=0.0.4; charset=utf-8", encode_text, b"")
_OPENMETRICS: Final = _Format(
    "application/openmetrics-text; version=1.0.0; charset=utf-8", encode_openmetrics, _EOF
)


class _Kept:
    """Encoded families, as they are and gzipped up to where the rest of an answer follows."""

    def __init__(self, families: Sequence[Metric], encoded: Sequence[bytes]) -> None:
        self.families = families
        self.encoded = encoded
        self._zipping = zlib.compressobj(level=1, wbits=_GZIP_WBITS)
        self._zipped = b"".join(map(self._zipping.compress, encoded))

    def gzipped(self, rest: bytes) -> tuple[bytes, ...]:
        zipping = self._zipping.copy()
        return self._zipped, zipping.compress(rest) + zipping.flush()

    def named(self, names: set[str]) -> Iterator[bytes]:
        found = ((text, _SAMPLE_NAME.match(text)) for text in self.encoded)
        return (text for text, name in found if name and name[1].decode() in names)

    def updated(self, families: Sequence[Metric], form: _Format) -> _Kept:
        known = {id(family): text for family, text in zip(self.families, self.encoded, strict=True)}
        if list(map(id, families)) == list(known):
            return self
        return _Kept(families, [known.get(id(family)) or form.encoded([family]) for family in families])


class _Page(NamedTuple):
    """A publication in one format."""

    publication: Publication
    families: _Kept
    fallback: _Kept
    own: bytes

    def updated(self, publication: Publication, form: _Format) -> _Page:
        return _Page(
            publication,
            self.families.updated(publication.families, form),
            self.fallback.updated(publication.fallback, form),
            form.encoded(publication.own),
        )


_EMPTY: Final = _Page(Publication(), _Kept((), ()), _Kept((), ()), b"")


class Exposition:
    """Serves what was published last. Any thread may call any method.

    A publication is encoded by the thread that publishes it, in each format that was asked for before; a
    scrape adds to the kept bytes only what is collected for it: `others`, `process_*` and `python_info`.
    """

    def __init__(
        self, others: Callable[[], Iterable[Metric]] = list, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._others = others
        self._clock = clock
        self._process = (PlatformCollector(registry=None), ProcessCollector(registry=None))
        self._publication = Publication()
        self._pages: dict[_Format, _Page] = {}
        self._encoding = threading.Lock()

    def publish(self, publication: Publication) -> None:
        """Replace what is served; a scrape gets all of the old or all of the new."""
        with self._encoding:
            self._pages = {form: page.updated(publication, form) for form, page in self._pages.items()}
            self._publication = publication

    def is_trusted(self) -> bool:
        """Tell whether the last publication is recent enough."""
        return self._trusts(self._publication)

    def found(self) -> tuple[Metric, ...]:
        """Return the published `families`, or the `fallback` once they are too old to trust."""
        return self._found(self._publication)

    def families(self) -> list[Metric]:
        """Return what is published, as far as it is recent enough, without `others` and `process_*`."""
        publication = self._publication
        return [*self._found(publication), *publication.own]

    def _found(self, publication: Publication) -> tuple[Metric, ...]:
        return tuple(publication.families if self._trusts(publication) else publication.fallback)

    def _trusts(self, publication: Publication) -> bool:
        return self._clock() <= publication.trusted_until

    def render(self, accept: str = "", accept_encoding: str = "", names: Sequence[str] = ()) -> Answer:
        """Answer a scrape with these headers: all, or only the samples that `name[]` names.

        What is picked by name is not gzipped, so that no client makes the exporter compress for it alone.
        """
        form = _OPENMETRICS if accepts_openmetrics(accept) else _TEXT
        page = self._pages.get(form) or self._first_page(form)
        kept = page.families if self._trusts(page.publication) else page.fallback
        if names:
            wanted = {*names}
            rest = form.encoded(_named(wanted, (*page.publication.own, *self._collected())))
            return Answer(form.content_type, "", (*kept.named(wanted), rest, form.end))
        rest = page.own + form.encoded(self._collected()) + form.end
        if gzip_accepted(accept_encoding):
            return Answer(form.content_type, "gzip", kept.gzipped(rest))
        return Answer(form.content_type, "", (*kept.encoded, rest))

    def _first_page(self, form: _Format) -> _Page:
        with self._encoding:
            if form not in self._pages:
                self._pages = {**self._pages, form: _EMPTY.updated(self._publication, form)}
            return self._pages[form]

    def _collected(self) -> Iterator[Metric]:
        yield from self._others()
        for collector in self._process:
            yield from collector.collect()


def accepts_openmetrics(accept: str) -> bool:
    """Tell whether an `Accept` header names OpenMetrics in the one version that is written, or in any."""
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        version = next((p.removeprefix("version=") for p in parameters if p.startswith("version=")), "1.0.0")
        if media_type == "application/openmetrics-text" and version.strip('"') == "1.0.0":
            return True
    return False


def _named(names: set[str], families: Iterable[Metric]) -> Iterator[Metric]:
    return (family for family in families if family.samples and family.samples[0].name in names)
