"""What polls log: each change of state once, not with each poll."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from docker_prom_exporter.containers import LABEL
from docker_prom_exporter.snapshot import Failure
from docker_prom_exporter.watching import why_none_watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from docker_prom_exporter.collect import PollResult
    from docker_prom_exporter.engine import EngineError
    from docker_prom_exporter.snapshot import EngineInfo

_REPORT_IT: Final = "this is a fault of the exporter: report it, with the trace in its log"
_SLOW: Final = (
    "polls take longer than POLL_INTERVAL, and what is left is inspected first in the next "
    "one: raise POLL_INTERVAL, or watch fewer containers"
)


class PollLog:
    """Logs the results and failures of polls; after `stop` is set, nothing.

    `explain` turns an error into a `Failure` with a remedy; `only_labelled` is
    CONTAINER_HEALTH_FILTER_LABEL.
    """

    def __init__(
        self, explain: Callable[[EngineError], Failure], stop: Event, *, only_labelled: bool
    ) -> None:
        self._explain = explain
        self._stop = stop
        self._only_labelled = only_labelled
        self._log = structlog.get_logger()

        # The last value of each topic.
        self._last: dict[str, Any] = {}

    def log_result(self, result: PollResult, info: EngineInfo | None) -> None:
        """Log what has changed since the last result."""
        mode = result.mode
        if info is not None and self._has_changed("docker", (info, mode)):
            self._log.info(
                "docker.found",
                engine=info.name,
                version=info.version,
                api_version=info.api_version,
                mode=mode.name,
                reason=mode.reason,
                watched=len(result.containers),
            )
            expensive = mode.reason != "engine" and not info.is_podman
            self._warn_of(
                "containers.listing_is_expensive", expensive, advice=mode.explanation
            )
        rows, postponed = result.unreadable, result.postponed
        self._warn_of(
            "containers.rows_ignored", rows, rows=rows, cause="no id, or another row's"
        )
        self._warn_of("polls.slow", postponed > 0, inspects_postponed=postponed, advice=_SLOW)
        self._log_none_watched(result)
        self._log_invalid_labels(result)
        self._log_similar_labels(result)
        self._log_missing_details(result)
        self._log_list_error(result.list_error)

    def log_failure(self, error: EngineError, failure: Failure) -> None:
        """Log that Docker does not answer, or answers the ping only."""
        event = "docker.lost"
        if error.endpoint in ("list", "inspect"):
            event = "containers.unknown"
        if self._has_changed("docker", (event, error.reason == "denied")):
            self._warn(event, **_fields(failure))

    def log_unexpected(self, event: str, error: Exception, topic: str = "") -> Failure:
        """Log where an error of the exporter itself comes from; return its explanation.

        The end of an error of the topic `docker` is logged by `log_result`.
        """
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).stem}.{place.name}, line {place.lineno}"
        # Without the message, which may quote an answer of the engine.
        detail = f"unexpected {type(error).__name__} in {where}"
        if self._has_changed(topic or event, (event, detail)):
            self._log.error(event, error=detail, exc_info=error)
        return Failure("exporter", "error", detail, _REPORT_IT)

    def _log_invalid_labels(self, result: PollResult) -> None:
        known = self._last.get("labels", ())
        for container_id, name in result.invalid_labels.items():
            if container_id not in known:
                takes = "true or false"
                self._warn("container.label_ignored", name=name, label=LABEL, takes=takes)
        self._last["labels"] = {*result.invalid_labels}

    def _log_none_watched(self, result: PollResult) -> None:
        advice = ""
        if not result.containers:
            why = why_none_watched(
                only_labelled=self._only_labelled,
                unwatched=result.unwatched,
            )
            advice = f"{why}; docker-prom-exporter check shows all containers"
        self._warn_of("containers.none_watched", advice, advice=advice)

    def _log_similar_labels(self, result: PollResult) -> None:
        """Warn of misspelled labels, which a poll sees only without the filter by label."""
        known = self._last.get("similar labels", ())
        misspelled = {c.id: c for c in result.containers if c.similar_label}
        for container_id, container in misspelled.items():
            if container_id not in known:
                self._warn(
                    "container.label_unknown",
                    name=container.name,
                    label=container.similar_label,
                    similar=LABEL,
                )
        self._last["similar labels"] = {*misspelled}

    def _log_missing_details(self, result: PollResult) -> None:
        """Warn once for each reason, not for each container and poll."""
        by_reason: dict[str, list[EngineError]] = {}
        for error in result.errors.values():
            by_reason.setdefault(error.reason, []).append(error)
        if result.put_aside and not by_reason:
            # Their details are still missing, only no inspect was due.
            return
        if self._has_changed("inspect", {*by_reason}):
            for errors in by_reason.values():
                explained = _fields(self._explain(errors[-1]))
                self._warn("containers.details_missing", containers=len(errors), **explained)

    def _log_list_error(self, error: EngineError | None) -> None:
        reason = None if error is None else error.reason
        if self._has_changed("new containers", reason) and error is not None:
            self._warn("containers.new_unknown", **_fields(self._explain(error)))

    def _warn(self, event: str, **more: Any) -> None:
        # A stop cuts requests; that is no failure.
        if not self._stop.is_set():
            self._log.warning(event, **more)

    def _warn_of(self, event: str, value: object, **more: Any) -> None:
        """Warn when a value changes, unless it is false."""
        if self._has_changed(event, value) and value:
            self._warn(event, **more)

    def _has_changed(self, topic: str, value: Any) -> bool:
        before, self._last[topic] = self._last.get(topic), value
        return bool(before != value)


def _fields(failure: Failure) -> dict[str, str]:
    """Return the keys and values that a log line has for a failure, without empty ones."""
    return {key: text for key, text in failure._asdict().items() if text}
