"""The workflows of GitHub: three checkers find nothing, and each step runs a script that exists."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support.machine import REPOSITORY
from support.processes import completed

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"


def found_by(*command: str) -> str:
    """Return what a checker says if it fails, else an empty string."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = completed(command, cwd=REPOSITORY, env=env)
    return done.stdout + done.stderr if done.returncode else ""


def test_zizmor_finds_nothing() -> None:
    """At its strictest, zizmor finds no way to attack the workflows."""
    assert "" == found_by("zizmor", "--offline", "--persona=pedantic", "--no-progress", ".")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.dependabot", [REPOSITORY / ".github/dependabot.yml"]),
        ("vendor.github-issue-forms", [REPOSITORY / ".github/ISSUE_TEMPLATE/problem.yml"]),
    ],
)
def test_the_schema_holds(schema: str, files: list[Path]) -> None:
    """GitHub's schemas hold for the workflows, Dependabot's settings and the issue form."""
    assert "" == found_by("check-jsonschema", f"--builtin-schema={schema}", *map(str, files))


def test_actionlint_finds_nothing() -> None:
    """There is no error for actionlint in expressions, contexts and shell commands."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed; it builds actionlint. The job `workflows` has it")
    assert "" == found_by("go", "run", ACTIONLINT)


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each step of each job, with the names of its workflow and its job."""
    for path in WORKFLOWS:
        for name, job in YAML(typ="safe").load(path)["jobs"].items():
            for step in job.get("steps", ()):
                yield f"{path.name}: {name}", step


def test_each_step_runs_a_script_of_the_repository() -> None:
    """A `run:` is one line that begins with an executable file of this repository."""
    lines = [(job, step["run"].strip()) for job, step in steps() if "run" in step]
    foreign = []
    for job, line in lines:
        script = REPOSITORY / line.split()[0]
        if "\n" in line or not script.is_file() or not os.access(script, os.X_OK):
            foreign.append((job, line))

    assert lines
    assert [] == foreign


def test_each_step_of_a_release_is_known() -> None:
    """`release.py` has each step that the workflow names."""
    lines = [step["run"].split() for _, step in steps() if "release.py" in step.get("run", "")]
    known = (REPOSITORY / ".github/release.py").read_text()

    assert {"check", "packages", "push", "sbom", "sign", "announce"} == {
        line[1] for line in lines
    }
    assert [] == [line[1] for line in lines if f"def {line[1]}(" not in known]


def test_both_builds_use_the_same_buildkit() -> None:
    """Another version of BuildKit may write other digests, so both jobs pin the same image."""
    drivers = [
        step["with"]["driver-opts"]
        for _, step in steps()
        if step.get("uses", "").startswith("docker/setup-buildx-action@")
    ]

    assert 2 == len(drivers)
    assert 1 == len({*drivers})
    assert "@sha256:" in drivers[0]
