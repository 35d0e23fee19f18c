"""Fuzz the code from an engine's answers to the exposition.

It needs `pip install atheris`: in `tests/`, `python -m bench.fuzz [libFuzzer options]`. It runs until it
finds a failure or is stopped.
"""

import json
import sys
from typing import Any

import atheris  # type: ignore[import-untyped]  # not among the tests' dependencies

with atheris.instrument_imports(include=["docker_prom_exporter", "prometheus_client"]):
    from support.nonsense import judge

_SEED = {"Id": "ab", "Names": ["/web"], "State": "running", "Status": "Up 5 minutes (healthy)"}


def _answer(data: bytes) -> Any:
    """Return the parsed JSON; data that is not JSON is returned as text."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def main() -> None:
    """Run the fuzzer."""
    with judge() as judging:

        def once(data: bytes) -> None:
            first, _, second = data.partition(b"\0")
            listed = _answer(first)
            rows = (
                listed
                if isinstance(listed, list)
                else [{**_SEED, "Status": listed, "Names": [listed]}]
            )
            inspected = _answer(second)
            judging.judge(
                rows,
                {"Id": _SEED["Id"], **inspected} if isinstance(inspected, dict) else inspected,
            )

        atheris.Setup(sys.argv, once)
        atheris.Fuzz()


main()
