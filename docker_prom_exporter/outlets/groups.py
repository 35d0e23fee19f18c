"""The groups of a Pushgateway: their last pushes, and their paths."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from typing import TYPE_CHECKING, Final, cast

from prometheus_client.parser import text_string_to_metric_families

from docker_prom_exporter.outlets.errors import MAX_DETAIL, OutletError

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterable, Iterator

Group = frozenset[tuple[str, str]]
"""A group's labels, `job` among them, with their values."""

_BLOCK_BYTES: Final = 64 * 1024
# A path, and so a group's label, has at most half of this.
_MAX_LINE_BYTES: Final = 2 * 1024 * 1024
_MAX_GROUPS: Final = 100_000
_PUSHED: Final = b"push_time_seconds{"
_FAILED: Final = b"push_failure_time_seconds{"
_OWN: Final = b"pushgateway_"
_PREFIXES: Final = (_PUSHED, _FAILED, _OWN)

_PLAIN: Final = re.compile(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*")


def last_pushes(lines: Iterable[bytes], job: str, until: float) -> dict[Group, float]:
    """Return the last push of each group of the job that was not pushed after `until`.

    Times are Unix seconds. The lines are the gateway's exposition: `push_time_seconds`
    has the labels of its group and is 0 if no push has succeeded. The last failure then
    counts (`push_failure_time_seconds`). Raises `OutletError` if the lines are not from a
    Pushgateway.
    """
    pushed: dict[Group, float] = {}
    failed: dict[Group, float] = {}
    is_gateway = False
    for line in lines:
        # Labels are parsed, which is slow, only where the value says that they count.
        if line.startswith(_OWN):
            is_gateway = True
        elif line.startswith(_PUSHED) and (last := _value(line)) <= until:
            _add(pushed, line, job, last)
        elif line.startswith(_FAILED) and (last := _value(line)) > 0:
            _add(failed, line, job, last)
    if not is_gateway:
        raise OutletError(
            "bad_response", "/metrics is not a Pushgateway's: check --push-url", 200
        )
    return _expired(pushed, failed, until)


def _expired(
    pushed: dict[Group, float], failed: dict[Group, float], until: float
) -> dict[Group, float]:
    expired = {}
    for group, last_push in pushed.items():
        last = last_push or failed.get(group, math.inf)
        if 0 < last <= until:
            expired[group] = last
    return expired


def paths(group: Group) -> Iterator[str]:
    """Yield the possible paths of the group on a gateway, usually one.

    Each begins with the job. A gateway shows an empty `instance` for a group without one,
    and never holds both groups.
    """
    for labels in dict.fromkeys((group, group - {("instance", "")})):
        path = "/metrics"
        for name, value in sorted(labels, key=lambda label: (label[0] != "job", label)):
            path += _segment(name, value)
        yield path


def _segment(name: str, value: str) -> str:
    if _PLAIN.fullmatch(value):
        return f"/{name}/{value}"
    # A gateway reads `%2F` as a slash, and removes `.` from the path.
    encoded = base64.urlsafe_b64encode(value.encode()).decode()
    return f"/{name}@base64/{encoded or '='}"


def lines_about_pushes(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines about pushes and the gateway itself; a line that is too long is cut."""
    stream = io.BufferedReader(cast("io.RawIOBase", response), _BLOCK_BYTES)
    is_beginning = True
    while line := stream.readline(_MAX_LINE_BYTES):
        if is_beginning and line.startswith(_PREFIXES):
            yield line
        is_beginning = line.endswith(b"\n")


def _value(line: bytes) -> float:
    try:
        # The line must be complete: half of a recent time would be an old time.
        return float(line[line.rindex(b"} ") + 2 : line.rindex(b"\n")])
    except ValueError:
        raise _unreadable(line) from None


def _add(times: dict[Group, float], line: bytes, job: str, value: float) -> None:
    try:
        (family,) = text_string_to_metric_families(line.decode())
        labels = family.samples[0].labels
    except (ValueError, IndexError):
        raise _unreadable(line) from None
    if labels.get("job") == job:
        times[frozenset(labels.items())] = value
    if len(times) > _MAX_GROUPS:
        raise OutletError("bad_response", f"more than {_MAX_GROUPS:,} groups of the job", 200)


def _unreadable(line: bytes) -> OutletError:
    name = line.partition(b"{")[0].decode()
    return OutletError(
        "bad_response", f"/metrics has a line of {name} that can't be read", 200
    )


def selector(group: Group) -> str:
    """Return a group as PromQL selects it, cut to the length that a log line may have."""
    labels = []
    for name, value in sorted(group):
        labels.append(f"{name}={json.dumps(value, ensure_ascii=False)}")
    return f"{{{','.join(labels)}}}"[:MAX_DETAIL]
