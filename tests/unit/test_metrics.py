"""A snapshot becomes the exposition prometheus-client would render, and no part of it is rendered twice."""

import gzip
import re
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from docker_prom_exporter.containers import HEALTH_STATUSES, STATES, Container, Details
from docker_prom_exporter.metrics import Answer, Exposition, _Template
from docker_prom_exporter.snapshot import ENDPOINTS, FAILURES, REASONS, EngineInfo, Snapshot
from support.builders import container, details, gallery, snapshot

Encode = Callable[[Collector], bytes]

GOLDEN = Path(__file__).parent / "golden"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
FORMATS: dict[str, Callable[[str], Iterable[Metric]]] = {
    "": parse_text,
    "text/plain;version=1.0.0;escaping=allow-utf-8": parse_text,
    OPENMETRICS: parse_openmetrics,
    "application/openmetrics-text": parse_openmetrics,
}
WHAT_OTHERS_SAY = re.compile(rb"(# (HELP|TYPE|UNIT) )?(process_|python_info)")


class Shown:
    """An exposition of whatever `now` is, at a time that can be set."""

    def __init__(self, now: Snapshot) -> None:
        """Begin at a time when the builders' snapshot is fresh."""
        self.now = now
        self.time = 101.0
        self.exposition = Exposition(lambda: self.now, lambda: self.time)

    def render(self, accept: str = "", names: tuple[str, ...] = ()) -> bytes:
        """Return the whole body."""
        return b"".join(self.exposition.render(accept, "", names).body)

    def families(self) -> dict[str, Metric]:
        """Return the families served, by name."""
        return {family.name: family for family in parse_text(self.render().decode())}


def own(body: bytes) -> bytes:
    """Leave out what prometheus-client says of the process: it moves from one rendering to the next."""
    return b"".join(line for line in body.splitlines(keepends=True) if not WHAT_OTHERS_SAY.match(line))


def unzipped(answer: Answer) -> bytes:
    return gzip.decompress(b"".join(answer.body))


def first_difference(expected: bytes, actual: bytes) -> tuple[bytes | None, bytes | None] | None:
    """Return the first line in which they differ: pytest's own comparison of them takes long."""
    lines = zip_longest(expected.splitlines(keepends=True), actual.splitlines(keepends=True))
    return next((pair for pair in lines if pair[0] != pair[1]), None)


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


@pytest.mark.parametrize(
    ("golden", "accept", "changes"),
    [
        ("up.prom", "", {}),
        ("up.openmetrics.prom", OPENMETRICS, {}),
        ("list_denied.prom", "", {"listed": False}),
        ("lost.prom", "", {"up": False, "listed": False}),
        ("lost.openmetrics.prom", OPENMETRICS, {"up": False, "listed": False}),
    ],
)
def test_golden(golden: str, accept: str, changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is served of one container in each state worth a look is what it was when people agreed to it."""
    monkeypatch.setattr("docker_prom_exporter.metrics.__version__", "1.2.3")
    monkeypatch.setattr("platform.python_version", lambda: "3.11.2")
    expected = (GOLDEN / golden).read_bytes()

    assert expected.decode() == own(Shown(snapshot(*gallery(), **changes)).render(accept)).decode()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
    ],
)
def test_content_type(accept: str, expected: str) -> None:
    """The format is the one prometheus-client chooses for what the client accepts."""
    assert expected == Shown(snapshot()).exposition.render(accept).content_type


AWKWARD = st.text(
    st.sampled_from('\\"\n\r\t\0 {}=,#_é\x85\u2028\U0001f433') | st.characters(codec="utf-8"),
    max_size=8,
)
NUMBERS = st.floats(0, 2**53)
DETAILS = st.builds(
    Details,
    state=st.sampled_from(["", *STATES]),
    health_status=st.sampled_from([None, *HEALTH_STATUSES]),
    started=st.none() | NUMBERS,
    finished=st.none() | NUMBERS,
    restarts=st.integers(0, 10**300),
    exit_code=st.none() | st.integers(-(2**31), 2**31),
    oom_killed=st.booleans(),
    failing_streak=st.none() | st.integers(0, 10**300),
)
CONTAINERS = st.builds(
    Container,
    id=st.sampled_from(["a1", "b2", "c3", "d4"]),
    name=AWKWARD,
    image=AWKWARD,
    compose_project=AWKWARD,
    compose_service=AWKWARD,
    state=st.sampled_from(["", *STATES]),
    health_status=st.sampled_from([None, *HEALTH_STATUSES]),
    created=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    details=st.none() | DETAILS,
)
ENGINES = st.builds(EngineInfo, AWKWARD, AWKWARD, AWKWARD, AWKWARD, AWKWARD, health_listed=st.booleans())


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    """Draw snapshots in a row, of containers that come, go, stay, change and change their order."""
    cast = draw(st.lists(CONTAINERS, min_size=1, max_size=6))
    appearances = st.lists(st.sampled_from(cast), max_size=4, unique_by=lambda each: each.id)
    return [
        snapshot(*containers, up=draw(st.booleans()), listed=draw(st.booleans()), engine=draw(ENGINES))
        for containers in draw(st.lists(appearances, min_size=1, max_size=4))
    ]


@given(history=histories())
def test_equals_what_prometheus_client_renders(history: list[Snapshot]) -> None:
    """Whatever was rendered before, each byte is as if prometheus-client had rendered all of it at once."""
    shown = Shown(history[0])
    for shown.now in history:
        for accept in FORMATS:
            encode: Encode = choose_encoder(accept)[0]
            expected = own(encode(shown.exposition.registry(shown.now)))

            assert first_difference(expected, own(shown.render(accept))) is None
            assert first_difference(expected, own(unzipped(shown.exposition.render(accept, "gzip")))) is None


@given(now=histories().map(lambda history: history[0]))
def test_parses(now: Snapshot) -> None:
    """prometheus-client's strict parsers read back each container, with each character of its name."""
    expected = {(c.id, c.name): float(c.health if now.listed else 0) for c in now.containers}
    for accept, parse in FORMATS.items():
        families = {family.name: family for family in parse(Shown(now).render(accept).decode())}
        found = families.get("container_health")

        assert expected == (values(found) if found else {})


def lines_of(body: bytes, name: str) -> bytes:
    of_it = re.compile(rb"# (HELP|TYPE) NAME |NAME[ {]|# EOF".replace(b"NAME", name.encode()))
    return b"".join(line for line in body.splitlines(keepends=True) if of_it.match(line))


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@pytest.mark.parametrize(
    "name",
    [
        "docker_up",
        "docker_engine_info",
        "docker_exporter_build_info",
        "docker_exporter_containers_watched",
        "container_health",
        "docker_container_info",
        "docker_container_state",
        "docker_container_exit_code",
        "python_info",
        "no_such_thing",
    ],
)
def test_names_are_filtered(accept: str, name: str) -> None:
    """`name[]` gets what a whole scrape says of that name, zipped too, and nothing else."""
    shown = Shown(snapshot(*gallery()))
    expected = lines_of(shown.render(accept), name)

    assert expected == shown.render(accept, (name,))
    assert expected == unzipped(shown.exposition.render(accept, "deflate, gzip", (name,)))


def test_names_are_filtered_together() -> None:
    """Several `name[]` add up; a counter is found by its sample's name."""
    shown = Shown(snapshot(*gallery()))
    names = ("docker_container_restarts_total", "docker_exporter_polls_total", "docker_up")
    expected = {line for name in names for line in lines_of(shown.render(), name).splitlines()}

    assert expected == {*shown.render(names=names).splitlines()}


@pytest.mark.parametrize(
    ("header", "expected"),
    [("gzip", "gzip"), ("br, GZIP;q=0.5", "gzip"), ("", ""), ("deflate", ""), ("gzipped", "")],
)
def test_zipped_only_where_accepted(header: str, expected: str) -> None:
    """The encoding told is the encoding sent."""
    answer = Shown(snapshot(*gallery())).exposition.render("", header)
    body = b"".join(answer.body)

    assert expected == answer.content_encoding
    assert b"docker_up 1.0" in (gzip.decompress(body) if expected else body)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Watch prometheus-client's encoder and the templates it wrote: each of their answers is added."""
    calls: list[bytes] = []
    fill = _Template.fill

    def filled(template: _Template, *shown: Any) -> list[bytes]:
        calls.append(b"".join(fill(template, *shown)))
        return [calls[-1]]

    def watched(accept: str) -> tuple[Encode, str]:
        encode, content_type = choose_encoder(accept)

        def render(collector: Collector) -> bytes:
            calls.append(encode(collector))
            return calls[-1]

        return render, content_type

    monkeypatch.setattr("docker_prom_exporter.metrics.choose_encoder", watched)
    monkeypatch.setattr(_Template, "fill", filled)
    return calls


HEALTH_FAMILIES = {b"container_health", b"docker_container_health_status"}
DETAIL_FAMILIES = {
    b"docker_container_started_timestamp_seconds",
    b"docker_container_restarts_total",
    b"docker_container_oom_killed",
}
ALL_FAMILIES = {
    b"docker_container_info",
    b"docker_container_state",
    b"docker_container_created_timestamp_seconds",
    *HEALTH_FAMILIES,
    *DETAIL_FAMILIES,
}
CROWD = tuple(container(f"web-{number}", details=details()) for number in range(9))


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_nothing_is_rendered_twice(accept: str, rendered: list[bytes]) -> None:
    """While no container changes, a scrape renders what the exporter says of itself and nothing else."""
    shown = Shown(snapshot(*CROWD))
    for containers in (CROWD, CROWD, tuple(each._replace() for each in CROWD)):
        shown.now = snapshot(*containers, duration=0.5)
        rendered.clear()
        answer = shown.exposition.render(accept)

    assert 1 == len(rendered)
    assert b"web-" not in rendered[0]
    assert 9 == b"".join(answer.body).count(b"\ncontainer_health{")


def test_nothing_is_zipped_twice() -> None:
    """While no container changes, the same zipped bytes go out, but for what the exporter says of itself."""
    exposition = Shown(snapshot(*CROWD)).exposition
    before, after = (exposition.render("", "gzip").body for _ in range(2))

    assert len(before) > 9
    assert all(one is other for one, other in zip(before[2:-1], after[2:-1], strict=True))


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ((CROWD[0]._replace(health_status="unhealthy"), *CROWD[1:]), HEALTH_FAMILIES),
        ((CROWD[0]._replace(image="new"), *CROWD[1:]), {b"docker_container_info"}),
        ((CROWD[0]._replace(details=None), *CROWD[1:]), DETAIL_FAMILIES),
        ((*CROWD[1:], container("new-1")), ALL_FAMILIES),
        (CROWD[1:], ALL_FAMILIES),
        (CROWD[::-1], ALL_FAMILIES),
        (tuple(each._replace() for each in CROWD), set()),
    ],
)
def test_only_what_changed_is_rendered(
    containers: tuple[Container, ...], expected: set[bytes], rendered: list[bytes]
) -> None:
    """A change costs the families it shows in; other containers, or another order, cost all of them."""
    shown = Shown(snapshot(*CROWD))
    shown.render()
    rendered.clear()
    shown.now = snapshot(*containers)
    shown.render()

    of_containers = [body for body in rendered if b"name=" in body]
    assert expected == {name for body in of_containers for name in re.findall(rb"# TYPE (\S+)", body)}


def test_containers_are_not_rendered_anew_once_docker_is_back(rendered: list[bytes]) -> None:
    """A lost engine whose containers are found as they were costs no rendering of them."""
    shown = Shown(snapshot(*CROWD))
    before = own(shown.render())
    shown.now = snapshot(*CROWD, up=False, listed=False)
    shown.render()
    rendered.clear()
    shown.now = snapshot(*CROWD)

    assert before == own(shown.render())
    assert 1 == len(rendered)


@pytest.mark.parametrize(("time", "expected"), [(100, True), (120, True), (120.001, False), (1e9, False)])
def test_trust_ends(time: float, expected: bool) -> None:  # noqa: FBT001  it's the table's column
    """A snapshot is believed until its time is up, and not a moment longer."""
    shown = Shown(snapshot(*gallery()))
    shown.render()
    shown.time = time

    assert expected == shown.exposition.is_trusted()
    assert {(): float(expected)} == values(shown.families()["docker_up"])
    assert expected == ("docker_container_state" in shown.families())


@pytest.mark.parametrize("changes", [{}, {"up": False, "listed": False}])
def test_nothing_is_known_of_containers_without_an_engine(changes: dict[str, bool]) -> None:
    """Too old or lost: no engine, no details, and each container last seen at 0."""
    shown = Shown(snapshot(*gallery(), **changes))
    shown.time = 101 if changes else 121
    expected = {(each.id, each.name): 0.0 for each in gallery()}
    families = shown.families()

    assert expected == values(families["container_health"])
    assert {(): 0.0} == values(families["docker_up"])
    assert [] == [name for name in families if name.startswith(("docker_container_", "docker_engine_"))]


def test_a_list_that_failed_leaves_docker_up() -> None:
    """Docker answers the ping, but of containers nothing is known."""
    families = Shown(snapshot(container(), listed=False)).families()

    assert {(): 1.0} == values(families["docker_up"])
    assert "docker_engine_info" in families
    assert [0.0] == [*values(families["container_health"]).values()]


def test_families_without_a_sample_are_left_out() -> None:
    """Of a container that was not inspected there are the five families of the list."""
    listed = {
        "container_health",
        "docker_container_info",
        "docker_container_state",
        "docker_container_health_status",
        "docker_container_created_timestamp_seconds",
    }
    families = Shown(snapshot(container())).families()

    assert listed == {name for name in families if "container_" in name} - {
        "docker_exporter_containers_watched"
    }


def test_no_containers_no_families() -> None:
    """Where none is watched, no family of theirs is there, and the exporter's own are."""
    families = Shown(snapshot()).families()

    assert {"docker_exporter_containers_watched"} == {name for name in families if "container" in name}
    assert {(): 0.0} == values(families["docker_exporter_containers_watched"])


def test_known_series_start_at_0() -> None:
    """Before the first poll each counter is there, at 0, for all that can be counted."""
    shown = Shown(Snapshot(ended=100, trusted_for=20, polled=False))
    families = shown.families()
    errors = {(endpoint, reason) for endpoint in ENDPOINTS for reason in REASONS} - {("inspect", "not_found")}

    assert not shown.exposition.is_polled()
    assert dict.fromkeys(errors, 0.0) == values(families["docker_exporter_api_errors"])
    assert dict.fromkeys([(each,) for each in ENDPOINTS], 0.0) == values(
        families["docker_exporter_api_requests"]
    )
    assert {("success",): 0.0, ("failure",): 0.0} == values(families["docker_exporter_polls"])
    assert {(): 0.0} == values(families["docker_exporter_last_success_timestamp_seconds"])
    assert errors == {*FAILURES}


def test_counts_and_times_are_shown() -> None:
    """Each count, each time and the engine are where they belong."""
    now = snapshot(container(), seen=5, duration=1.5, last_success=7.0)
    now.counts.polls["failure"] = 2
    now.counts.requests["list"] = 3
    now.counts.errors["ping", "timeout"] = 4
    families = Shown(now).families()

    assert 2 == values(families["docker_exporter_polls"])["failure",]
    assert 3 == values(families["docker_exporter_api_requests"])["list",]
    assert 4 == values(families["docker_exporter_api_errors"])["ping", "timeout"]
    assert {(): 1.5} == values(families["docker_exporter_poll_duration_seconds"])
    assert {(): 7.0} == values(families["docker_exporter_last_success_timestamp_seconds"])
    assert {(): 1.0} == values(families["docker_exporter_containers_watched"])
    assert {("29.1.0", "1.52", "linux", "amd64"): 1.0} == {
        tuple(sample.labels[label] for label in ("version", "api_version", "os", "arch")): sample.value
        for sample in families["docker_engine_info"].samples
    }


@pytest.mark.parametrize("each", gallery(), ids=lambda each: ascii(each.name))
def test_one_state_and_one_verdict(each: Container) -> None:
    """Of states one is 1; of verdicts one is while it runs, and none when it doesn't, for it's stale."""
    families = Shown(snapshot(each)).families()
    states = {sample.labels["state"]: sample.value for sample in families["docker_container_state"].samples}
    verdicts = {
        sample.labels["status"]: sample.value for sample in families["docker_container_health_status"].samples
    }
    verdict = each.health_status if each.state == "running" else None

    assert {state: float(state == each.state) for state in STATES} == states
    assert {status: float(status == verdict) for status in HEALTH_STATUSES} == verdicts
