"""The status page: a `Snapshot` as one HTML document that loads and runs nothing else."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import threading
import time
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter import __version__
from docker_prom_exporter.containers import DOUBTS, LABEL, ContainerHealth
from docker_prom_exporter.texts import span
from docker_prom_exporter.watching import why_none_watched
from docker_prom_exporter.web.verdicts import (
    ALIVE,
    FAILED,
    RESTARTING,
    UNHEALTHY,
    UNKNOWN,
    Verdict,
    has_failed,
    verdict_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from docker_prom_exporter.containers import Container, Details
    from docker_prom_exporter.snapshot import Counts, Snapshot

_STYLE: Final = Path(__file__).with_suffix(".css").read_text("utf-8")
_STYLE_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HTML: Final = Path(__file__).with_suffix(".html").read_text("utf-8")
# Each part begins with a comment that has its name.
_PARTS: Final = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n(?=<!-- |\Z)", _HTML, re.DOTALL))

# In seconds.
_MIN_REFRESH: Final = 5
_MAX_REFRESH: Final = 60
_ICON_COLOURS: Final = {"good": "1a9c57", "warn": "e0a030", "bad": "d93a3f"}

# Above so many rows, those that need no attention are folded.
_UNFOLDED_ROWS: Final = 60
_DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")

# The cells of a row that may be empty.
_CELLS: Final = ("reason", "state", "since", "policy", "restarts", "exit", "streak")


class _Html(str):
    """Text that needs no escaping."""

    __slots__ = ()


class _View(NamedTuple):
    """What one page shows."""

    snapshot: Snapshot
    now: float  # in Unix seconds
    age: float  # of the snapshot, in seconds
    old: bool  # whether the snapshot can't be trusted any more


class _Row(NamedTuple):
    verdict: Verdict
    container: Container


class _Rendered(NamedTuple):
    snapshot: Snapshot
    second: int  # of `StatusPage.clock`
    html: bytes
    gzipped: bytes


@dataclass(frozen=True)
class StatusPage:
    """Renders a snapshot, at most once for each snapshot and second. Thread-safe."""

    take: Callable[[], Snapshot]  # returns the last snapshot
    poll_interval: float  # in seconds
    only_labelled: bool  # CONTAINER_HEALTH_FILTER_LABEL
    details: bool  # CONTAINER_DETAILS
    clock: Callable[[], float] = time.monotonic  # the clock of `Snapshot.ended`
    now: Callable[[], float] = time.time  # Unix seconds
    # The last page that reloads itself (`True`), and the last one that does not.
    _rendered: dict[bool, _Rendered] = field(default_factory=dict, init=False)
    _rendering: threading.Lock = field(default_factory=threading.Lock, init=False)

    headers = (
        ("Content-Security-Policy", _POLICY),
        ("Cache-Control", "no-store"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Frame-Options", "DENY"),
    )
    """Headers of the page: a browser may not fetch, run or frame anything."""

    def render(self, *, refreshing: bool = True, gzipped: bool = False) -> bytes:
        """Return the page in UTF-8; if it is not `refreshing`, it does not reload itself."""
        with self._rendering:
            snapshot, clock = self.take(), self.clock()
            page = self._rendered.get(refreshing)
            if page is None or page.snapshot is not snapshot or page.second != int(clock):
                page = self._render(snapshot, clock, refreshing=refreshing)
                self._rendered[refreshing] = page
        if gzipped:
            return page.gzipped
        return page.html

    def _render(self, snapshot: Snapshot, clock: float, *, refreshing: bool) -> _Rendered:
        shown, old = snapshot, clock > snapshot.trusted_until
        if old:
            shown = snapshot.distrusted()
        view = _View(shown, self.now(), clock - snapshot.ended, old)
        html = self._document(view, refreshing=refreshing).encode()
        return _Rendered(snapshot, int(clock), html, gzip.compress(html, 1, mtime=0))

    def _document(self, view: _View, *, refreshing: bool) -> str:
        snapshot = view.snapshot
        rows = _rows(view)
        heading = _heading(view)
        if snapshot.listed:
            heading = _with_the_worst(heading, rows)
        seconds = min(max(math.ceil(self.poll_interval), _MIN_REFRESH), _MAX_REFRESH)
        refresh, renewal = None, _fill("still")
        if refreshing:
            refresh = _fill("refresh", seconds=seconds)
            renewal = _fill("renewing", seconds=seconds)
        simulation = None
        if snapshot.engine and snapshot.engine.is_simulated:
            simulation = _fill("simulation")
        return _fill(
            "page",
            refresh=refresh,
            title=heading.word,
            colour=_ICON_COLOURS[heading.tone],
            style=_Html(_STYLE),
            simulation=simulation,
            version=__version__,
            heading=_fill("verdict", **heading._asdict()),
            engine=_engine(view),
            notice=_notice(view, heading.tone),
            containers=self._containers(view, rows, unfolded=not refreshing),
            misspelled=_misspelled(snapshot),
            not_watched=self._not_watched(snapshot),
            exporter=self._exporter(view),
            now=datetime.fromtimestamp(view.now, UTC),
            renewal=renewal,
        )

    def _containers(self, view: _View, rows: list[_Row], *, unfolded: bool) -> _Html:
        if not rows:
            return _fill("no_containers", text=self._why_none(view.snapshot))
        shown, folded = _split(rows)
        caption = _caption(view.snapshot)
        table, fold = _fill("no_containers", text=caption), None
        if shown:
            table = _table(view, shown, caption)
        if folded:
            fold = _fill(
                "folded",
                open=unfolded and _Html(" open"),
                count=len(folded),
                table=_table(view, folded, "Sorted by health and name."),
            )
        note = self._note(view.snapshot)
        return _fill("containers", tally=_tally(rows), table=table, folded=fold, note=note)

    def _why_none(self, snapshot: Snapshot) -> str:
        if not snapshot.polled:
            return "No container is known yet."
        if not snapshot.listed:
            return "No container was watched."
        why = why_none_watched(only_labelled=self.only_labelled, unwatched=snapshot.unwatched)
        return f"No container is watched: {why}."

    def _note(self, snapshot: Snapshot) -> _Html | None:
        """Return why details are missing, if any are."""
        if not self.details:
            return _fill("details_off")
        missing = sum(container.details is None for container in snapshot.containers)
        # While the engine does not list its containers, their details are old, not missing.
        if not snapshot.listed or missing == 0:
            return None
        return _fill("details_missing", count=missing)

    def _not_watched(self, snapshot: Snapshot) -> _Html | None:
        """Return how to list the containers that are not watched, and how to change that."""
        if not snapshot.listed or snapshot.unwatched == 0:
            return None
        if self.only_labelled:
            return _fill("unlabelled", label=LABEL)
        count = f"{snapshot.unwatched} containers are"
        if snapshot.unwatched is None:  # inspect mode does not list them
            count = "Some containers may be"
        elif snapshot.unwatched == 1:
            count = "1 container is"
        return _fill("labelled_false", label=LABEL, count=count)

    def _exporter(self, view: _View) -> _Html:
        snapshot = view.snapshot
        counts, mode = snapshot.counts, snapshot.mode
        facts: list[tuple[str, str | None]] = []
        if snapshot.polled:
            ended = _ago(view.now - view.age, view.now)
            took = self._duration(snapshot.duration)
            facts.append(("Last poll", _joined((ended, ", took ", took), "")))
        facts += [
            ("Last success", _ago(snapshot.last_success, view.now)),
            ("Interval", f"{self.poll_interval:g} s"),
            ("Mode", f"{mode.name}: {mode.explanation}"),
            ("Polls", "{success} succeeded, {failure} failed".format(**counts.polls)),
            ("Errors", f"{_errors(counts)}, in {sum(counts.requests.values())} requests"),
        ]
        return _joined(_fill("fact", term=term, text=text) for term, text in facts if text)

    def _duration(self, seconds: float) -> str:
        if seconds < 1:
            return f"{seconds * 1000:.0f} ms"
        if seconds <= self.poll_interval:
            return f"{seconds:.1f} s"
        return f"{seconds:.1f} s, longer than the interval"


def _errors(counts: Counts) -> str:
    errors = []
    for (endpoint, reason), count in counts.errors.items():
        if count:
            errors.append(f"{endpoint} {reason}: {count}")
    return "; ".join(errors) or "none"


def _rows(view: _View) -> list[_Row]:
    """Return the containers with their verdicts, the worst first."""
    rows = []
    for container in view.snapshot.containers:
        verdict = UNKNOWN
        if view.snapshot.listed:
            verdict = verdict_of(container, view.now)
        rows.append(_Row(verdict, container))
    rows.sort(key=lambda row: (row.verdict.rank, row.container.name, row.container.id))
    return rows


def _heading(view: _View) -> Verdict:
    snapshot = view.snapshot
    if view.old:
        return Verdict("Docker is not being watched", "▲", "bad")
    if not snapshot.polled:
        return Verdict("Docker has not answered yet", "◐", "warn")
    if not snapshot.up:
        return Verdict("Docker is down", "▲", "bad")
    if not snapshot.listed:
        return Verdict("Docker is up, but does not list its containers", "?", "warn")
    return Verdict("Docker is up", "●", "good")


def _with_the_worst(heading: Verdict, rows: list[_Row]) -> Verdict:
    """Return the heading with the number of containers of each kind that needs attention."""
    counts = Counter(row.verdict.rank for row in rows)
    words, worst = [heading.word], heading
    # From the least to the most urgent, so that the look is that of the worst.
    for kind in (UNKNOWN, FAILED, RESTARTING, UNHEALTHY):
        if counts[kind.rank]:
            words.insert(1, f"{counts[kind.rank]} {kind.word}")
            worst = kind
    return worst._replace(word=", ".join(words))


def _engine(view: _View) -> _Html:
    snapshot = view.snapshot
    facts: list[str] = []
    if snapshot.polled and not view.old:
        state = "down since "
        if snapshot.up:
            state = "up since "
        facts.append(_joined((state, _ago(snapshot.since, view.now)), ""))
    engine = snapshot.engine
    if engine:
        facts.append(f"{engine.name} {engine.version}".strip())
        facts.append(f"API {engine.api_version}")
        facts.append("/".join(filter(None, (engine.os, engine.arch))))
    return _joined(facts, " · ")


def _notice(view: _View, tone: str) -> _Html | None:
    """Return what is wrong, and what to do."""
    if view.old:
        return _fill("stuck", age=span(view.age))
    failure = view.snapshot.failure
    if failure is None:
        return None
    parts = failure._asdict()
    if failure.advice:
        parts["advice"] = _fill("advice", advice=failure.advice)
    return _fill("failure", tone=tone, **parts)


def _split(rows: list[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Return the rows to show, and those to fold."""
    if len(rows) <= _UNFOLDED_ROWS:
        return rows, []
    shown = sum(row.verdict.rank < ALIVE.rank for row in rows)
    return rows[:shown], rows[shown:]


def _tally(rows: list[_Row]) -> _Html:
    """Return the number of containers for each word, in the order of the rows."""
    chips = []
    for verdict, count in Counter(row.verdict for row in rows).items():
        counted = verdict._replace(word=f"{count} {verdict.word}")
        chips.append(_fill("tally", verdict=_fill("verdict", **counted._asdict())))
    return _joined(chips)


def _table(view: _View, rows: list[_Row], caption: str) -> _Html:
    cells = _joined(_row(view, row.verdict, row.container) for row in rows)
    return _fill("table", caption=caption, rows=cells)


def _misspelled(snapshot: Snapshot) -> _Html | None:
    """Return which containers have a label that was probably meant as the exporter's."""
    items = []
    for container in snapshot.containers:
        key = container.similar_label
        if key:
            items.append(_fill("similar", name=container.name, key=key, label=LABEL))
    if not items:
        return None
    return _fill("misspelled", items=_joined(items))


def _caption(snapshot: Snapshot) -> str:
    watched = len(snapshot.containers)
    if not snapshot.listed:
        return f"Last seen: {watched}. Their current state is unknown."
    count = f"{watched}"
    if snapshot.unwatched is not None:
        count = f"{watched} of {watched + snapshot.unwatched}"
    return f"Watched: {count}. The worst come first."


def _row(view: _View, verdict: Verdict, container: Container) -> _Html:
    """Return a row; a cell that does not apply, or whose value is unknown, is empty."""
    cells: dict[str, object] = dict.fromkeys(_CELLS)
    details = container.details
    if view.snapshot.listed:
        cells["reason"] = _reason(container, view.now)
        cells["state"] = container.state or "unknown"
        cells["since"] = _ago(_since(container), view.now)
    if view.snapshot.listed and details:
        cells["policy"] = details.restart_policy
        cells["restarts"] = details.restarts
        if container.running:
            cells["streak"] = details.failing_streak or None
        else:
            cells["exit"] = _exit(container, details)
    project = container.compose_project, container.compose_service
    return _fill(
        "row",
        name=container.name,
        image=_DIGEST.sub(r"\1…", container.image),
        compose=" / ".join(filter(None, project)),
        verdict=_fill("verdict", **verdict._asdict()),
        **cells,
    )


def _reason(container: Container, now: float) -> _Html | None:
    """Return why a running container is not healthy: a doubt, and its last probe."""
    if not container.running or container.health == ContainerHealth.HEALTHY:
        return None
    reasons = []
    if container.doubt:
        status, doubt = container.health_status, DOUBTS[container.doubt]
        reasons.append(f"the engine says {status}, but {doubt}")
    probe = container.details and container.details.probe
    if probe:
        parts = "last probe ", _ago(probe.ended, now), ": ", probe.outcome
        reasons.append(_joined(parts, ""))
    if not reasons:
        return None
    return _fill("reason", text=_joined(reasons, "; "))


def _since(container: Container) -> float | None:
    """Return the Unix time of the last change of state.

    `None` if Docker has none, as for a pause.
    """
    if container.state == "created":
        return container.created
    if container.details is None or container.state in ("paused", "removing"):
        return None
    if container.running:
        return container.details.started
    return container.details.finished


def _exit(container: Container, details: Details) -> str:
    words = []
    if details.exit_code is not None:
        words.append(str(details.exit_code))
    if details.oom_killed:
        words.append("out\xa0of\xa0memory")
    if details.start_failed:
        words.append("start\xa0failed")
    text = ", ".join(words)
    failed = container.state == "restarting" or has_failed(container)
    # A dead container may have exited with 0.
    if failed and text not in ("", "0"):
        return _fill("failed", exit=text)
    return text


def _ago(when: float | None, now: float) -> _Html | None:
    """Return how long ago a Unix time is."""
    if not when:
        return None
    try:
        time_of_day = datetime.fromtimestamp(when, UTC)
    except (ValueError, OverflowError, OSError):
        # Docker allows years after 9999, Python does not.
        return None
    return _fill("ago", when=time_of_day, span=span(now - when))


def _fill(part: str, **values: object) -> _Html:
    """Fill in a part of status_page.html.

    Text is escaped here and in `_joined`; `None` and `False` are empty.
    """
    escaped = {name: _escaped(value) for name, value in values.items()}
    return _Html(_PARTS[part].format_map(escaped))


def _joined(parts: Iterable[object], separator: str = "\n") -> _Html:
    return _Html(separator.join(str(_escaped(part)) for part in parts))


def _escaped(value: object) -> object:
    if value is None or value is False:
        return ""
    if isinstance(value, str) and not isinstance(value, _Html):
        return escape(value)
    # Numbers and times keep their type, for the formats of the parts.
    return value
