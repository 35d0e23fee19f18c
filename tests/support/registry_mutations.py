"""Random changes of a real registry's storage: pushes, deletes, garbage collections, and damage."""

import math
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from docker_prom_exporter.registry.storage import Storage
from support.registries import VALIDATION, VERSIONS, Registry, registry
from support.registry_oracle import compare
from support.storages import CONFIG, digest_of, image, index

if TYPE_CHECKING:
    from collections.abc import Callable

_LAYERS = [bytes([65 + number]) * (100 * 2**number) for number in range(6)]
_NAMES = ("app", "team/app", "other")


class Mutations:
    """Mutates the storage of one registry; two versions collect its garbage."""

    def __init__(self, running: Registry, others: list[Registry], seed: int) -> None:
        self._registry = running
        self._collectors = [running, *others]
        self._random = random.Random(seed)
        self._outside = running.storage.parents[3] / "outside"
        self._outside.mkdir()
        self.storage = running.storage

    def step(self) -> str:
        """Make one change, and return what it was."""
        damage = (self._cut, self._empty, self._remove, self._link)
        kinds: list[Callable[[], str]] = [self._push, self._push, self._push, self._delete]
        kinds += [self._collect, *damage]
        return self._random.choice(kinds)()

    def _push(self) -> str:
        """Push an image or an index; a damaged registry may refuse that."""
        name, tag = self._random.choice(_NAMES), self._random.choice(("1", "2", "latest"))
        images = [image(*self._random.sample(_LAYERS, 2)) for _ in range(2)]
        try:
            for each in images:
                self._registry.push(name, each, *_LAYERS, CONFIG)
            top = self._random.choice([images[0], index(*images)])
            self._registry.push(name, top, tag=tag)
        except ValueError as error:
            return f"push to {name}:{tag} refused: {str(error)[:80]}"
        return f"push to {name}:{tag}"

    def _delete(self) -> str:
        revisions = [*self.storage.glob("repositories/**/revisions/sha256/*/link")]
        if not revisions:
            return "nothing to delete"
        link = self._random.choice(sorted(revisions))
        name = str(link.relative_to(self.storage / "repositories")).partition("/_manifests")[0]
        try:
            self._registry.delete(name, f"sha256:{link.parent.name}")
        except ValueError as error:
            return f"delete refused: {str(error)[:80]}"
        return f"delete {name} {link.parent.name}"

    def _collect(self) -> str:
        collector = self._random.choice(self._collectors)
        options = self._random.choice(([], ["--delete-untagged"]))
        collector.collect_garbage(*options, check=False)
        return f"garbage-collect of {collector.version} {options}"

    def _file(self) -> Path:
        files = [*self.storage.glob("blobs/*/*/*/data"), *self.storage.rglob("link")]
        # No pull and no scan reads the links of what a tag was before.
        read = [each for each in files if "index" not in each.parts[-5:]]
        plain = sorted(each for each in read if not each.is_symlink())
        return self._random.choice(plain)

    def _cut(self) -> str:
        path = self._file()
        _replace(path, path.read_bytes()[: path.stat().st_size // 2])
        return f"cut {path}"

    def _empty(self) -> str:
        path = self._file()
        _replace(path, b"")
        return f"empty {path}"

    def _remove(self) -> str:
        path = self._file()
        shutil.rmtree(path.parent)
        return f"remove {path.parent}"

    def _link(self) -> str:
        path = self._file()
        moved = self._outside / digest_of(str(path).encode())
        path.rename(moved)
        path.symlink_to(moved)
        path.parents[1].touch()  # what is changed in place is seen only once an hour
        return f"link {path}"


def _replace(path: Path, content: bytes) -> None:
    """Replace a file and its folder."""
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    path.write_bytes(content)


def mutate(
    folder: Path, version: str, seed: int, *, steps: int, until: float = math.inf
) -> int:
    """Mutate a storage of this version's registry; compare it with the oracle after each step.

    Returns the number of steps, fewer if the monotonic clock has passed `until`. Raises
    AssertionError with all steps at the first difference.
    """
    (other,) = {*VERSIONS} - {version}
    done: list[str] = []
    with registry(folder / "registry", version, validation=VALIDATION) as running:
        mutations = Mutations(running, [Registry(folder, other, root=running.root)], seed)
        running.push("app", image(config=b"{}"), b"{}", tag="latest")
        kept = Storage(str(running.storage))
        while len(done) < steps and time.monotonic() < until:
            done.append(mutations.step())
            try:
                _check(running.storage, kept)
            except AssertionError as error:
                raise AssertionError("\n".join([f"seed {seed}", *done, str(error)])) from error
    return len(done)


def _check(storage: Path, kept: Storage) -> None:
    """Compare scans, by a new scanner and one that keeps what it can, with the oracle."""
    fresh = Storage(str(storage)).scan()
    compare(fresh, storage)
    later = kept.scan()
    for name, new, old in zip(fresh._fields, fresh, later, strict=True):
        assert new == old, f"{name}: {new} by a new scanner, {old} by one that was there"
