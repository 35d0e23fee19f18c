"""What becomes of a test whose engine or program isn't there."""

import os
import shutil
from typing import NoReturn

import pytest


def give_up(reason: str) -> NoReturn:
    """Skip the test with the reason; in CI, where everything is to be there, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_program(name: str, path: str | None = None) -> str:
    """Return where a program is, in the folders of `path` or of the environment's, or give up."""
    found = shutil.which(name, path=path)
    if found is None:
        give_up(f"{name} not found: tests/run, as root on Debian, installs it")
    return found
