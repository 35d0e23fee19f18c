"""The command `check`: ask each endpoint once, report the answer, and which containers are watched."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from docker_prom_exporter.booleans import parse_boolean
from docker_prom_exporter.collect import Everything, list_everything
from docker_prom_exporter.containers import LABEL, stores_images_in_containerd
from docker_prom_exporter.engine import LISTING_IS_EXPENSIVE, NONE_WATCHED, EngineError, advise
from docker_prom_exporter.output import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from docker_prom_exporter.containers import Container
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
_NOT_ASKED: Final = "not asked"
_GREEN, _RED, _YELLOW = "32", "31", "33"

_MAX_NAMES: Final = 20


class Report(NamedTuple):
    """Lines of a topic, a word and an explanation, the word in colour where `coloured`."""

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


class _Answer(NamedTuple):
    """What came of a question: an answer, or the error; neither where it was not asked."""

    answer: Any = None
    error: EngineError | None = None


def check(engine: Engine, settings: Settings, report: Report) -> int:
    """Ask each endpoint once and report; return 0 if container health can be reported, else 1."""
    report.say("engine", engine.url)
    return _Check(engine, settings, report).run()


class _Check:
    def __init__(self, engine: Engine, settings: Settings, report: Report) -> None:
        self._engine = engine
        self._settings = settings
        self._report = report

    def run(self) -> int:
        version = self._ask("version", self._engine.connect, _describe)
        if version.error and version.error.status is None and version.error.reason != "bad_response":
            for endpoint in ("ping", "list", "inspect"):
                self._skip(endpoint, "there is nobody to ask")
            return self._fail("Docker can't be asked")
        if version.error:
            self._engine.connect_without_version(self._deadline())
        ping = self._ask("ping", self._engine.ping, lambda _: "")
        listing = self._ask("list", partial(list_everything, self._engine, self._settings), _describe_list)
        everything = listing.answer or Everything((), expensive=False)
        containers = sorted((row.container for row in everything.rows), key=lambda c: c.name)
        inspect = self._inspect(version.answer, containers)
        self._report_watched(containers, listed=not listing.error)
        if version.error or ping.error or listing.error:
            return self._fail("version, ping and list must answer")
        self._report_mode(version.answer, inspect, expensive=everything.expensive)
        return self._judge(version.answer, inspect)

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.docker_timeout

    def _ask(
        self, endpoint: str, question: Callable[[float], Any], describe: Callable[[Any], str]
    ) -> _Answer:
        """Ask one question and say what came of it."""
        began = time.monotonic()
        try:
            answer = question(self._deadline())
        except EngineError as error:
            advice = advise(error, self._engine.url)
            explanation = f"{error.detail}: {advice}" if advice else error.detail
            self._report.say(endpoint, _OUTCOMES[error.reason], explanation, colour=_RED)
            return _Answer(error=error)
        took = f"in {(time.monotonic() - began) * 1000:.0f} ms"
        explanation = ", ".join(filter(None, (describe(answer), took)))
        self._report.say(endpoint, "answered", explanation, colour=_GREEN)
        return _Answer(answer)

    def _skip(self, endpoint: str, why: str) -> _Answer:
        self._report.say(endpoint, _NOT_ASKED, why, colour=_YELLOW)
        return _Answer()

    def _inspect(self, info: EngineInfo | None, containers: list[Container]) -> _Answer:
        """Ask for one container, a watched one where there is one."""
        if not containers:
            return self._skip("inspect", "the list named no container to ask for")
        if not self._settings.container_details and info and not info.is_podman:
            return self._skip("inspect", "CONTAINER_DETAILS=false does without")
        one = next(filter(self._is_watched, containers), containers[0])
        return self._ask(
            "inspect",
            partial(self._inspect_one, one.id),
            lambda answer: one.name if answer else f"{one.name} is gone already",
        )

    def _inspect_one(self, container_id: str, deadline: float) -> Any:
        answer = self._engine.inspect([container_id], deadline)[container_id]
        if isinstance(answer, EngineError):
            if answer.reason == "not_found":
                return None
            raise answer
        return answer

    def _is_watched(self, container: Container) -> bool:
        return container.is_watched(only_labelled=self._settings.container_health_filter_label)

    def _report_watched(self, containers: list[Container], *, listed: bool) -> None:
        """Say which containers are watched and, by the reason, which are not."""
        if not listed:
            self._report.say("watched", "unknown", "the list did not answer", colour=_RED)
            return
        watched = [container for container in containers if self._is_watched(container)]
        colour = _GREEN if watched else _YELLOW
        self._report.say(
            "watched", f"{len(watched)} of {len(containers)}", _names(watched) or NONE_WATCHED, colour=colour
        )
        left_out: dict[str, list[Container]] = {}
        for container in containers:
            if not self._is_watched(container):
                left_out.setdefault(_why_left_out(container.watch_label), []).append(container)
        for why, those in left_out.items():
            self._report.say("left out", str(len(those)), f"{why}: {_names(those)}")
        if self._settings.container_labels:
            self._report.say("labels", "exported", ", ".join(self._settings.container_labels))

    def _report_mode(self, info: EngineInfo, inspect: _Answer, *, expensive: bool) -> None:
        """Say how the containers are found in each poll."""
        expensive = not info.is_podman and (expensive or stores_images_in_containerd(inspect.answer))
        inspected = self._settings.container_details and not inspect.error
        if info.is_podman or (expensive and inspected):
            self._report.say(
                "mode", "inspect", "each watched container is inspected, only new ones are listed"
            )
        elif expensive:
            self._report.say("mode", "list", LISTING_IS_EXPENSIVE, colour=_YELLOW)
        else:
            self._report.say("mode", "list", "one list in each poll, inspects where a row has changed")

    def _judge(self, info: EngineInfo, inspect: _Answer) -> int:
        if inspect.error and info.is_podman:
            return self._fail(f"{info.name} tells it by inspect only")
        if inspect.error:
            return self._pass(", but no restarts, exit codes and times")
        return self._pass()

    def _pass(self, but: str = "") -> int:
        explanation = f"container health can be reported{but}"
        self._report.say("result", "good", explanation, colour=_GREEN)
        return 0

    def _fail(self, why: str) -> int:
        self._report.say("result", "bad", f"container health can't be reported: {why}", colour=_RED)
        return 1


def _describe(info: EngineInfo) -> str:
    platform = "/".join(filter(None, (info.os, info.arch)))
    return ", ".join(
        filter(None, (f"{info.name} {info.version}".strip(), f"API {info.api_version}", platform))
    )


def _describe_list(everything: Everything) -> str:
    return f"{len(everything.rows)} containers"


def _why_left_out(label: str | None) -> str:
    if label is None:
        return f"no label {LABEL}=true"
    if parse_boolean(label) is None:
        return f"the label {LABEL} is neither true nor false"
    return f"{LABEL}=false"


def _names(containers: Iterable[Container]) -> str:
    names = [container.name for container in containers]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
