"""Random changes and damages of a real registry's storage, held against an oracle for a long time.

From tests: python -m bench.mutations --minutes 60. tests/engine/test_registry.py runs a short one.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from docker_prom_exporter.registry.storage import Storage
from support.registries import Registry, registry
from support.registry_mutations import Mutations, check
from support.storages import image

_STEPS = 60  # of a storage; later most of it is damaged
_VALIDATION = {"manifests": {"indexes": {"platforms": "none"}}}


def main() -> int:
    """Mutate storages until the time is over; return 1 at the first difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutations")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    seed, steps = given.seed, 0
    while time.monotonic() < end:
        done: list[str] = []
        with TemporaryDirectory() as folder:
            try:
                _mutate(Path(folder), seed, end, done)
            except AssertionError as error:
                sys.stdout.write("\n".join([f"seed {seed}", *done, str(error), ""]))
                return 1
        steps += len(done)
        seed += 1
    sys.stdout.write(f"{steps} changes of {seed - given.seed} storages: no difference\n")
    return 0


def _mutate(folder: Path, seed: int, end: float, done: list[str]) -> None:
    """Mutate one storage, and note in `done` what was done."""
    version, other = ("3.1.2", "2.8.2") if seed % 2 else ("2.8.2", "3.1.2")
    options = {"validation": _VALIDATION} if version == "3.1.2" else {}
    with registry(folder / "registry", version, **options) as running:
        mutations = Mutations(running, [Registry(folder, other, root=running.root)], seed)
        running.push("app", image(config=b"{}"), b"{}", tag="latest")
        kept = Storage(str(running.storage))
        while len(done) < _STEPS and time.monotonic() < end:
            done.append(mutations.step())
            check(running.storage, kept)


if __name__ == "__main__":
    sys.exit(main())
