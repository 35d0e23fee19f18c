"""Families are encoded to the bytes that prometheus-client would write, and no family is encoded twice."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterable
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from docker_prom_exporter import exposition as module
from docker_prom_exporter.containers import (
    HEALTH_STATUSES,
    RESTART_POLICIES,
    STATES,
    Container,
    Details,
)
from docker_prom_exporter.exposition import Answer, Exposition, Families, Publication
from docker_prom_exporter.metrics import Publications
from docker_prom_exporter.snapshot import EngineInfo, Snapshot
from support.builders import snapshot
from support.expositions import without_process

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)
FORMATS: dict[str, tuple[Callable[[Collector], bytes], Callable[[str], Iterable[Metric]]]] = {
    TEXT: (encode_text, parse_text),
    OPENMETRICS: (encode_openmetrics, parse_openmetrics),
}


def family(name: str, value: float = 1) -> Metric:
    return GaugeMetricFamily(name, f"What {name} is.", value=value)


def publication(
    generation: int, *, crowd: tuple[str, ...] = ("web", "db"), until: float = 120
) -> Publication:
    """Return a publication whose samples all have the generation as value."""
    return Publication(
        families=[family(name, generation) for name in crowd],
        fallback=[family("lost", generation)],
        own=[family("own", generation)],
        trusted_until=until,
    )


def published(now: Publication) -> Exposition:
    """Return an exposition at a time at which the builders' snapshots are trusted."""
    exposition = Exposition(clock=lambda: 101)
    exposition.publish(now)
    return exposition


def body(answer: Answer) -> bytes:
    whole = b"".join(answer.body)
    return gzip.decompress(whole) if answer.content_encoding else whole


def text(exposition: Exposition, accept: str = "", *names: str) -> str:
    """Return what is served, without prometheus-client's metrics of the process."""
    return without_process(body(exposition.render(accept, "", names)).decode())


def samples(served: str) -> list[str]:
    return [line for line in served.splitlines() if not line.startswith("#")]


def first_difference(expected: str, actual: str) -> tuple[str | None, str | None] | None:
    """Return the first pair of lines that differ; pytest's own comparison takes long."""
    lines = zip_longest(expected.split("\n"), actual.split("\n"))
    return next((pair for pair in lines if pair[0] != pair[1]), None)


AWKWARD = st.text(
    st.sampled_from('\\"\n\r\t\0 {}=,#_é\x85\u2028\U0001f433') | st.characters(codec="utf-8"),
    max_size=8,
)
NUMBERS = st.floats(0, 2**53)
DETAILS = st.builds(
    Details,
    started=st.none() | NUMBERS,
    finished=st.none() | NUMBERS,
    restarts=st.integers(0, 10**300),
    exit_code=st.none() | st.integers(-(2**31), 2**31),
    oom_killed=st.booleans(),
    failing_streak=st.none() | st.integers(0, 10**300),
    restart_policy=st.sampled_from([None, *RESTART_POLICIES]),
)
CONTAINERS = st.builds(
    Container,
    id=st.sampled_from(["a1", "b2", "c3", "d4"]),
    name=AWKWARD,
    image=AWKWARD,
    image_id=AWKWARD,
    compose_project=AWKWARD,
    compose_service=AWKWARD,
    state=st.sampled_from(["", *STATES]),
    health_status=st.sampled_from([None, *HEALTH_STATUSES]),
    created_ns=st.none() | st.integers(0, 2**63),
    labels=st.tuples(AWKWARD),
    details=st.none() | DETAILS,
)
ENGINES = st.builds(EngineInfo, AWKWARD, AWKWARD, AWKWARD, AWKWARD, AWKWARD)


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    """Draw consecutive snapshots of containers that come, go, stay, change and change their order."""
    cast = draw(st.lists(CONTAINERS, min_size=1, max_size=6))
    appearances = st.lists(st.sampled_from(cast), max_size=4, unique_by=lambda each: each.id)
    return [
        snapshot(
            *containers,
            up=draw(st.booleans()),
            listed=draw(st.booleans()),
            engine=draw(ENGINES),
            trusted_for=draw(st.sampled_from([0, 20])),
        )
        for containers in draw(st.lists(appearances, min_size=1, max_size=4))
    ]


@given(history=histories())
def test_equals_what_prometheus_client_renders(history: list[Snapshot]) -> None:
    """Whatever was published before, the bytes are those that prometheus-client writes for all families."""
    exposition, publications = Exposition(clock=lambda: 101), Publications(("team",))
    for now in history:
        exposition.publish(publications.of(now))
        for accept, (encode, _) in FORMATS.items():
            expected = encode(Families(exposition.families())).decode()
            zipped = without_process(body(exposition.render(accept, "gzip")).decode())

            assert first_difference(expected, text(exposition, accept)) is None
            assert first_difference(expected, zipped) is None


@given(history=histories())
def test_parses(history: list[Snapshot]) -> None:
    """prometheus-client's strict parsers read each container, with each character of its name."""
    now = history[0]
    exposition = published(Publications().of(now))
    believed = now.listed and exposition.is_trusted()
    expected = {(c.id, c.name): float(c.health if believed else 0) for c in now.containers}
    for accept, (_, parse) in FORMATS.items():
        families = {
            family.name: family for family in parse(body(exposition.render(accept)).decode())
        }
        found = families["container_health"].samples if expected else []

        assert expected == {
            (each.labels["id"], each.labels["name"]): each.value for each in found
        }


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml", TEXT),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ('Application/OpenMetrics-Text;VERSION="1.0.0"', OPENMETRICS),
        (PROMETHEUS, OPENMETRICS),
        ("text/plain, application/openmetrics-text;q=0.9", OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1", TEXT),
        ("application/openmetrics-text; version=2.0.0", TEXT),
        ("application/openmetrics-text; version=1.0.1", TEXT),
        ("application/openmetrics-text; version=1.0.0.0", TEXT),
        ("application/openmetrics-text; version=", TEXT),
        (
            "application/openmetrics-text; version=2.0.0, application/openmetrics-text; version=1.0.0",
            OPENMETRICS,
        ),
        ("application/openmetrics-textual", TEXT),
        (";;,=,", TEXT),
    ],
)
def test_format(accept: str, expected: str) -> None:
    """OpenMetrics 1.0.0 is served if it is accepted, else the text format; the content type matches."""
    answer = published(publication(1)).render(accept)

    assert expected == answer.content_type
    assert (expected == OPENMETRICS) == body(answer).endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("header", "expected"),
    [("gzip", "gzip"), ("br, GZIP;q=0.5", "gzip"), ("", ""), ("deflate", ""), ("gzipped", "")],
)
def test_encoding(header: str, expected: str) -> None:
    """The body is gzipped only if gzip is accepted, and the content encoding matches."""
    answer = published(publication(1)).render("", header)

    assert expected == answer.content_encoding
    assert b"\nweb 1.0\n" in body(answer)


@pytest.mark.parametrize("accept", FORMATS)
def test_one_gzip_member(accept: str) -> None:
    """A gzipped body is one member, because some clients stop after the first."""
    exposition = published(publication(1))
    unzip = zlib.decompressobj(wbits=31)
    unzipped = unzip.decompress(b"".join(exposition.render(accept, "gzip").body))

    assert unzip.eof
    assert b"" == unzip.unused_data
    assert text(exposition, accept) == without_process(unzipped.decode())


class Encoder:
    """Records the calls of prometheus-client's encoders: `encoded` has the family names of each call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded: list[list[str]] = []
        for name in ("_TEXT", "_OPENMETRICS"):
            form = getattr(module, name)
            monkeypatch.setattr(module, name, form._replace(encode=self._watched(form.encode)))

    def _watched(self, encode: Callable[[Collector], bytes]) -> Callable[[Collector], bytes]:
        def watched(collector: Collector) -> bytes:
            families = list(collector.collect())
            self.encoded.append([family.name for family in families])
            return encode(Families(families))

        return watched

    def kept(self) -> list[str]:
        """Return which of the families `web`, `db` and `lost` were encoded, and clear the record."""
        kept = [
            name for names in self.encoded for name in names if name in ("web", "db", "lost")
        ]
        self.encoded.clear()
        return kept


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    return Encoder(monkeypatch)


def test_nothing_is_encoded_before_a_scrape(encoder: Encoder) -> None:
    """In each format, families are encoded from its first scrape on, and then at each publication."""
    exposition = published(publication(1))
    assert [] == encoder.encoded

    exposition.render(TEXT)
    assert ["web", "db"] == encoder.kept()

    exposition.publish(publication(2))
    assert ["web", "db"] == encoder.kept()

    exposition.render(OPENMETRICS)
    assert ["web", "db"] == encoder.kept()


def test_the_fallback_is_encoded_once_it_is_needed(encoder: Encoder) -> None:
    """In each requested format, the fallback is encoded once, when it is first served."""
    now = 101.0
    exposition = Exposition(clock=lambda: now)
    exposition.publish(publication(1))
    for accept in FORMATS:
        exposition.render(accept)
    encoder.kept()

    now = 121
    for accept in FORMATS:
        assert ["lost 1.0", "own 1.0"] == samples(text(exposition, accept))
        exposition.render(accept, "gzip")
        exposition.render(accept, "", ("lost",))
    assert ["lost", "lost"] == encoder.kept()

    exposition.publish(publication(2, until=140))
    assert ["web", "db"] * 2 == encoder.kept()
    assert ["web 2.0", "db 2.0", "own 2.0"] == samples(text(exposition))
    assert exposition.is_trusted()


@pytest.mark.parametrize("accept", FORMATS)
def test_a_scrape_encodes_only_what_is_collected_for_it(encoder: Encoder, accept: str) -> None:
    """A scrape, plain, gzipped or by name, encodes only the families that are collected for it."""
    exposition = published(publication(1))
    exposition.render(accept)
    encoder.encoded.clear()
    exposition.render(accept)
    exposition.render(accept, "gzip")
    exposition.render(accept, "gzip", ("web", "own", "python_info"))

    assert 3 == len(encoder.encoded)
    assert ["own", "python_info"] == encoder.encoded[2]
    assert [] == encoder.kept()


def test_only_what_changed_is_encoded(encoder: Encoder) -> None:
    """A publication encodes only new families; the same object keeps its bytes, at any position."""
    first = publication(1)
    exposition = published(first)
    exposition.render()
    encoder.kept()

    exposition.publish(
        first._replace(families=[first.families[1], family("web", 2)], own=[family("own", 2)])
    )
    assert ["web"] == encoder.kept()
    assert ["db 1.0", "web 2.0", "own 2.0"] == samples(text(exposition))


def test_unknown_formats_cost_nothing(encoder: Encoder) -> None:
    """Whatever clients accept, each family is encoded once in each of the two formats."""
    exposition = published(publication(1))
    for number in range(50):
        exposition.render(f"application/openmetrics-text; version=1.0.{number}")
        exposition.render(f"text/plain; version={number}")
        exposition.render(f"application/openmetrics-text; version={number}; charset=x, */*")

    assert ["web", "db"] * 2 == encoder.kept()


def test_kept_bytes_are_zipped_once() -> None:
    """Two scrapes between two publications share the gzipped bytes of the published families."""
    exposition = published(publication(1))
    before, after = (exposition.render("", "gzip").body for _ in range(2))

    assert before[0] is after[0]


def lines_of(whole: str, name: str) -> list[str]:
    pattern = re.compile(rf"# (HELP|TYPE) {name} |{name}[ {{]|# EOF")
    return [line for line in whole.splitlines() if pattern.match(line)]


@pytest.mark.parametrize("accept", FORMATS)
@pytest.mark.parametrize(
    "name", ["web", "db", "own", "other", "python_info", "lost", "no_such_thing"]
)
def test_names_are_picked(accept: str, name: str) -> None:
    """`name[]` returns the lines of a whole scrape on that name, never gzipped."""
    exposition = Exposition(others=lambda: [family("other")], clock=lambda: 101)
    exposition.publish(publication(1))
    answer = exposition.render(accept, "gzip", (name,))

    assert "" == answer.content_encoding
    assert (
        lines_of(body(exposition.render(accept)).decode(), name)
        == body(answer).decode().splitlines()
    )


def test_names_are_picked_together() -> None:
    """Several `name[]` add up, and a counter is found by its sample's name."""
    exposition = published(Publications().of(snapshot()))
    names = ("docker_exporter_polls_total", "docker_up", "docker_up")
    picked = text(exposition, "", *names)

    assert {line for name in names for line in lines_of(text(exposition), name)} == {
        *picked.splitlines()
    }
    assert 'docker_exporter_polls_total{result="success"} 0.0' in picked


@pytest.mark.parametrize("names", [(), ("web", "db", "own", "other")])
@pytest.mark.parametrize("accept", FORMATS)
def test_publications_during_a_scrape(accept: str, names: tuple[str, ...]) -> None:
    """A scrape never mixes publications: one that is published during a scrape is for the next scrape."""
    generations = iter(range(1, 99))

    def publish() -> int:
        generation = next(generations)
        exposition.publish(publication(generation))
        return generation

    def clock() -> float:
        publish()
        return 101

    def others() -> list[Metric]:
        return [family("other", publish())]

    exposition = published(publication(next(generations)))
    exposition.render(accept)  # from now on, each publication is encoded at once
    exposition._others, exposition._clock = others, clock
    for _ in range(3):
        before = publish()
        expected = [
            *(f"{name} {before}.0" for name in ("web", "db", "own")),
            f"other {before + 2}.0",
        ]

        assert expected == samples(text(exposition, accept, *names))


@pytest.mark.parametrize(
    ("time", "expected"), [(100, True), (120, True), (120.001, False), (1e9, False)]
)
def test_trust_ends(time: float, expected: bool) -> None:  # noqa: FBT001  a column of the table
    """A publication is served until its time is up, and then its fallback."""
    exposition = Exposition(clock=lambda: time)
    exposition.publish(publication(1))
    kept = ["web", "db"] if expected else ["lost"]

    assert expected == exposition.is_trusted()
    assert [*(f"{name} 1.0" for name in kept), "own 1.0"] == samples(text(exposition))
    assert [*kept, "own"] == [family.name for family in exposition.families()]
    assert [f"{kept[0]} 1.0"] == samples(text(exposition, "", "web", "lost"))


def test_before_anything_is_published() -> None:
    """Before the first publication, the exposition is complete and has the metrics of the process."""
    exposition = Exposition()

    assert exposition.is_trusted()
    assert [] == exposition.families()
    assert "# EOF\n" == text(exposition, OPENMETRICS)
    assert b"python_info" in body(exposition.render(OPENMETRICS))
