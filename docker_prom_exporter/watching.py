"""Why no container is watched, and what to do: one line for `check`, the log and the page."""

from __future__ import annotations

from docker_prom_exporter.containers import LABEL


def why_none_watched(*, only_labelled: bool, unwatched: int | None) -> str:
    """Explain why no container is watched; advise only what the settings don't already say.

    `only_labelled` is CONTAINER_HEALTH_FILTER_LABEL; `unwatched` counts the engine's
    other containers, `None` if the engine was not asked for them.
    """
    if unwatched == 0:
        return "the engine has no container"
    if only_labelled:
        return (
            f"no container has the label {LABEL}=true: label some, or set "
            "CONTAINER_HEALTH_FILTER_LABEL=false to watch all but those labelled false"
        )
    if unwatched is None:
        return f"the engine has no container but those labelled {LABEL}=false"
    return f"every container is labelled {LABEL}=false"
