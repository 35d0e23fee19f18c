"""What one poll found, when, and for how long it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from docker_prom_exporter.containers import Container

Mode = Literal["list", "inspect"]
"""How the containers are found: one list of all, or an inspect of each and a list of the new ones."""

ENDPOINTS: Final = ("version", "ping", "list", "inspect")
"""The four endpoints the exporter asks."""

REASONS: Final = ("unreachable", "timeout", "denied", "not_found", "bad_response", "error")
"""The ways a request can fail."""

FAILURES: Final = tuple(pair for pair in product(ENDPOINTS, REASONS) if pair != ("inspect", "not_found"))
"""Each endpoint and reason that can be counted: a container gone before its inspect is no failure."""

SIMULATED: Final = "-simulated"
"""The end of a simulated engine's version."""


class EngineInfo(NamedTuple):
    """What an engine says of itself in `/version`; `name` is `Docker` or `Podman`."""

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
        """Whether it is the one of `demo`, which says so in its version."""
        return self.version.endswith(SIMULATED)


class Failure(NamedTuple):
    """Why a request failed, in one line of `detail`, and what to do about it, where anybody can tell."""

    endpoint: str
    reason: str
    detail: str
    advice: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What the exporter has counted since it started: polls by result, requests and errors."""

    polls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("success", "failure"), 0))
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDPOINTS, 0))
    errors: dict[tuple[str, str], int] = field(default_factory=lambda: dict.fromkeys(FAILURES, 0))

    def failed(self, endpoint: str, reason: str) -> None:
        """Count a request that failed."""
        self.errors[endpoint, reason] += 1

    def copy(self) -> Counts:
        """Return the counts as of now."""
        return Counts(dict(self.polls), dict(self.requests), dict(self.errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one poll found. Immutable: any thread may read it, and nobody sees half of one.

    `up`: the engine answered the last ping, and `since` is when that last changed, in Unix seconds. `listed`:
    its containers were found too; where not, `containers` are those last seen, nothing else is known of
    them, and `failure` says why. `unwatched` counts the engine's other containers, `None` where it was not
    asked for them. `ended` is when the poll ended and `trusted_for` how long it may be believed, both in
    seconds on the monotonic clock. `duration` is in seconds, `last_success` in Unix seconds (0: never).
    """

    ended: float
    trusted_for: float
    polled: bool = True
    up: bool = False
    listed: bool = False
    since: float = 0.0
    failure: Failure | None = None
    engine: EngineInfo | None = None
    containers: tuple[Container, ...] = ()
    mode: Mode = "list"
    unwatched: int | None = None
    duration: float = 0.0
    last_success: float = 0.0
    counts: Counts = field(default_factory=Counts)

    @property
    def trusted_until(self) -> float:
        """The time on the monotonic clock until which it may be believed."""
        return self.ended + self.trusted_for

    def distrusted(self) -> Snapshot:
        """Return what is left to say once nobody can tell whether any of it still holds."""
        return replace(self, up=False, listed=False)
