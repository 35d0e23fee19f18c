"""A snapshot becomes families, and an unchanged family stays the same object."""

from typing import Any

import pytest
from prometheus_client import Metric

from docker_prom_exporter.containers import Container
from docker_prom_exporter.exposition import OPENMETRICS, TEXT, Exposition, Format, Publication
from docker_prom_exporter.metrics import SnapshotMetrics
from docker_prom_exporter.snapshot import ENDPOINTS, FAILURES, REASONS, Snapshot
from support.builders import CREATED, IMAGE_ID, container, details, gallery, snapshot
from support.expositions import without_process
from support.golden import differences

LABEL_KEYS = ("com.example.team",)


@pytest.mark.parametrize(
    ("golden", "form", "changes"),
    [
        ("up.prom", TEXT, {}),
        ("up.openmetrics.prom", OPENMETRICS, {}),
        ("list_denied.prom", TEXT, {"listed": False}),
        ("lost.prom", TEXT, {"up": False, "listed": False}),
        ("lost.openmetrics.prom", OPENMETRICS, {"up": False, "listed": False}),
    ],
)
def test_golden(
    golden: str, form: Format, changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exposition of one container for each case equals the golden file."""
    monkeypatch.setattr("docker_prom_exporter.metrics.__version__", "1.2.3")
    monkeypatch.setattr("platform.python_version", lambda: "3.11.2")
    exposition = Exposition(clock=lambda: 101)
    exposition.publish(
        SnapshotMetrics(LABEL_KEYS).families_of(snapshot(*gallery(), **changes))
    )
    served = b"".join(exposition.render(form).body).decode()

    assert [] == differences(golden, without_process(served))


def published(now: Snapshot) -> Publication:
    return SnapshotMetrics().families_of(now)


def by_name(families: Any) -> dict[str, Metric]:
    return {family.name: family for family in families}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def label_of(family: Metric, label: str) -> dict[str, float]:
    """Return a family's values by one of its labels; the family has one container."""
    return {sample.labels[label]: sample.value for sample in family.samples}


HEALTH_FAMILIES = {"container_health", "docker_container_health_status"}
DETAIL_FAMILIES = {
    "docker_container_started_timestamp_seconds",
    "docker_container_restarts",
    "docker_container_start_failed",
    "docker_container_oom_killed",
    "docker_container_restart_policy",
}
LISTED_FAMILIES = {
    "docker_container_info",
    "docker_container_state",
    "docker_container_created_timestamp_seconds",
    *HEALTH_FAMILIES,
}
ALL_FAMILIES = LISTED_FAMILIES | DETAIL_FAMILIES
CROWD = tuple(container(f"web-{number}", details=details()) for number in range(9))


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        (tuple(each._replace() for each in CROWD), set()),
        ((CROWD[0]._replace(created_ns=CREATED * 10**9 + 5), *CROWD[1:]), set()),
        ((CROWD[0]._replace(health_status="unhealthy"), *CROWD[1:]), HEALTH_FAMILIES),
        ((CROWD[0]._replace(image="new"), *CROWD[1:]), {"docker_container_info"}),
        ((CROWD[0]._replace(image_id="new"), *CROWD[1:]), {"docker_container_info"}),
        (
            (CROWD[0]._replace(details=details(restarts=1)), *CROWD[1:]),
            {"docker_container_restarts"},
        ),
        ((CROWD[0]._replace(details=None), *CROWD[1:]), DETAIL_FAMILIES),
        ((*CROWD[1:], container("new-1", details=details())), ALL_FAMILIES),
        ((CROWD[0]._replace(name="renamed"), *CROWD[1:]), ALL_FAMILIES),
        (CROWD[1:], ALL_FAMILIES),
        (CROWD[::-1], ALL_FAMILIES),
    ],
)
def test_only_changed_families_are_renewed(
    containers: tuple[Container, ...], expected: set[str]
) -> None:
    """A change renews only the families that show it; other containers or another order renew all."""
    metrics = SnapshotMetrics()
    before = by_name(metrics.families_of(snapshot(*CROWD)).families)
    after = by_name(metrics.families_of(snapshot(*containers)).families)

    assert before.keys() == after.keys()
    assert expected == {name for name, family in after.items() if family is not before[name]}


def test_families_after_an_outage() -> None:
    """After an outage that changed no containers, the families are the same objects as before."""
    metrics = SnapshotMetrics()
    before = metrics.families_of(snapshot(*CROWD))
    lost = metrics.families_of(snapshot(*CROWD, up=False, listed=False))
    after = metrics.families_of(snapshot(*CROWD))

    assert before.fallback[1] is lost.families[1]
    assert [*map(id, before.families)] == [*map(id, after.families)]


def test_an_upgrade_of_the_engine() -> None:
    """An upgrade of the engine changes only `docker_engine_info`."""
    metrics = SnapshotMetrics()
    before = by_name(metrics.families_of(snapshot(*CROWD)).families)
    engine = snapshot().engine
    assert engine is not None
    after = by_name(
        metrics.families_of(
            snapshot(*CROWD, engine=engine._replace(version="30.0.0"))
        ).families
    )

    assert ["docker_engine_info"] == [
        n for n, family in after.items() if values(family) != values(before[n])
    ]
    assert label_of(after["docker_engine_info"], "version") == {"30.0.0": 1}


def test_trust() -> None:
    """A publication is trusted as long as its snapshot."""
    assert 120 == published(snapshot()).trusted_until


@pytest.mark.parametrize("changes", [{}, {"up": False, "listed": False}])
def test_without_an_engine(changes: dict[str, bool]) -> None:
    """Without a recent poll of an engine, only `docker_up` and `container_health` are exported, as 0."""
    publication = published(snapshot(*gallery(), **changes))
    families = by_name(publication.families if changes else publication.fallback)

    assert ["docker_up", "container_health"] == [*families]
    assert {(): 0.0} == values(families["docker_up"])
    assert {(each.id, each.name): 0.0 for each in gallery()} == values(
        families["container_health"]
    )


def test_a_list_that_failed_leaves_docker_up() -> None:
    """If only the list failed, `docker_up` is 1 and `container_health` is 0."""
    families = by_name(published(snapshot(container(), listed=False)).families)

    assert ["docker_up", "docker_engine_info", "container_health"] == [*families]
    assert {(): 1.0} == values(families["docker_up"])
    assert [0.0] == [*values(families["container_health"]).values()]


def test_families_without_a_sample_are_left_out() -> None:
    """A container that was not inspected has only the families of the list."""
    families = by_name(published(snapshot(container())).families)

    assert LISTED_FAMILIES == families.keys() - {"docker_up", "docker_engine_info"}


def test_without_containers() -> None:
    """Without containers there are only the families of the engine and the exporter."""
    publication = published(snapshot())

    assert ["docker_up", "docker_engine_info"] == [*by_name(publication.families)]
    assert ["docker_up"] == [*by_name(publication.fallback)]
    assert {(): 0.0} == values(by_name(publication.own)["docker_exporter_containers_watched"])


def test_known_series_start_at_0() -> None:
    """Before the first poll, each counter has all its series, with the value 0."""
    own = by_name(published(Snapshot(ended=100, trusted_for=20, polled=False)).own)
    errors = {(endpoint, reason) for endpoint in ENDPOINTS for reason in REASONS} - {
        ("inspect", "not_found")
    }

    assert errors == {*FAILURES}
    assert dict.fromkeys(errors, 0.0) == values(own["docker_exporter_api_errors"])
    assert dict.fromkeys([(each,) for each in ENDPOINTS], 0.0) == values(
        own["docker_exporter_api_requests"]
    )
    assert {("success",): 0.0, ("failure",): 0.0} == values(own["docker_exporter_polls"])
    assert {(): 0.0} == values(own["docker_exporter_last_success_timestamp_seconds"])


def test_counts_and_times_are_shown() -> None:
    """The counts and times of a snapshot are exported."""
    now = snapshot(container(), duration=1.5, last_success=7.0)
    now.counts.polls["failure"] = 2
    now.counts.requests["list"] = 3
    now.counts.errors["ping", "timeout"] = 4
    own = by_name(published(now).own)

    assert 2 == values(own["docker_exporter_polls"])["failure",]
    assert 3 == values(own["docker_exporter_api_requests"])["list",]
    assert 4 == values(own["docker_exporter_api_errors"])["ping", "timeout"]
    assert {(): 1.5} == values(own["docker_exporter_poll_duration_seconds"])
    assert {(): 7.0} == values(own["docker_exporter_last_success_timestamp_seconds"])
    assert {(): 1.0} == values(own["docker_exporter_containers_watched"])


@pytest.mark.parametrize(("policy", "expected"), [("no", {"no": 1.0}), (None, None)])
def test_restart_policy(policy: str | None, expected: dict[str, float] | None) -> None:
    """A known restart policy is one series; an unknown one is not exported."""
    families = by_name(
        published(snapshot(container(details=details(restart_policy=policy)))).families
    )
    family = families.get("docker_container_restart_policy")

    assert expected == (label_of(family, "policy") if family else None)


def test_chosen_labels() -> None:
    """The chosen labels are in a family of their own; without chosen labels it does not exist."""
    now = snapshot(container(labels=("payments", "")))
    family = by_name(SnapshotMetrics(("com.example.team", "tier")).families_of(now).families)[
        "docker_container_labels"
    ]

    assert [{"label_com_example_team": "payments", "label_tier": ""}] == [
        {key: value for key, value in sample.labels.items() if key not in ("id", "name")}
        for sample in family.samples
    ]
    assert "docker_container_labels" not in by_name(published(now).families)


def test_image_and_creation() -> None:
    """The image's id is exported, and the time of creation in whole seconds."""
    families = by_name(
        published(snapshot(container(created_ns=CREATED * 10**9 + 999_999_999))).families
    )
    created = values(families["docker_container_created_timestamp_seconds"])

    assert {IMAGE_ID: 1.0} == label_of(families["docker_container_info"], "image_id")
    assert [CREATED] == [*created.values()]
