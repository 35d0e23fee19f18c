"""Reports of the command `check`."""

import io
from collections.abc import Mapping
from typing import Any

from docker_prom_exporter.check import Report, check
from docker_prom_exporter.engine import Engine, find_target
from docker_prom_exporter.snapshot import ENDPOINTS
from support.simulated import settings_for

ANSWERED = ["answered"] * 4


def checked(
    url: str,
    environ: Mapping[str, str] | None = None,
    *,
    coloured: bool = False,
    **options: Any,
) -> tuple[int, dict[str, str]]:
    """Return the exit code, and each line of the report by its topic."""
    settings = settings_for(url, **options)
    stream = io.StringIO()
    target = find_target(settings.docker_host, environ or {})
    engine = Engine(target, settings.docker_timeout)
    code = check(engine, settings, Report(stream, coloured=coloured))
    lines = stream.getvalue().splitlines()
    return code, {line[:9].strip(): line[10:] for line in lines}


def outcomes(lines: Mapping[str, str]) -> list[str]:
    """Return the outcome for each endpoint."""
    return [lines[endpoint][:9].strip() for endpoint in ENDPOINTS]
