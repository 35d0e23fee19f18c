"""The status page: a `Snapshot` as one HTML document, which runs no script and fetches nothing."""

from __future__ import annotations

import gzip
import hashlib
import math
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
from docker_prom_exporter.containers import LABEL, ContainerHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker_prom_exporter.containers import Container
    from docker_prom_exporter.snapshot import Failure, Snapshot

_STYLE: Final = Path(__file__).with_name("status_page.css").read_text("utf-8")

_STYLE_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_LEAST_REFRESH: Final = 5
_MOST_REFRESH: Final = 60

_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='8' cy='8' r='7' fill='%23{}'/%3E%3C/svg%3E"
)
_ICON_COLOURS: Final = {"good": "1a9c57", "warn": "e0a030", "bad": "d93a3f"}

_COLUMNS: Final = (
    ("Container", ""),
    ("Compose project / service", ""),
    ("Health", ""),
    ("State", ""),
    ("Since", ""),
    ("Restart policy", ""),
    ("Restarts", "number"),
    ("Exit code", "number"),
    ("Failing streak", "number"),
)


_MODES: Final = {
    "list": "list: one list in each poll, inspects where a row has changed",
    "inspect": "inspect: each container is inspected, only new ones are listed",
}


class _Verdict(NamedTuple):
    """A container's health in a word and, for those who see it, a shape and a tone; the worst has rank 0."""

    rank: int
    word: str
    mark: str
    tone: str


_UNHEALTHY: Final = _Verdict(0, "unhealthy", "▲", "bad")
_FAILED: Final = _Verdict(1, "stopped", "■", "bad")
_UNKNOWN: Final = _Verdict(2, "unknown", "?", "warn")
_STARTING: Final = _Verdict(3, "starting", "◐", "warn")
_STOPPED: Final = _Verdict(4, "stopped", "■", "off")
_VERDICTS: Final = {
    ContainerHealth.UNHEALTHY: _UNHEALTHY,
    ContainerHealth.ALIVE: _Verdict(5, "no healthcheck", "○", "off"),
    ContainerHealth.HEALTHY: _Verdict(6, "healthy", "●", "good"),
}


class _State(NamedTuple):
    """What there is to say of the engine first: a tone and a sentence."""

    tone: str
    mark: str
    sentence: str


@dataclass(frozen=True)
class StatusPage:
    """Renders what `take` returns, at most once for each snapshot and second, however many ask.

    `poll_interval` is in seconds; `only_labelled` and `details` are the exporter's settings; `docs` is an
    address, or empty. `clock` is that of a snapshot's `ended`; `now` gives Unix seconds.
    """

    take: Callable[[], Snapshot]
    poll_interval: float
    only_labelled: bool
    details: bool
    docs: str = ""
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    _kept: dict[bool, tuple[Snapshot, int, bytes, bytes]] = field(default_factory=dict, init=False)
    _rendering: threading.Lock = field(default_factory=threading.Lock, init=False)

    headers = (
        ("Content-Security-Policy", _POLICY),
        ("Cache-Control", "no-store"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Frame-Options", "DENY"),
    )
    """What to tell a browser with the page: nothing may be fetched, run or framed."""

    def render(self, *, refreshing: bool = True, gzipped: bool = False) -> bytes:
        """Return the page in UTF-8; unless it is `refreshing`, it stays until somebody reloads it."""
        with self._rendering:
            snapshot, clock = self.take(), self.clock()
            kept = self._kept.get(refreshing)
            if kept is None or kept[0] is not snapshot or kept[1] != int(clock):
                html = self._html(snapshot, clock, refreshing=refreshing)
                kept = snapshot, int(clock), html, gzip.compress(html, 1, mtime=0)
                self._kept[refreshing] = kept
        return kept[3] if gzipped else kept[2]

    def _html(self, snapshot: Snapshot, clock: float, *, refreshing: bool) -> bytes:
        trusted = snapshot if clock <= snapshot.trusted_until else snapshot.distrusted()
        view = _View(self, trusted, clock - snapshot.ended, self.now(), refreshing)
        return "\n".join(_document(view)).encode()


class _View(NamedTuple):
    """What a page shows: a snapshot that was `age` seconds old at the Unix time `now`."""

    page: StatusPage
    snapshot: Snapshot
    age: float
    now: float
    refreshing: bool

    @property
    def old(self) -> bool:
        return self.age > self.snapshot.trusted_for

    @property
    def refresh(self) -> int:
        return min(max(math.ceil(self.page.poll_interval), _LEAST_REFRESH), _MOST_REFRESH)

    @property
    def state(self) -> _State:
        snapshot = self.snapshot
        if self.old:
            return _State("bad", "▲", "Docker is not being watched")
        if not snapshot.polled:
            return _State("warn", "◐", "Docker has not answered yet")
        if not snapshot.up:
            return _State("bad", "▲", "Docker is down")
        if not snapshot.listed:
            return _State("warn", "?", "Docker is up, but does not list its containers")
        return _State("good", "●", "Docker is up")

    def verdict(self, container: Container) -> _Verdict:
        if not self.snapshot.listed:
            return _UNKNOWN
        if container.health == ContainerHealth.STOPPED:
            return _FAILED if _has_failed(container) else _STOPPED
        if container.running and container.health_status == "starting":
            return _STARTING
        return _VERDICTS.get(container.health, _UNKNOWN)

    def ago(self, when: float) -> str:
        """Return how long ago that is; nothing where the calendar ends before, as Docker's years go on."""
        try:
            return f"{self.time(when, _span(self.now - when))} ago"
        except (ValueError, OverflowError, OSError):
            return ""

    def time(self, when: float, text: str) -> str:
        moment = datetime.fromtimestamp(when, UTC)
        iso = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
        return f'<time datetime="{iso}" title="{moment:%Y-%m-%d %H:%M:%S} UTC">{escape(text)}</time>'


def _has_failed(container: Container) -> bool:
    """Tell whether it stopped by itself, or is between two restarts."""
    details = container.details
    killed = details is not None and (details.oom_killed or bool(details.exit_code))
    return killed or container.state in ("restarting", "dead")


def _document(view: _View) -> Iterator[str]:
    containers = sorted(
        ((view.verdict(container), container) for container in view.snapshot.containers),
        key=lambda pair: (pair[0].rank, pair[1].name, pair[1].id),
    )
    tally = Counter(verdict.word for verdict, _ in containers)
    yield from _head(view, tally)
    yield "<body>"
    yield '<p class="notice stale" role="status"><strong>This page is old:</strong> '
    yield 'it was loaded more than 90 seconds ago. <a href="./">Load it anew</a></p>'
    yield from _header(view)
    yield "<main>"
    yield from _containers(view, containers, tally)
    yield from _left_out(view)
    yield from _exporter(view)
    yield "</main>"
    yield from _footer(view)
    yield "</body>\n</html>\n"


def _head(view: _View, tally: Counter[str]) -> Iterator[str]:
    state = view.state
    trouble = f", {tally['unhealthy']} unhealthy" if tally["unhealthy"] else ""
    tone = "bad" if trouble else state.tone
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    if view.refreshing:
        yield f'<meta http-equiv="refresh" content="{view.refresh}">'
    yield f"<title>{state.sentence}{trouble} · docker-prom-exporter</title>"
    yield f'<link rel="icon" href="{_ICON.format(_ICON_COLOURS[tone])}">'
    yield f"<style>{_STYLE}</style>\n</head>"


def _header(view: _View) -> Iterator[str]:
    """Say first whether Docker is up, and since when; then, where something is wrong, what to do about it."""
    snapshot, state = view.snapshot, view.state
    yield "<header>"
    if snapshot.engine and snapshot.engine.is_simulated:
        yield '<p class="notice"><strong>This is a simulation.</strong> The exporter is real; the engine and '
        yield "its containers are made up by <code>docker-prom-exporter demo</code>.</p>"
    yield f'<p class="brand">docker-prom-exporter {escape(__version__)}</p>'
    yield f'<h1><span class="mark {state.tone}" aria-hidden="true">{state.mark}</span>{state.sentence}</h1>'
    yield f'<p class="facts">{" · ".join(_engine_facts(view))}</p>'
    if view.old:
        yield '<p class="notice bad"><strong>What is shown here is old.</strong> '
        yield f"The last poll ended {_span(view.age)} ago, so nobody knows what holds of it now. "
        yield "The exporter is stuck: its log says more.</p>"
    elif snapshot.failure:
        yield from _failure(snapshot.failure, state.tone)
    yield "</header>"


def _engine_facts(view: _View) -> Iterator[str]:
    snapshot, engine = view.snapshot, view.snapshot.engine
    if snapshot.polled and not view.old:
        yield f"since {view.ago(snapshot.since)}"
    if engine:
        yield escape(f"{engine.name} {engine.version}".strip())
        yield f"API {escape(engine.api_version)}"
        yield escape("/".join(filter(None, (engine.os, engine.arch))))


def _failure(failure: Failure, tone: str) -> Iterator[str]:
    reason = f"{failure.reason}: {failure.detail}"
    yield f'<div class="notice {tone}">'
    yield f"<p><code>{escape(failure.endpoint)}</code> {escape(reason)}</p>"
    if failure.advice:
        yield f"<p>What to do: {escape(failure.advice)}</p>"
    yield "<p><code>docker-prom-exporter check</code> with the same options looks into it.</p></div>"


def _containers(
    view: _View, containers: list[tuple[_Verdict, Container]], tally: Counter[str]
) -> Iterator[str]:
    yield '<h2 id="containers">Containers</h2>'
    if not containers:
        yield "<p>No container is watched.</p>" if view.snapshot.polled else "<p>None is known yet.</p>"
        return
    shown = {verdict.word: verdict for verdict, _ in reversed(containers)}
    yield '<ul class="tally" aria-label="Containers by health">'
    for verdict in sorted(shown.values()):
        yield f"<li>{_word(verdict, f'{tally[verdict.word]} {verdict.word}')}</li>"
    yield "</ul>"
    yield "<table>"
    yield f"<caption>{_caption(view)}</caption>"
    yield "<thead><tr>"
    yield "".join(f'<th scope="col"{_class(css)}>{name}</th>' for name, css in _COLUMNS)
    yield "</tr></thead>\n<tbody>"
    for verdict, container in containers:
        yield _row(view, verdict, container)
    yield "</tbody></table>"
    yield from _details_missing(view)


def _caption(view: _View) -> str:
    snapshot = view.snapshot
    if not snapshot.listed:
        return f"Last seen: {len(snapshot.containers)}. Nobody knows how they are now."
    watched = len(snapshot.containers)
    all_of_them = "" if snapshot.unwatched is None else f" of {watched + snapshot.unwatched}"
    return f"Watched: {watched}{all_of_them}. The worst come first."


def _row(view: _View, verdict: _Verdict, container: Container) -> str:
    compose = (container.compose_project, container.compose_service)
    cells = [
        escape(" / ".join(filter(None, compose))),
        f'<span class="verdict">{_word(verdict, verdict.word)}</span>',
    ]
    cells += _facts(view, container) if view.snapshot.listed else [""] * 6
    columns = zip(cells, _COLUMNS[1:], strict=True)
    return (
        f'<tr><th scope="row"><bdi>{escape(container.name)}</bdi></th>'
        + "".join(f"<td{_class(css)}>{cell}</td>" for cell, (_, css) in columns)
        + "</tr>"
    )


def _facts(view: _View, container: Container) -> list[str]:
    """Return the cells from the state on; what does not apply, or nobody knows, is empty."""
    since = _since(container)
    details = container.details
    return [
        escape(container.state or "unknown"),
        view.ago(since) if since else "",
        (details.restart_policy or "") if details else "",
        str(details.restarts) if details else "",
        _exit(container),
        str(details.failing_streak) if details and container.running and details.failing_streak else "",
    ]


def _since(container: Container) -> float | None:
    """Return the Unix time since which it is in its state; None where Docker tells none, as of a pause."""
    if container.state == "created":
        return container.created
    if container.details is None or container.state in ("paused", "removing"):
        return None
    return container.details.started if container.running else container.details.finished


def _exit(container: Container) -> str:
    details = container.details
    if details is None or container.running:
        return ""
    memory = "out\xa0of\xa0memory" if details.oom_killed else ""
    code = "" if details.exit_code is None else str(details.exit_code)
    text = ", ".join(filter(None, (code, memory)))
    return f'<strong class="bad">{text}</strong>' if details.exit_code or memory else text


def _details_missing(view: _View) -> Iterator[str]:
    snapshot = view.snapshot
    missing = sum(container.details is None for container in snapshot.containers)
    if not view.page.details:
        yield '<p class="facts">Restart policies, exit codes and times are left out: '
        yield "<code>CONTAINER_DETAILS=false</code>.</p>"
    elif missing and snapshot.listed:
        yield f'<p class="facts">Restart policies, exit codes and times are missing for {missing} of them, '
        yield "as inspecting them fails: <code>docker-prom-exporter check</code> says why.</p>"


def _left_out(view: _View) -> Iterator[str]:
    """Say how to see which containers are not watched, and give the fix to copy."""
    snapshot = view.snapshot
    if not snapshot.listed or snapshot.unwatched == 0:
        return
    yield "<h2>Not watched</h2>"
    if view.page.only_labelled:
        yield "<p>Docker is asked for labelled containers only. "
        yield "<code>docker-prom-exporter check</code> shows the others. "
        yield "To have one watched, add to its service in a Compose file:</p>"
        yield f'<pre><code>labels:\n  {LABEL}: "true"</code></pre>'
        yield "<p>and create its container anew, or have the exporter watch all but those labelled false:</p>"
        yield "<pre><code>CONTAINER_HEALTH_FILTER_LABEL=false</code></pre>"
    else:
        yield f"<p>{_count(snapshot.unwatched)} labelled not to be watched: "
        yield "<code>docker-prom-exporter check</code> names them. "
        yield "To have one watched, create it anew without:</p>"
        yield f'<pre><code>{LABEL}: "false"</code></pre>'


def _count(unwatched: int | None) -> str:
    if unwatched is None:
        return "Some containers may be"
    return "1 container is" if unwatched == 1 else f"{unwatched} containers are"


def _exporter(view: _View) -> Iterator[str]:
    snapshot, polls = view.snapshot, view.snapshot.counts.polls
    yield '<h2 id="exporter">Exporter</h2>\n<dl>'
    if snapshot.polled:
        took = _duration(snapshot.duration)
        when = view.time(view.now - view.age, _span(view.age))
        yield f"<dt>Last poll</dt><dd>{when} ago, took {took}</dd>"
    if snapshot.last_success:
        yield f"<dt>Last success</dt><dd>{view.ago(snapshot.last_success)}</dd>"
    yield f"<dt>Interval</dt><dd>{view.page.poll_interval:g} s</dd>"
    yield f"<dt>Mode</dt><dd>{_MODES[snapshot.mode]}</dd>"
    yield f"<dt>Polls</dt><dd>{polls['success']} succeeded, {polls['failure']} failed</dd>"
    yield f"<dt>Errors</dt><dd>{_errors(snapshot)}</dd>\n</dl>"


def _errors(snapshot: Snapshot) -> str:
    counts = snapshot.counts
    errors = [f"{endpoint} {reason}: {count}" for (endpoint, reason), count in counts.errors.items() if count]
    return escape(f"{'; '.join(errors) or 'none'}, in {sum(counts.requests.values())} requests")


def _footer(view: _View) -> Iterator[str]:
    yield f'<footer>\n<p class="as-of">As of {view.time(view.now, f"{_utc(view.now)} UTC")}. '
    if view.refreshing:
        yield f'The page renews itself every {view.refresh} s. <a href="?refresh=off">Keep it still</a></p>'
    else:
        yield 'The page stays as it is. <a href="./">Let it renew itself</a></p>'
    docs = f'<a href="{escape(view.page.docs)}">Documentation</a>' if view.page.docs else "README.md"
    yield f'<p><a href="metrics">/metrics</a> for Prometheus · {docs} · '
    yield "<code>docker-prom-exporter --help</code></p>"
    yield "<p><code>container_health</code> is 0 unknown or starting, 1 stopped, 2 no healthcheck, "
    yield "3 unhealthy, 4 healthy.</p>\n</footer>"


def _word(verdict: _Verdict, text: str) -> str:
    mark = f'<span class="mark {verdict.tone}" aria-hidden="true">{verdict.mark}</span>'
    return f"{mark}{escape(text)}"


def _class(css: str) -> str:
    return f' class="{css}"' if css else ""


def _utc(when: float) -> str:
    return f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M:%S}"


def _span(seconds: float) -> str:
    """Word a span by its two largest units: `2 h 5 min`."""
    left = max(int(seconds), 0)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    said = parts[first : first + 2]
    return " ".join(f"{count} {unit}" for count, unit in said if count or len(said) == 1)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
