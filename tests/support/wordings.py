"""`Status` of a list's row, word for word as moby has it; `demo` has simpler words for ages."""

from docker_prom_exporter.demo import SimulatedContainer


def status(container: SimulatedContainer, now: float) -> str:
    """Word it as moby's `State.String` does, container/state.go."""
    up, ago = human_duration(now - container.started), human_duration(now - container.finished)
    health = {"starting": " (health: starting)", None: ""}.get(container.health, f" ({container.health})")
    return {
        "running": f"Up {up}{health}",
        "paused": f"Up {up} (Paused)",
        "restarting": f"Restarting ({container.exit_code}) {ago} ago",
        "exited": f"Exited ({container.exit_code}) {ago} ago",
        "created": "Created",
        "removing": "Removal In Progress",
        "dead": "Dead",
    }.get(container.state, "")


def human_duration(seconds: float) -> str:
    """Word a duration as moby does in `Status` (go-units, duration.go): cut off, but for hours, rounded."""
    whole = int(max(seconds, 0))
    hours = int(whole / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    for fits, count, unit in (
        (whole < 60, whole, "second"),
        (whole < 3600, whole // 60, "minute"),
        (hours < 48, hours, "hour"),
        (hours < 24 * 14, hours // 24, "day"),
        (hours < 24 * 60, hours // 24 // 7, "week"),
        (hours < 24 * 730, hours // 24 // 30, "month"),
    ):
        if fits:
            return _counted(count, unit)
    return f"{whole // 86400 // 365} years"


def _counted(count: int, unit: str) -> str:
    if count == 1 and unit in ("minute", "hour"):
        return f"About a{'n' * (unit == 'hour')} {unit}"
    return f"{count} {unit}{'s' * (count != 1)}"
