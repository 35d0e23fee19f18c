"""What the status page says of a container in one word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from docker_prom_exporter.containers import DOUBTS, ContainerHealth

if TYPE_CHECKING:
    from docker_prom_exporter.containers import Container


class Verdict(NamedTuple):
    """A word about a container or the engine, and how it looks."""

    word: str
    mark: str  # a symbol, for readers who don't see colours
    tone: str  # the word's class in status_page.css
    rank: int = 0  # the order of the containers, the worst first


UNHEALTHY: Final = Verdict("unhealthy", "▲", "bad", 0)
RESTARTING: Final = Verdict("restarting", "↻", "bad", 1)
FAILED: Final = Verdict("failed", "■", "bad", 2)
UNKNOWN: Final = Verdict("unknown", "?", "warn", 3)
STARTING: Final = Verdict("starting", "◐", "warn", 4)
STOPPED: Final = Verdict("stopped", "■", "off", 5)
ALIVE: Final = Verdict("no healthcheck", "○", "off", 6)
HEALTHY: Final = Verdict("healthy", "●", "good", 7)

_BY_DOUBT: Final = {doubt: UNKNOWN._replace(word=doubt) for doubt in DOUBTS}
_BY_HEALTH: Final = {
    ContainerHealth.UNHEALTHY: UNHEALTHY,
    ContainerHealth.ALIVE: ALIVE,
    ContainerHealth.HEALTHY: HEALTHY,
}

# `docker stop` ends a program by SIGTERM (143), and by SIGKILL (137) after its timeout.
_EXIT_CODES_OF_A_STOP: Final = (None, 0, 137, 143)

# A running container counts as restarting if its policy has restarted it at least so often,
# the last time within so many seconds.
_LOOP_RESTARTS: Final = 3
_LOOP_SECONDS: Final = 300


def verdict_of(container: Container, now: float) -> Verdict:
    """Return the verdict on a container that the engine lists, at `now` in Unix seconds."""
    if container.running:
        return _verdict_of_running(container, now)
    if container.state == "restarting":
        return RESTARTING
    if container.health != ContainerHealth.STOPPED:
        return UNKNOWN
    if has_failed(container):
        return FAILED
    return STOPPED


def has_failed(container: Container) -> bool:
    """Return whether a container was stopped by a failure, not on purpose."""
    if container.state == "dead":
        return True
    details = container.details
    if details is None:
        return False
    if details.oom_killed or details.start_failed:
        return True
    return details.exit_code not in _EXIT_CODES_OF_A_STOP


def _verdict_of_running(container: Container, now: float) -> Verdict:
    if container.health == ContainerHealth.UNHEALTHY:
        return UNHEALTHY
    # A container may report health between two restarts.
    if _restarts_often(container, now):
        return RESTARTING
    if container.health_status == "starting":
        return STARTING
    if container.doubt:
        return _BY_DOUBT[container.doubt]
    return _BY_HEALTH.get(container.health, UNKNOWN)


def _restarts_often(container: Container, now: float) -> bool:
    details = container.details
    if details is None or details.started is None:
        return False
    return details.restarts >= _LOOP_RESTARTS and now - details.started < _LOOP_SECONDS
