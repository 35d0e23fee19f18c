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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from docker_prom_exporter.containers import Container, Details
    from docker_prom_exporter.snapshot import Snapshot

_STYLE: Final = Path(__file__).with_suffix(".css").read_text("utf-8")
_STYLE_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HTML: Final = Path(__file__).with_suffix(".html").read_text("utf-8")
_PARTS: Final = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n(?=<!-- |\Z)", _HTML, re.DOTALL))

_MIN_REFRESH: Final = 5
_MAX_REFRESH: Final = 60
_ICON_COLOURS: Final = {"good": "1a9c57", "warn": "e0a030", "bad": "d93a3f"}


class _Html(str):
    """Text that needs no escaping."""

    __slots__ = ()


class _Verdict(NamedTuple):
    """A word, with a symbol and a tone for sighted readers.

    Containers sort by `rank`; 0 is the worst.
    """

    word: str
    mark: str
    tone: str
    rank: int = 0


_UNHEALTHY: Final = _Verdict("unhealthy", "▲", "bad", 0)
_RESTARTING: Final = _Verdict("restarting", "↻", "bad", 1)
_FAILED: Final = _Verdict("failed", "■", "bad", 2)
_UNKNOWN: Final = _Verdict("unknown", "?", "warn", 3)
_STARTING: Final = _Verdict("starting", "◐", "warn", 4)
_STOPPED: Final = _Verdict("stopped", "■", "off", 5)
_ALIVE: Final = _Verdict("no healthcheck", "○", "off", 6)
_HEALTHY: Final = _Verdict("healthy", "●", "good", 7)
_DOUBTED: Final[dict[str | None, _Verdict]] = {
    doubt: _UNKNOWN._replace(word=doubt) for doubt in DOUBTS
}
_VERDICTS: Final = {
    ContainerHealth.UNHEALTHY: _UNHEALTHY,
    ContainerHealth.ALIVE: _ALIVE,
    ContainerHealth.HEALTHY: _HEALTHY,
}

# `docker stop` ends a program by SIGTERM (143), or by SIGKILL (137) if that takes too long.
_EXIT_CODES_OF_A_STOP: Final = (0, 137, 143)

# A running container counts as restarting if its policy has restarted it so often, the last
# time
# within so many seconds.
_LOOP_RESTARTS: Final = 3
_LOOP_SECONDS: Final = 300

_UNFOLDED_ROWS: Final = 60
_DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")

_Row = tuple[_Verdict, "Container"]


@dataclass(frozen=True)
class StatusPage:
    """Renders the snapshot that `take` returns, at most once for each snapshot and second.

    `poll_interval` is in seconds; `only_labelled` and `details` are the exporter's settings.
    `clock` is the clock of a snapshot's `ended`; `now` returns Unix seconds.
    """

    take: Callable[[], Snapshot]
    poll_interval: float
    only_labelled: bool
    details: bool
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    _kept: dict[bool, tuple[Snapshot, int, bytes, bytes]] = field(
        default_factory=dict, init=False
    )
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
            kept = self._kept.get(refreshing)
            if kept is None or kept[0] is not snapshot or kept[1] != int(clock):
                html = self._page(snapshot, clock, self.now(), refreshing=refreshing).encode()
                kept = snapshot, int(clock), html, gzip.compress(html, 1, mtime=0)
                self._kept[refreshing] = kept
        return kept[3] if gzipped else kept[2]

    def _page(self, snapshot: Snapshot, clock: float, now: float, *, refreshing: bool) -> str:
        old, age = clock > snapshot.trusted_until, clock - snapshot.ended
        if old:
            snapshot = snapshot.distrusted()
        rows = []
        for container in snapshot.containers:
            rows.append((_verdict(container, now, listed=snapshot.listed), container))
        rows.sort(key=lambda row: (row[0].rank, row[1].name, row[1].id))
        heading = _heading(snapshot, old=old)
        if snapshot.listed:
            heading = _with_the_worst(heading, [verdict for verdict, _ in rows])
        seconds = min(max(math.ceil(self.poll_interval), _MIN_REFRESH), _MAX_REFRESH)
        return _fill(
            "page",
            refresh=refreshing and _fill("refresh", seconds=seconds),
            title=heading.word,
            colour=_ICON_COLOURS[heading.tone],
            style=_Html(_STYLE),
            simulation=snapshot.engine
            and snapshot.engine.is_simulated
            and _fill("simulation"),
            version=__version__,
            heading=_fill("verdict", **heading._asdict()),
            engine=_engine(snapshot, now, old=old),
            notice=_fill("stuck", age=span(age)) if old else _failure(snapshot, heading.tone),
            containers=self._containers(snapshot, rows, now, unfolded=not refreshing),
            misspelled=_misspelled(snapshot),
            not_watched=self._not_watched(snapshot),
            exporter=self._exporter(snapshot, now - age, now),
            now=datetime.fromtimestamp(now, UTC),
            renewal=_fill("renewing", seconds=seconds) if refreshing else _fill("still"),
        )

    def _containers(
        self, snapshot: Snapshot, rows: list[_Row], now: float, *, unfolded: bool
    ) -> _Html:
        if not rows:
            return _fill("no_containers", text=self._why_none(snapshot))
        missing = snapshot.listed and sum(container.details is None for _, container in rows)
        note = _fill("details_missing", count=missing) if missing else None
        shown, folded = rows, None
        if len(rows) > _UNFOLDED_ROWS:
            shown = [row for row in rows if row[0].rank < _ALIVE.rank]
            well = rows[len(shown) :]
            if well:
                folded = _fill(
                    "folded",
                    open=unfolded and _Html(" open"),
                    count=len(well),
                    table=_table(well, now, "Sorted by health and name.", listed=True),
                )
        caption = _caption(snapshot)
        return _fill(
            "containers",
            tally=_tally(rows),
            table=_table(shown, now, caption, listed=snapshot.listed)
            if shown
            else _fill("no_containers", text=caption),
            folded=folded,
            note=note if self.details else _fill("details_off"),
        )

    def _why_none(self, snapshot: Snapshot) -> str:
        if not snapshot.polled:
            return "No container is known yet."
        if not snapshot.listed:
            return "No container was watched."
        why = why_none_watched(only_labelled=self.only_labelled, unwatched=snapshot.unwatched)
        return f"No container is watched: {why}."

    def _not_watched(self, snapshot: Snapshot) -> _Html | None:
        """Return how to list the containers that are not watched, and how to change that."""
        if not snapshot.listed or snapshot.unwatched == 0:
            return None
        if self.only_labelled:
            return _fill("unlabelled", label=LABEL)
        counts = {None: "Some containers may be", 1: "1 container is"}
        count = counts.get(snapshot.unwatched, f"{snapshot.unwatched} containers are")
        return _fill("labelled_false", label=LABEL, count=count)

    def _exporter(self, snapshot: Snapshot, ended: float, now: float) -> _Html:
        counts, took = snapshot.counts, snapshot.duration
        duration = f"{took * 1000:.0f} ms" if took < 1 else f"{took:.1f} s"
        if took > self.poll_interval:
            duration += ", longer than the interval"
        errors = "; ".join(
            f"{' '.join(what)}: {count}" for what, count in counts.errors.items() if count
        )
        facts = {
            "Last poll": snapshot.polled
            and _joined((_ago(ended, now), f", took {duration}"), ""),
            "Last success": _ago(snapshot.last_success, now),
            "Interval": f"{self.poll_interval:g} s",
            "Mode": f"{snapshot.mode.name}: {snapshot.mode.explanation}",
            "Polls": f"{counts.polls['success']} succeeded, {counts.polls['failure']} failed",
            "Errors": f"{errors or 'none'}, in {sum(counts.requests.values())} requests",
        }
        return _joined(
            _fill("fact", term=term, text=text) for term, text in facts.items() if text
        )


def _heading(snapshot: Snapshot, *, old: bool) -> _Verdict:
    if old:
        return _Verdict("Docker is not being watched", "▲", "bad")
    if not snapshot.polled:
        return _Verdict("Docker has not answered yet", "◐", "warn")
    if not snapshot.up:
        return _Verdict("Docker is down", "▲", "bad")
    if not snapshot.listed:
        return _Verdict("Docker is up, but does not list its containers", "?", "warn")
    return _Verdict("Docker is up", "●", "good")


def _engine(snapshot: Snapshot, now: float, *, old: bool) -> _Html:
    facts: list[str] = []
    if snapshot.polled and not old:
        state = "up since " if snapshot.up else "down since "
        facts.append(_joined((state, _ago(snapshot.since, now)), ""))
    if engine := snapshot.engine:
        platform = "/".join(filter(None, (engine.os, engine.arch)))
        facts += [
            f"{engine.name} {engine.version}".strip(),
            f"API {engine.api_version}",
            platform,
        ]
    return _joined(facts, " · ")


def _failure(snapshot: Snapshot, tone: str) -> _Html | None:
    if snapshot.failure is None:
        return None
    endpoint, reason, detail, advice = snapshot.failure
    advice = advice and _fill("advice", advice=advice)
    return _fill(
        "failure", tone=tone, endpoint=endpoint, reason=reason, detail=detail, advice=advice
    )


def _with_the_worst(heading: _Verdict, verdicts: list[_Verdict]) -> _Verdict:
    """Return the heading with the number of containers of each kind that needs attention."""
    kinds = (_UNHEALTHY, _RESTARTING, _FAILED, _UNKNOWN)
    ranks = Counter(verdict.rank for verdict in verdicts)
    there = [kind for kind in kinds if ranks[kind.rank]]
    if not there:
        return heading
    counts = [f"{ranks[kind.rank]} {kind.word}" for kind in there]
    return there[0]._replace(word=", ".join((heading.word, *counts)))


def _tally(rows: list[_Row]) -> _Html:
    """Return the number of containers for each word, in the order of the rows."""
    counts = Counter(verdict.word for verdict, _ in rows)
    chips = []
    for verdict in dict.fromkeys(verdict for verdict, _ in rows):
        counted = verdict._replace(word=f"{counts[verdict.word]} {verdict.word}")
        chips.append(_fill("tally", verdict=_fill("verdict", **counted._asdict())))
    return _joined(chips)


def _table(rows: list[_Row], now: float, caption: str, *, listed: bool) -> _Html:
    cells = [_row(verdict, container, now, listed=listed) for verdict, container in rows]
    return _fill("table", caption=caption, rows=_joined(cells))


def _misspelled(snapshot: Snapshot) -> _Html | None:
    """Return which containers have a label that was probably meant as the exporter's."""
    items = []
    for container in snapshot.containers:
        if container.similar_label:
            key = container.similar_label
            items.append(_fill("similar", name=container.name, key=key, label=LABEL))
    return _fill("misspelled", items=_joined(items)) if items else None


def _caption(snapshot: Snapshot) -> str:
    watched = len(snapshot.containers)
    if not snapshot.listed:
        return f"Last seen: {watched}. Their current state is unknown."
    all_of_them = "" if snapshot.unwatched is None else f" of {watched + snapshot.unwatched}"
    return f"Watched: {watched}{all_of_them}. The worst come first."


def _verdict(container: Container, now: float, *, listed: bool) -> _Verdict:
    if not listed:
        return _UNKNOWN
    if container.running:
        return _running_verdict(container, now)
    if container.state == "restarting":
        return _RESTARTING
    if container.health == ContainerHealth.STOPPED:
        return _FAILED if _has_failed(container) else _STOPPED
    return _UNKNOWN


def _running_verdict(container: Container, now: float) -> _Verdict:
    if container.health == ContainerHealth.UNHEALTHY:
        return _UNHEALTHY
    if _restarts_often(container, now):
        return _RESTARTING
    if container.health_status == "starting":
        return _STARTING
    return _DOUBTED.get(container.doubt) or _VERDICTS.get(container.health, _UNKNOWN)


def _has_failed(container: Container) -> bool:
    """Return whether a container was stopped by a failure, not on purpose."""
    details = container.details
    if container.state == "dead" or details is None:
        return container.state == "dead"
    if details.oom_killed or details.start_failed:
        return True
    return (details.exit_code or 0) not in _EXIT_CODES_OF_A_STOP


def _restarts_often(container: Container, now: float) -> bool:
    details = container.details
    if not container.running or details is None or details.started is None:
        return False
    return details.restarts >= _LOOP_RESTARTS and now - details.started < _LOOP_SECONDS


def _row(verdict: _Verdict, container: Container, now: float, *, listed: bool) -> _Html:
    """Return a row; a cell that does not apply, or whose value is unknown, is empty."""
    details, running = container.details if listed else None, container.running
    return _fill(
        "row",
        name=container.name,
        image=_DIGEST.sub(r"\1…", container.image),
        compose=" / ".join(
            filter(None, (container.compose_project, container.compose_service))
        ),
        verdict=_fill("verdict", **verdict._asdict()),
        reason=listed and _reason(container, now),
        state=listed and (container.state or "unknown"),
        since=listed and _ago(_since(container), now),
        policy=details and details.restart_policy,
        restarts=details and details.restarts,
        exit=details and not running and _exit(container, details),
        streak=details and running and (details.failing_streak or None),
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
        reasons.append(
            _joined(("last probe ", _ago(probe.ended, now), ": ", probe.outcome), "")
        )
    return _fill("reason", text=_joined(reasons, "; ")) if reasons else None


def _since(container: Container) -> float | None:
    """Return the Unix time of the last change of state.

    None if Docker has none, as for a pause.
    """
    if container.state == "created":
        return container.created
    if container.details is None or container.state in ("paused", "removing"):
        return None
    return container.details.started if container.running else container.details.finished


def _exit(container: Container, details: Details) -> str:
    words = []
    if details.exit_code is not None:
        words.append(str(details.exit_code))
    if details.oom_killed:
        words.append("out\xa0of\xa0memory")
    if details.start_failed:
        words.append("start\xa0failed")
    text = ", ".join(words)
    failed = container.state == "restarting" or _has_failed(container)
    return _fill("failed", exit=text) if text not in ("", "0") and failed else text


def _ago(when: float | None, now: float) -> _Html | None:
    """Return how long ago a Unix time is.

    None if `datetime` can't represent the time, which Docker can.
    """
    try:
        return (
            _fill("ago", when=datetime.fromtimestamp(when, UTC), span=span(now - when))
            if when
            else None
        )
    except (ValueError, OverflowError, OSError):
        return None


def _fill(part: str, **values: object) -> _Html:
    """Fill in a part of status_page.html.

    Text is escaped here and in `_joined`; None and False are empty.
    """
    return _Html(
        _PARTS[part].format_map({name: _escaped(value) for name, value in values.items()})
    )


def _joined(parts: Iterable[object], separator: str = "\n") -> _Html:
    return _Html(separator.join(str(_escaped(part)) for part in parts))


def _escaped(value: object) -> object:
    if value is None or value is False:
        return ""
    return value if isinstance(value, _Html) or not isinstance(value, str) else escape(value)
