"""promtool, which checks rules, configurations, queries and expositions."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from support.missing import require_program
from support.processes import Command


def promtool(*arguments: str) -> str:
    """Run promtool and return its output; CommandError holds its error messages."""
    return Command([require_program("promtool")], {}).run(*arguments)


def takes_queries(queries: Iterable[str], folder: Path) -> bool:
    """Return whether promtool parses each query; they are written as rules to the folder."""
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    file = folder / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    checked = promtool("check", "rules", "--lint=none", str(file))
    return f"SUCCESS: {len(rules)} rules found" in checked


def faults_of(exposition: Iterable[bytes]) -> list[str]:
    """Return the lines of `promtool check metrics` on an exposition."""
    done = subprocess.run(
        [require_program("promtool"), "check", "metrics"],
        input=b"".join(exposition),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=30,
    )
    faults = done.stdout.decode().splitlines()
    assert bool(faults) == bool(done.returncode)
    return faults
