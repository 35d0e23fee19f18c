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

from docker_prom_exporter.containers import (
    HEALTH_STATUSES,
    RESTART_POLICIES,
    STATES,
    Container,
    Details,
)
from docker_prom_exporter.exposition import (
    OPENMETRICS,
    TEXT,
    Answer,
    Exposition,
    Families,
    Format,
    Publication,
)
from docker_prom_exporter.metrics import SnapshotMetrics
from docker_prom_exporter.snapshot import EngineInfo, Snapshot
from support.builders import snapshot
from support.expositions import without_process

FORMATS: dict[
    Format, tuple[Callable[[Collector], bytes], Callable[[str], Iterable[Metric]]]
] = {TEXT: (encode_text, parse_text), OPENMETRICS: (encode_openmetrics, parse_openmetrics)}


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
    return gzip.decompress(whole) if answer.gzipped else whole


def text(exposition: Exposition, form: Format = TEXT, *names: str) -> str:
    """Return what is served, without prometheus-client's metrics of the process."""
    return without_process(body(exposition.render(form, names=names)).decode())


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
    exposition, metrics = Exposition(clock=lambda: 101), SnapshotMetrics(("team",))
    for now in history:
        exposition.publish(metrics.families_of(now))
        for form, (encode, _) in FORMATS.items():
            expected = encode(Families(exposition.families())).decode()
            zipped = without_process(body(exposition.render(form, gzipped=True)).decode())

            assert first_difference(expected, text(exposition, form)) is None
            assert first_difference(expected, zipped) is None


@given(history=histories())
def test_parses(history: list[Snapshot]) -> None:
    """prometheus-client's strict parsers read each container, with each character of its name."""
    now = history[0]
    exposition = published(SnapshotMetrics().families_of(now))
    believed = now.listed and exposition.is_trusted()
    expected = {(c.id, c.name): float(c.health if believed else 0) for c in now.containers}
    for form, (_, parse) in FORMATS.items():
        families = {
            family.name: family for family in parse(body(exposition.render(form)).decode())
        }
        found = families["container_health"].samples if expected else []

        assert expected == {
            (each.labels["id"], each.labels["name"]): each.value for each in found
        }


@pytest.mark.parametrize("form", FORMATS)
def test_one_gzip_member(form: Format) -> None:
    """A gzipped body is one member, because some clients stop after the first."""
    exposition = published(publication(1))
    unzip = zlib.decompressobj(wbits=31)
    unzipped = unzip.decompress(b"".join(exposition.render(form, gzipped=True).body))

    assert unzip.eof
    assert b"" == unzip.unused_data
    assert text(exposition, form) == without_process(unzipped.decode())


class Encoder:
    """Records the calls of prometheus-client's encoders: `encoded` has the family names of each call."""

    def __init__(self) -> None:
        self.encoded: list[list[str]] = []
        self.formats = {form: self._watched(form) for form in FORMATS}

    def _watched(self, form: Format) -> Format:
        def watched(collector: Collector) -> bytes:
            families = list(collector.collect())
            self.encoded.append([family.name for family in families])
            return form.encode(Families(families))

        return form._replace(encode=watched)

    def kept(self) -> list[str]:
        """Return which of the families `web`, `db` and `lost` were encoded, and clear the record."""
        kept = [
            name for names in self.encoded for name in names if name in ("web", "db", "lost")
        ]
        self.encoded.clear()
        return kept


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_nothing_is_encoded_before_a_scrape(encoder: Encoder) -> None:
    """In each format, families are encoded from its first scrape on, and then at each publication."""
    exposition = published(publication(1))
    assert [] == encoder.encoded

    exposition.render(encoder.formats[TEXT])
    assert ["web", "db"] == encoder.kept()

    exposition.publish(publication(2))
    assert ["web", "db"] == encoder.kept()

    exposition.render(encoder.formats[OPENMETRICS])
    assert ["web", "db"] == encoder.kept()


def test_the_fallback_is_encoded_once_it_is_needed(encoder: Encoder) -> None:
    """In each requested format, the fallback is encoded once, when it is first served."""
    now = 101.0
    exposition = Exposition(clock=lambda: now)
    exposition.publish(publication(1))
    for form in encoder.formats.values():
        exposition.render(form)
    encoder.kept()

    now = 121
    for form in encoder.formats.values():
        assert ["lost 1.0", "own 1.0"] == samples(text(exposition, form))
        exposition.render(form, gzipped=True)
        exposition.render(form, names=("lost",))
    assert ["lost", "lost"] == encoder.kept()

    exposition.publish(publication(2, until=140))
    assert ["web", "db"] * 2 == encoder.kept()
    assert ["web 2.0", "db 2.0", "own 2.0"] == samples(text(exposition))
    assert exposition.is_trusted()


@pytest.mark.parametrize("form", FORMATS)
def test_a_scrape_encodes_only_what_is_collected_for_it(
    encoder: Encoder, form: Format
) -> None:
    """A scrape, plain, gzipped or by name, encodes only the families that are collected for it."""
    exposition, form = published(publication(1)), encoder.formats[form]
    exposition.render(form)
    encoder.encoded.clear()
    exposition.render(form)
    exposition.render(form, gzipped=True)
    exposition.render(form, gzipped=True, names=("web", "own", "python_info"))

    assert 3 == len(encoder.encoded)
    assert ["own", "python_info"] == encoder.encoded[2]
    assert [] == encoder.kept()


def test_only_what_changed_is_encoded(encoder: Encoder) -> None:
    """A publication encodes only new families; the same object keeps its bytes, at any position."""
    first = publication(1)
    exposition = published(first)
    exposition.render(encoder.formats[TEXT])
    encoder.kept()

    exposition.publish(
        first._replace(families=[first.families[1], family("web", 2)], own=[family("own", 2)])
    )
    assert ["web"] == encoder.kept()
    assert ["db 1.0", "web 2.0", "own 2.0"] == samples(text(exposition))


def test_kept_bytes_are_zipped_once() -> None:
    """Two scrapes between two metrics share the gzipped bytes of the published families."""
    exposition = published(publication(1))
    before, after = (exposition.render(gzipped=True).body for _ in range(2))

    assert before[0] is after[0]


def lines_of(whole: str, name: str) -> list[str]:
    pattern = re.compile(rf"# (HELP|TYPE) {name} |{name}[ {{]|# EOF")
    return [line for line in whole.splitlines() if pattern.match(line)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", ["web", "db", "own", "other", "python_info", "lost", "no_such_thing"]
)
def test_names_are_picked(form: Format, name: str) -> None:
    """`name[]` returns the lines of a whole scrape on that name, never gzipped."""
    exposition = Exposition(others=lambda: [family("other")], clock=lambda: 101)
    exposition.publish(publication(1))
    answer = exposition.render(form, gzipped=True, names=(name,))

    assert not answer.gzipped
    assert (
        lines_of(body(exposition.render(form)).decode(), name)
        == body(answer).decode().splitlines()
    )


def test_names_are_picked_together() -> None:
    """Several `name[]` add up, and a counter is found by its sample's name."""
    exposition = published(SnapshotMetrics().families_of(snapshot()))
    names = ("docker_exporter_polls_total", "docker_up", "docker_up")
    picked = text(exposition, TEXT, *names)

    assert {line for name in names for line in lines_of(text(exposition), name)} == {
        *picked.splitlines()
    }
    assert 'docker_exporter_polls_total{result="success"} 0.0' in picked


@pytest.mark.parametrize("names", [(), ("web", "db", "own", "other")])
@pytest.mark.parametrize("form", FORMATS)
def test_publications_during_a_scrape(form: Format, names: tuple[str, ...]) -> None:
    """A scrape never mixes metrics: one that is published during a scrape is for the next scrape."""
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
    exposition.render(form)  # from now on, each publication is encoded at once
    exposition._others, exposition._clock = others, clock
    for _ in range(3):
        before = publish()
        expected = [
            *(f"{name} {before}.0" for name in ("web", "db", "own")),
            f"other {before + 2}.0",
        ]

        assert expected == samples(text(exposition, form, *names))


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
    assert [f"{kept[0]} 1.0"] == samples(text(exposition, TEXT, "web", "lost"))


def test_before_anything_is_published() -> None:
    """Before the first publication, the exposition is complete and has the metrics of the process."""
    exposition = Exposition()

    assert exposition.is_trusted()
    assert [] == exposition.families()
    assert "# EOF\n" == text(exposition, OPENMETRICS)
    assert b"python_info" in body(exposition.render(OPENMETRICS))
