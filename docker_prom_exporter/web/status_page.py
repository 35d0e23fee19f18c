"""The status page: a `Snapshot` as one HTML document without scripts and without external resources."""

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
    """A word, with a symbol and a tone for sighted readers. Containers sort by `rank`; 0 is the worst."""

    word: str
    mark: str
    tone: str
    rank: int = 0


_UNHEALTHY: Final = _Verdict("unhealthy", "▲", "bad", 0)
_FAILED: Final = _Verdict("stopped", "■", "bad", 1)
_UNKNOWN: Final = _Verdict("unknown", "?", "warn", 2)
_STARTING: Final = _Verdict("starting", "◐", "warn", 3)
_STOPPED: Final = _Verdict("stopped", "■", "off", 4)
_DOUBTED: Final[dict[str | None, _Verdict]] = {
    doubt: _Verdict(doubt, "?", "warn", 2) for doubt in DOUBTS
}
_VERDICTS: Final = {
    ContainerHealth.UNHEALTHY: _UNHEALTHY,
    ContainerHealth.ALIVE: _Verdict("no healthcheck", "○", "off", 5),
    ContainerHealth.HEALTHY: _Verdict("healthy", "●", "good", 6),
}


@dataclass(frozen=True)
class StatusPage:
    """Renders the snapshot that `take` returns, at most once for each snapshot and second.

    `poll_interval` is in seconds; `only_labelled` and `details` are the exporter's settings. `clock` is the
    clock of a snapshot's `ended`; `now` returns Unix seconds.
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
        heading = _heading(snapshot, old=old)
        rows = sorted(
            ((_verdict(each, listed=snapshot.listed), each) for each in snapshot.containers),
            key=lambda row: (row[0].rank, row[1].name, row[1].id),
        )
        unhealthy = sum(verdict is _UNHEALTHY for verdict, _ in rows)
        seconds = min(max(math.ceil(self.poll_interval), _MIN_REFRESH), _MAX_REFRESH)
        return _fill(
            "page",
            refresh=refreshing and _fill("refresh", seconds=seconds),
            title=f"{heading.word}, {unhealthy} unhealthy" if unhealthy else heading.word,
            colour=_ICON_COLOURS["bad" if unhealthy else heading.tone],
            style=_Html(_STYLE),
            simulation=snapshot.engine
            and snapshot.engine.is_simulated
            and _fill("simulation"),
            version=__version__,
            heading=_fill("verdict", **heading._asdict()),
            engine=_engine(snapshot, now, old=old),
            notice=_fill("stuck", age=span(age)) if old else _failure(snapshot, heading.tone),
            containers=self._containers(snapshot, rows, now),
            not_watched=self._not_watched(snapshot),
            exporter=self._exporter(snapshot, now - age, now),
            now=datetime.fromtimestamp(now, UTC),
            renewal=_fill("renewing", seconds=seconds) if refreshing else _fill("still"),
        )

    def _containers(
        self, snapshot: Snapshot, rows: list[tuple[_Verdict, Container]], now: float
    ) -> _Html:
        if not rows:
            text = (
                "No container is watched." if snapshot.polled else "No container is known yet."
            )
            return _fill("no_containers", text=text)
        worst = {verdict.word: verdict for verdict, _ in reversed(rows)}
        tally = Counter(verdict.word for verdict, _ in rows)
        tallied = (
            worst[word]._replace(word=f"{count} {word}") for word, count in tally.items()
        )
        missing = snapshot.listed and sum(container.details is None for _, container in rows)
        note = _fill("details_missing", count=missing) if missing else None
        return _fill(
            "containers",
            tally=_joined(
                _fill("tally", verdict=_fill("verdict", **each._asdict())) for each in tallied
            ),
            caption=_caption(snapshot),
            rows=_joined(
                _row(verdict, each, now, listed=snapshot.listed) for verdict, each in rows
            ),
            note=note if self.details else _fill("details_off"),
        )

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
        facts.append(_joined(("since ", _ago(snapshot.since, now)), ""))
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


def _caption(snapshot: Snapshot) -> str:
    watched = len(snapshot.containers)
    if not snapshot.listed:
        return f"Last seen: {watched}. Their current state is unknown."
    all_of_them = "" if snapshot.unwatched is None else f" of {watched + snapshot.unwatched}"
    return f"Watched: {watched}{all_of_them}. The worst come first."


def _verdict(container: Container, *, listed: bool) -> _Verdict:
    if not listed:
        return _UNKNOWN
    if container.health == ContainerHealth.STOPPED:
        details = container.details
        killed = details and (details.oom_killed or details.exit_code)
        return _FAILED if killed or container.state in ("restarting", "dead") else _STOPPED
    if container.running and container.health_status == "starting":
        return _STARTING
    if container.doubt:
        return _DOUBTED[container.doubt]
    return _VERDICTS.get(container.health, _UNKNOWN)


def _row(verdict: _Verdict, container: Container, now: float, *, listed: bool) -> _Html:
    """Return a row; a cell that does not apply, or whose value is unknown, is empty."""
    details, running = container.details if listed else None, container.running
    return _fill(
        "row",
        name=container.name,
        compose=" / ".join(
            filter(None, (container.compose_project, container.compose_service))
        ),
        verdict=_fill("verdict", **verdict._asdict()),
        reason=listed and _reason(container, now),
        state=listed and (container.state or "unknown"),
        since=listed and _ago(_since(container), now),
        policy=details and details.restart_policy,
        restarts=details and details.restarts,
        exit=details and not running and _exit(details),
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
    """Return the Unix time of the last change of state; None if Docker has none, as for a pause."""
    if container.state == "created":
        return container.created
    if container.details is None or container.state in ("paused", "removing"):
        return None
    return container.details.started if container.running else container.details.finished


def _exit(details: Details) -> str:
    code = "" if details.exit_code is None else str(details.exit_code)
    memory = "out\xa0of\xa0memory" if details.oom_killed else ""
    text = ", ".join(filter(None, (code, memory)))
    return _fill("failed", exit=text) if details.exit_code or memory else text


def _ago(when: float | None, now: float) -> _Html | None:
    """Return how long ago a Unix time is; None if `datetime` can't represent the time, which Docker can."""
    try:
        return (
            _fill("ago", when=datetime.fromtimestamp(when, UTC), span=span(now - when))
            if when
            else None
        )
    except (ValueError, OverflowError, OSError):
        return None


def _fill(part: str, **values: object) -> _Html:
    """Fill in a part of status_page.html. Text is escaped here and in `_joined`; None and False are empty."""
    return _Html(
        _PARTS[part].format_map({name: _escaped(value) for name, value in values.items()})
    )


def _joined(parts: Iterable[object], separator: str = "\n") -> _Html:
    return _Html(separator.join(str(_escaped(part)) for part in parts))


def _escaped(value: object) -> object:
    if value is None or value is False:
        return ""
    return value if isinstance(value, _Html) or not isinstance(value, str) else escape(value)
