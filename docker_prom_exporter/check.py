"""The command `check`: report each endpoint's answer and the watched containers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from docker_prom_exporter.collect import choose_mode, list_everything
from docker_prom_exporter.containers import (
    DOUBTS,
    LABEL,
    ContainerHealth,
    parse_inspect,
    stores_images_in_containerd,
)
from docker_prom_exporter.deadline import NEVER
from docker_prom_exporter.engine import EngineError, advise
from docker_prom_exporter.output import printable
from docker_prom_exporter.texts import span
from docker_prom_exporter.watching import why_none_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from docker_prom_exporter.containers import Container
    from docker_prom_exporter.deadline import Deadline
    from docker_prom_exporter.engine import Engine
    from docker_prom_exporter.settings import Settings
    from docker_prom_exporter.snapshot import EngineInfo

_OUTCOMES: Final = {
    "unreachable": "absent",
    "timeout": "too slow",
    "denied": "denied",
    "not_found": "absent",
    "bad_response": "nonsense",
    "error": "failed",
}
_GREEN, _RED, _YELLOW = "32", "31", "33"

_MAX_NAMES: Final = 20


class Report(NamedTuple):
    """Writes lines of a topic, a word and an explanation, the word in colour if `coloured`."""

    stream: TextIO
    coloured: bool = False

    def say(self, topic: str, word: str, explanation: str = "", *, colour: str = "") -> None:
        """Write one line."""
        padded = f"{word:<9}"
        if self.coloured and colour:
            padded = f"\033[{colour}m{padded}\033[0m"
        line = f"{topic:<9} {padded} {printable(explanation)}".rstrip()
        self.stream.write(f"{line}\n")
        self.stream.flush()


def check(engine: Engine, settings: Settings, report: Report) -> int:
    """Ask each endpoint once and report.

    Return 0 if container health can be reported, else 1.
    """
    report.say("engine", engine.url)
    return _Check(engine, settings, report).run()


class _Check:
    def __init__(self, engine: Engine, settings: Settings, report: Report) -> None:
        self._engine = engine
        self._settings = settings
        self._report = report
        self._errors: dict[str, EngineError] = {}

    def run(self) -> int:
        info = self._ask("version", self._engine.connect, _describe)
        if error := self._errors.get("version"):
            if error.status is None and error.reason != "bad_response":
                for endpoint in ("ping", "list", "inspect"):
                    self._skip(endpoint, "the engine did not answer")
                return self._fail("Docker did not answer")
            self._engine.connect_without_version(NEVER)
        pong = self._ask("ping", self._engine.ping, lambda _: "")

        def list_all(_: Deadline) -> Any:
            return list_everything(self._engine, self._settings)

        listed = self._ask("list", list_all, lambda answer: f"{len(answer[0])} containers")
        containers, expensive = listed or ([], False)
        inspected = self._inspect(info, containers)
        self._report_health(
            parse_inspect(
                inspected,
                now=pong and pong.date,
                is_podman=info is not None and info.is_podman,
            ),
            pong and pong.date,
        )
        if listed:
            self._report_watched(containers)
        else:
            self._report.say("watched", "unknown", "the list did not answer", colour=_RED)
        if self._errors.keys() - {"inspect"}:
            return self._fail("version, ping and list must answer")
        expensive = expensive or stores_images_in_containerd(inspected)
        self._report_mode(info, expensive=expensive and not info.is_podman)
        if "inspect" in self._errors and info.is_podman:
            return self._fail(f"{info.name} reports health by inspect only")
        self._succeed(containers)
        return 0

    def _succeed(self, containers: list[Container]) -> None:
        """Report the success; in yellow where there is nothing to report about, and why."""
        explanation = "container health can be reported"
        if "inspect" in self._errors:
            explanation += ", but no restarts, exit codes and times"
        colour = _GREEN
        if not any(map(self._is_watched, containers)):
            why = why_none_watched(
                only_labelled=self._settings.container_health_filter_label,
                unwatched=len(containers),
            )
            explanation += f", but no container is watched: {why}"
            colour = _YELLOW
        self._report.say("result", "good", explanation, colour=colour)

    def _fail(self, why: str) -> int:
        self._report.say(
            "result", "bad", f"container health can't be reported: {why}", colour=_RED
        )
        return 1

    def _ask(
        self,
        endpoint: str,
        question: Callable[[Deadline], Any],
        describe: Callable[[Any], str],
    ) -> Any:
        """Ask one question, report the outcome, return the answer or `None`."""
        began = time.monotonic()
        try:
            answer = question(NEVER)
        except EngineError as error:
            self._errors[endpoint] = error
            explanation = ": ".join(
                filter(None, (error.detail, advise(error, self._engine.url)))
            )
            self._report.say(endpoint, _OUTCOMES[error.reason], explanation, colour=_RED)
            return None
        took = f"in {(time.monotonic() - began) * 1000:.0f} ms"
        explanation = ", ".join(filter(None, (describe(answer), took)))
        self._report.say(endpoint, "answered", explanation, colour=_GREEN)
        return answer

    def _skip(self, endpoint: str, why: str) -> None:
        self._report.say(endpoint, "not asked", why, colour=_YELLOW)

    def _inspect(self, info: EngineInfo | None, containers: list[Container]) -> Any:
        """Inspect one container, the worst of the watched ones if there are any."""
        if not containers:
            return self._skip("inspect", "the list named no container")
        if not self._settings.container_details and info and not info.is_podman:
            return self._skip("inspect", "CONTAINER_DETAILS=false needs none")
        watched = [container for container in containers if self._is_watched(container)]
        one = min(watched or containers, key=_badness)

        def question(deadline: Deadline) -> Any:
            answer = self._engine.inspect([one.id], deadline).answers[one.id]
            if not isinstance(answer, EngineError):
                return answer
            if answer.reason == "not_found":
                return None
            raise answer

        return self._ask(
            "inspect",
            question,
            lambda answer: one.name if answer else f"{one.name} was removed meanwhile",
        )

    def _report_health(self, container: Container | None, now: float | None) -> None:
        """Report why the inspected container is not healthy; `now` is the engine's clock."""
        if container is None or not container.running or container.details is None:
            return
        if container.health in (ContainerHealth.HEALTHY, ContainerHealth.ALIVE):
            return
        status = container.health_status or "what the exporter does not know"
        reasons = [f"{container.name}: the engine says {status}"]
        if container.doubt:
            reasons[0] += f", but {DOUBTS[container.doubt]}"
        if probe := container.details.probe:
            age = "" if now is None else f" {span(now - probe.ended)} ago"
            reasons.append(f"last probe{age}: {probe.outcome}")
        word = container.doubt or container.health_status or "unknown"
        self._report.say("health", word, "; ".join(reasons), colour=_YELLOW)

    def _is_watched(self, container: Container) -> bool:
        return container.is_watched(only_labelled=self._settings.container_health_filter_label)

    def _report_watched(self, containers: list[Container]) -> None:
        """Report the watched containers, and the other containers by reason."""
        watched = [container for container in containers if self._is_watched(container)]
        colour, count = _GREEN if watched else _YELLOW, f"{len(watched)} of {len(containers)}"
        self._report.say("watched", count, _names(watched), colour=colour)
        left_out: dict[str, list[Container]] = {}
        for container in containers:
            if not self._is_watched(container):
                left_out.setdefault(_why_left_out(container), []).append(container)
        for why, group in left_out.items():
            self._report.say("left out", str(len(group)), f"{why}: {_names(group)}")
        misspelled: dict[str, list[Container]] = {}
        for container in containers:
            if container.similar_label:
                misspelled.setdefault(container.similar_label, []).append(container)
        for key, group in misspelled.items():
            explanation = f"the label {key} is not {LABEL}: {_names(group)}"
            self._report.say("typo?", str(len(group)), explanation, colour=_YELLOW)
        if self._settings.container_labels:
            self._report.say("labels", "exported", ", ".join(self._settings.container_labels))

    def _report_mode(self, info: EngineInfo, *, expensive: bool) -> None:
        """Report how each poll finds the containers, and why."""
        mode = choose_mode(
            podman=info.is_podman,
            expensive=expensive,
            details=self._settings.container_details,
            denied="inspect" in self._errors,
        )
        colour = "" if mode.reason == "engine" else _YELLOW
        self._report.say("mode", mode.name, mode.explanation, colour=colour)


def _describe(info: EngineInfo) -> str:
    name, platform = (
        f"{info.name} {info.version}".strip(),
        "/".join(filter(None, (info.os, info.arch))),
    )
    return ", ".join(filter(None, (name, f"API {info.api_version}", platform)))


def _badness(container: Container) -> int:
    """Return 0 for an unhealthy container, 1 for another without a verdict, 2 for the rest."""
    if container.health == ContainerHealth.UNHEALTHY:
        return 0
    return 1 if container.health == ContainerHealth.UNKNOWN else 2


def _why_left_out(container: Container) -> str:
    if container.has_invalid_label:
        return f"the label {LABEL} is neither true nor false"
    return f"no label {LABEL}=true" if container.enabled is None else f"{LABEL}=false"


def _names(containers: Iterable[Container]) -> str:
    names = [container.name for container in containers]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
