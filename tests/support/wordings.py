"""Ages in the `Status` of a list's row, word for word as moby has them; `demo` has simpler words."""


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
