"""The command `check`: report each endpoint's answer and the watched containers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from docker_prom_exporter.collect import although_listed, choose_mode, list_everything
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
    from collections.abc import Callable, Iterable, Sequence

    from docker_prom_exporter.containers import Container, Probe
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
_GREEN: Final = "32"
_RED: Final = "31"
_YELLOW: Final = "33"

_MAX_NAMES: Final = 20


class Report(NamedTuple):
    """Writes lines of a topic, a word and an explanation."""

    stream: TextIO
    coloured: bool = False  # whether a terminal shows the words in colour

    def write(self, topic: str, word: str, explanation: str = "", *, colour: str = "") -> None:
        """Write one line. A colour is the number of an ANSI escape code."""
        padded = f"{word:<9}"
        if self.coloured and colour:
            padded = f"\033[{colour}m{padded}\033[0m"
        line = f"{topic:<9} {padded} {printable(explanation)}".rstrip()
        self.stream.write(f"{line}\n")
        self.stream.flush()


def check(engine: Engine, settings: Settings, report: Report) -> int:
    """Request each endpoint once and report.

    Return 0 if container health can be reported, else 1.
    """
    report.write("engine", engine.url)
    return _Check(engine, settings, report).run()


class _Check:
    _errors: dict[str, EngineError]  # the failed requests, by endpoint

    def __init__(self, engine: Engine, settings: Settings, report: Report) -> None:
        self._engine = engine
        self._settings = settings
        self._report = report
        self._errors = {}

    def run(self) -> int:
        info = self._request("version", self._engine.connect, _describe)
        error = self._errors.get("version")
        if error and not _has_answered(error):
            self._skip("the engine did not answer", "ping", "list", "inspect")
            return self._fail("Docker did not answer")
        if error:
            # A proxy may deny /version only; the ping has the API version, too.
            self._engine.connect_without_version(NEVER)
        pong = self._request("ping", self._engine.ping, lambda _: "")
        listed = self._request(
            "list",
            lambda _: list_everything(self._engine, self._settings),
            lambda answer: _count(answer[0]),
        )
        containers, expensive = listed or ([], False)
        inspected = self._inspect(info, containers)
        self._report_health(inspected, info, pong and pong.date)
        if listed is None:
            self._report.write("watched", "unknown", "the list did not answer", colour=_RED)
        else:
            self._report_containers(containers)
        # An inspect shows this of engines whose lists don't.
        expensive = expensive or stores_images_in_containerd(inspected)
        return self._conclude(info, containers, expensive=expensive)

    def _conclude(
        self, info: EngineInfo | None, containers: list[Container], *, expensive: bool
    ) -> int:
        if info is None or self._errors.keys() - {"inspect"}:
            return self._fail("version, ping and list must answer")
        self._report_mode(info, expensive=expensive)
        # Podman's list has no health.
        if info.is_podman and "inspect" in self._errors:
            return self._fail(f"{info.name} reports health by inspect only")
        return self._succeed(containers)

    def _succeed(self, containers: list[Container]) -> int:
        """Report the success; in yellow where there is nothing to report about, and why."""
        explanation = "container health can be reported"
        if "inspect" in self._errors:
            explanation += ", but no restarts, exit codes and times"
        colour = _GREEN
        watched, _ = self._split(containers)
        if not watched:
            why = why_none_watched(
                only_labelled=self._settings.container_health_filter_label,
                unwatched=len(containers),
            )
            explanation += f", but no container is watched: {why}"
            colour = _YELLOW
        self._report.write("result", "good", explanation, colour=colour)
        return 0

    def _fail(self, why: str) -> int:
        explanation = f"container health can't be reported: {why}"
        self._report.write("result", "bad", explanation, colour=_RED)
        return 1

    def _request(
        self,
        endpoint: str,
        request: Callable[[Deadline], Any],
        describe: Callable[[Any], str],
    ) -> Any:
        """Send one request, report the outcome, return the answer or `None`."""
        began = time.monotonic()
        try:
            answer = request(NEVER)
        except EngineError as error:
            self._errors[endpoint] = error
            explanation = _joined(": ", error.detail, advise(error, self._engine.url))
            self._report.write(endpoint, _OUTCOMES[error.reason], explanation, colour=_RED)
            return None
        took = f"in {(time.monotonic() - began) * 1000:.0f} ms"
        explanation = _joined(", ", describe(answer), took)
        self._report.write(endpoint, "answered", explanation, colour=_GREEN)
        return answer

    def _skip(self, why: str, *endpoints: str) -> None:
        for endpoint in endpoints:
            self._report.write(endpoint, "not asked", why, colour=_YELLOW)

    def _inspect(self, info: EngineInfo | None, containers: list[Container]) -> Any:
        """Inspect one container, the worst of the watched ones if there are any."""
        if "list" in self._errors:
            return self._skip("the list did not answer", "inspect")
        if not containers:
            return self._skip("the list named no container", "inspect")
        if not self._settings.container_details and info and not info.is_podman:
            return self._skip("CONTAINER_DETAILS=false needs none", "inspect")
        watched, _ = self._split(containers)
        worst = min(watched or containers, key=_badness)

        def inspect(deadline: Deadline) -> Any:
            answer = self._engine.inspect([worst.id], deadline).answers[worst.id]
            if not isinstance(answer, EngineError):
                return answer
            # A container may be removed between the list and the inspect; as in a poll, it
            # is only if a list says so, too.
            maybe_gone = answer.status in (404, 500)
            if maybe_gone and not self._engine.list(deadline, id=[worst.id]):
                return None
            raise although_listed(answer)

        def describe(answer: Any) -> str:
            if answer is None:
                return f"{worst.name} was removed meanwhile"
            return worst.name

        return self._request("inspect", inspect, describe)

    def _report_health(
        self, inspected: Any, info: EngineInfo | None, now: float | None
    ) -> None:
        """Report why the inspected container is not healthy; `now` is the engine's clock."""
        is_podman = info is not None and info.is_podman
        container = parse_inspect(inspected, now=now, is_podman=is_podman)
        if container is None or not container.running or container.details is None:
            return
        if container.health in (ContainerHealth.HEALTHY, ContainerHealth.ALIVE):
            return
        explanation = _why_not_healthy(container, container.details.probe, now)
        word = container.doubt or container.health_status or "unknown"
        self._report.write("health", word, explanation, colour=_YELLOW)

    def _split(self, containers: list[Container]) -> tuple[list[Container], list[Container]]:
        """Return the watched containers, and the others."""
        watched, others = [], []
        for container in containers:
            if container.is_watched(
                only_labelled=self._settings.container_health_filter_label
            ):
                watched.append(container)
            else:
                others.append(container)
        return watched, others

    def _report_containers(self, containers: list[Container]) -> None:
        """Report the watched containers, the others by reason, and misspelled labels."""
        watched, others = self._split(containers)
        colour = _YELLOW
        if watched:
            colour = _GREEN
        count = f"{len(watched)} of {len(containers)}"
        self._report.write("watched", count, _names(watched), colour=colour)
        for why, group in _grouped(others, _why_not_watched):
            self._report.write("left out", str(len(group)), f"{why}: {_names(group)}")
        for key, group in _grouped(containers, lambda container: container.similar_label):
            explanation = f"the label {key} is not {LABEL}: {_names(group)}"
            self._report.write("typo?", str(len(group)), explanation, colour=_YELLOW)
        labels = self._settings.container_labels
        if labels:
            self._report.write("labels", "exported", ", ".join(labels))

    def _report_mode(self, info: EngineInfo, *, expensive: bool) -> None:
        """Report how each poll requests the containers, and why."""
        mode = choose_mode(
            podman=info.is_podman,
            expensive=expensive and not info.is_podman,
            details=self._settings.container_details,
            denied="inspect" in self._errors,
        )
        # The other modes cost more, or report less, than the engine allows.
        colour = _YELLOW
        if mode.reason == "engine":
            colour = ""
        self._report.write("mode", mode.name, mode.explanation, colour=colour)


def _has_answered(error: EngineError) -> bool:
    return error.status is not None or error.reason == "bad_response"


def _describe(info: EngineInfo) -> str:
    name = _joined(" ", info.name, info.version)
    platform = _joined("/", info.os, info.arch)
    return _joined(", ", name, f"API {info.api_version}", platform)


def _joined(separator: str, *parts: str) -> str:
    """Join the parts that are not empty."""
    return separator.join(filter(None, parts))


def _why_not_healthy(container: Container, probe: Probe | None, now: float | None) -> str:
    status = container.health_status or "what the exporter does not know"
    explanation = f"{container.name}: the engine says {status}"
    if container.doubt:
        explanation += f", but {DOUBTS[container.doubt]}"
    if probe is None:
        return explanation
    age = ""
    if now is not None:
        age = f" {span(now - probe.ended)} ago"
    return f"{explanation}; last probe{age}: {probe.outcome}"


def _badness(container: Container) -> int:
    """Return 0 for an unhealthy container, 1 for another without a verdict, 2 for the rest."""
    if container.health == ContainerHealth.UNHEALTHY:
        return 0
    if container.health == ContainerHealth.UNKNOWN:
        return 1
    return 2


def _why_not_watched(container: Container) -> str:
    if container.has_invalid_label:
        return f"the label {LABEL} is neither true nor false"
    if container.enabled is None:
        return f"no label {LABEL}=true"
    return f"{LABEL}=false"


def _grouped(
    containers: Iterable[Container], key_of: Callable[[Container], str | None]
) -> Iterable[tuple[str, list[Container]]]:
    """Return the containers by a key, in the order of the first of each; not those without."""
    groups: dict[str, list[Container]] = {}
    for container in containers:
        key = key_of(container)
        if key:
            groups.setdefault(key, []).append(container)
    return groups.items()


def _names(containers: Sequence[Container]) -> str:
    names = ", ".join(container.name for container in containers[:_MAX_NAMES])
    if len(containers) <= _MAX_NAMES:
        return names
    return f"{names} and {len(containers) - _MAX_NAMES} more"


def _count(containers: list[Container]) -> str:
    if len(containers) == 1:
        return "1 container"
    return f"{len(containers)} containers"
