"""The result of one poll, its time, and for how long it is trusted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from docker_prom_exporter.containers import Container


class Mode(NamedTuple):
    """How a poll finds the containers, and why.

    `list`: one list of all. `inspect`: an inspect of each, and a list of the new ones.
    The reason is `engine` where the mode is the cheapest one for the engine. Otherwise it
    is what rules the cheaper inspect mode out: `details off` or `inspect denied`.
    """

    name: Literal["list", "inspect"]
    reason: Literal["engine", "details off", "inspect denied"]

    @property
    def explanation(self) -> str:
        """What a poll requests, and what rules the cheaper mode out."""
        if self.name == "inspect":
            return "each watched container is inspected, only new ones are listed"
        if self.reason == "details off":
            return (
                "one list in each poll, which is expensive on this engine: "
                "with CONTAINER_DETAILS=true each watched container would be inspected instead"
            )
        if self.reason == "inspect denied":
            return (
                "one list in each poll, which is expensive on this engine: "
                "each watched container would be inspected instead if that were allowed"
            )
        return "one list in each poll, inspects where a row has changed"


LIST_MODE: Final = Mode("list", "engine")
"""The mode of engines for which a list is cheap."""


ENDPOINTS: Final = ("version", "ping", "list", "inspect")
"""The endpoints that the exporter asks."""

REASONS: Final = ("unreachable", "timeout", "denied", "not_found", "bad_response", "error")
"""The reasons why a request can fail."""

FAILURES: Final = tuple(
    pair for pair in product(ENDPOINTS, REASONS) if pair != ("inspect", "not_found")
)
"""The counted pairs; a container removed before its inspect is no failure."""

SIMULATED: Final = "-simulated"
"""The suffix of a simulated engine's version."""


class EngineInfo(NamedTuple):
    """An engine, from its `/version`. Texts are empty where the answer has none."""

    # `Docker` or `Podman`.
    name: str
    version: str
    api_version: str
    os: str
    arch: str

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman's Docker-compatible service."""
        return self.name == "Podman"

    @property
    def is_simulated(self) -> bool:
        """Whether it is the simulated engine of `demo`."""
        return self.version.endswith(SIMULATED)


class Failure(NamedTuple):
    """A failed request: cause and remedy in one line each; `advice` may be empty."""

    endpoint: str
    reason: str
    detail: str
    advice: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts since the start: by result, by endpoint, by endpoint and reason."""

    polls: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("success", "failure"), 0)
    )
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDPOINTS, 0))
    errors: dict[tuple[str, str], int] = field(
        default_factory=lambda: dict.fromkeys(FAILURES, 0)
    )

    def failed(self, endpoint: str, reason: str) -> None:
        """Count a request that failed."""
        self.errors[endpoint, reason] += 1

    def copy(self) -> Counts:
        """Return a copy of the current counts."""
        return Counts(dict(self.polls), dict(self.requests), dict(self.errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The result of one poll. Immutable and replaced as a whole: any thread may read it."""

    # The end of the poll on the monotonic clock, and the seconds after it for which the
    # snapshot is trusted.
    ended: float
    trusted_for: float
    # Whether a poll has ended; not so in the one that is served before the first.
    polled: bool = True
    # Whether the engine answered the last ping, and when that last changed, in Unix seconds.
    up: bool = False
    since: float = 0.0
    # Whether the containers were found, too. If not, they are the last ones found, in unknown
    # state.
    listed: bool = False
    containers: tuple[Container, ...] = ()
    # Why the poll failed, wholly or in part.
    failure: Failure | None = None
    # The last engine that told its version.
    engine: EngineInfo | None = None
    mode: Mode = LIST_MODE
    # The engine's other containers, `None` if they were not listed.
    unwatched: int | None = None
    # Inspects for which the poll had no time.
    postponed: int = 0
    # In seconds.
    duration: float = 0.0
    # In Unix seconds, 0 before the first success.
    last_success: float = 0.0
    counts: Counts = field(default_factory=Counts)

    @property
    def trusted_until(self) -> float:
        """The time on the monotonic clock until which the snapshot is trusted."""
        return self.ended + self.trusted_for

    def distrusted(self) -> Snapshot:
        """Return a copy that is neither `up` nor `listed`: the poll failed, or is too old."""
        return replace(self, up=False, listed=False)
