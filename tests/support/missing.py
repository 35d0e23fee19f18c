"""Skip or fail a test whose engine or program is missing."""

import os
import shutil
from typing import NoReturn

import pytest


def give_up(reason: str) -> NoReturn:
    """Skip the test with this reason; fail it if CI is set, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_program(name: str, path: str | None = None) -> str:
    """Return the path of a program, found in `path` or in PATH; skip the test if the program is missing."""
    found = shutil.which(name, path=path)
    if found is None:
        give_up(f"{name} not found: tests/run, as root on Debian, installs it")
    return found
