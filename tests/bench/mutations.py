"""Random changes and damages of a real registry's storage, held against an oracle for a long time.

From tests: python -m bench.mutations --minutes 60. tests/engine/test_registry.py runs a short one.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from support.registries import VERSIONS
from support.registry_mutations import mutate

_STEPS = 60  # of a storage; later most of it is damaged


def main() -> int:
    """Mutate storages until the time is over; return 1 at the first difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutations")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    seed, steps = given.seed, 0
    while time.monotonic() < end:
        with TemporaryDirectory() as folder:
            try:
                version = VERSIONS[seed % 2]
                steps += mutate(Path(folder), version, seed, steps=_STEPS, until=end)
            except AssertionError as error:
                sys.stdout.write(f"{error}\n")
                return 1
        seed += 1
    sys.stdout.write(f"{steps} changes of {seed - given.seed} storages: no difference\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
