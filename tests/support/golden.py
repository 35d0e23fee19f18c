"""Golden files: the expositions that tests expect, written with `WRITE_GOLDEN=1`."""

import difflib
import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "unit/golden"


def differences(name: str, text: str) -> list[str]:
    """Return the lines in which a text differs from a golden file, marked as in a unified diff.

    With `WRITE_GOLDEN` set, the file is written first, so that `git diff` shows them.
    """
    file = FOLDER / name
    if os.environ.get("WRITE_GOLDEN"):
        file.write_text(text)
    expected = file.read_text() if file.exists() else ""
    lines = expected.splitlines(), text.splitlines()
    return [*difflib.unified_diff(*lines, name, "served", n=0, lineterm="")]
