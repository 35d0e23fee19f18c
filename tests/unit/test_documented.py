"""The documents' tables have each metric, option and alert as it is; tests/README.md has each module."""

import ast
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

import docker_prom_exporter
from docker_prom_exporter.exposition import Exposition
from docker_prom_exporter.outlets import Expirer, open_outlets
from docker_prom_exporter.registry import Scanner
from docker_prom_exporter.settings import OPTIONS
from support import golden
from support.documents import REPOSITORY, tables
from support.expositions import without_process
from support.gateway import push_settings
from support.storages import HandMade

README = REPOSITORY / "README.md"
COMPOSE = REPOSITORY / "compose"
PACKAGE = Path(docker_prom_exporter.__file__).parent
NOWHERE = "http://127.0.0.1:1"

_METRIC = re.compile(r"`((?:docker|container|repository)_[a-z_]+)(?:\{([^}]*)\})?`")
_TYPE = re.compile(r"# TYPE (\S+) (\S+)")
_SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? \S+")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="(?:[^"\\]|\\.)*"')

OF_ALL_CONTAINERS = {"id", "name"}


def served_metrics(tmp_path: Path) -> dict[str, str]:
    """Return the type and labels of every metric, like `gauge{endpoint,reason}`."""
    texts = [(golden.FOLDER / "up.prom").read_text(), outlets(tmp_path), registry(tmp_path)]
    types: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for line in "\n".join(texts).splitlines():
        if described := _TYPE.match(line):
            types[described[1]] = described[2]
        elif sample := _SAMPLE.fullmatch(line):
            labels.setdefault(sample[1], set()).update(_LABEL.findall(sample[2] or ""))
    return {name: described_as(kind, labels.get(name, set())) for name, kind in types.items()}


def described_as(kind: str, labels: set[str]) -> str:
    """Return a type and labels in one order; `label_…` stands for the labels that a user names."""
    own = {re.sub("^label_.+", "label_…", label) for label in labels - OF_ALL_CONTAINERS}
    return f"{kind}{{{','.join(sorted(own))}}}"


def outlets(tmp_path: Path) -> str:
    """Return the metrics of the outlets, of `expire` too."""
    settings = push_settings(NOWHERE, textfile=tmp_path / "docker.prom")
    opened = open_outlets(settings, threading.Event())
    held = Exposition(lambda: [family for outlet in opened for family in outlet.families()])
    text = text_of(held)
    Expirer(settings, held.publish, threading.Event()).run_once()
    return text + text_of(held)


def registry(tmp_path: Path) -> str:
    """Return the metrics of a registry's storage."""
    HandMade(tmp_path / "v2").push_image("team/app", b"layer")
    held = Exposition()
    Scanner(str(tmp_path / "v2"), 60, held.publish, threading.Event()).scan()
    return text_of(held)


def text_of(held: Exposition) -> str:
    return without_process(b"".join(held.render().body).decode())


def documented_metrics() -> dict[str, str]:
    """Return the type and labels of each metric in README's tables."""
    documented = {}
    for head, *rows in tables(README):
        if not head[0].startswith("metric"):
            continue
        for row in rows:
            # one type for each metric of the row; none where the head says "a gauge"
            kinds = row[1].split(", ") if head[1] == "type" else ["gauge"]
            metrics = _METRIC.findall(row[0])
            for (name, labels), kind in zip(metrics, kinds * len(metrics), strict=False):
                documented[name] = described_as(kind, {*filter(None, labels.split(","))})
    return documented


def test_each_metric_is_in_a_table(tmp_path: Path) -> None:
    """README's tables have each metric with its type and labels, and no other."""
    assert sorted(documented_metrics().items()) == sorted(served_metrics(tmp_path).items())


def test_each_option_is_in_the_table() -> None:
    """README's table of options has the flag, variable and default of each."""
    expected = {
        (f"`{option.flag}`", f"`{option.variable}`"): option.default for option in OPTIONS
    }
    documented = {}
    for head, *rows in tables(README):
        if head[0] == "flag":
            # a default in words is none that Option knows: the CLI's context, off
            documented = {
                (row[0], row[1]): row[2].strip("`") if row[2].startswith("`") else None
                for row in rows
            }

    assert documented == expected


def test_each_alert_is_in_a_table() -> None:
    """The tables of alerts in compose/README.md have the severity and `for` of each, and no other alert."""
    documented = {}
    for head, *rows in tables(COMPOSE / "README.md"):
        for row in rows:
            cells = dict(zip(head, row, strict=True))
            if "severity" in cells:
                time = cells["for"].replace(" min", "m").replace(" h", "h")
                documented[cells["alert"].strip("`")] = cells["severity"], time
    expected = {}
    # The template with the services that must run is described in prose.
    for file in {*COMPOSE.glob("prometheus/*rules.yml")} - {*COMPOSE.glob("*/expected_*")}:
        for group in YAML(typ="safe").load(file)["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    expected[rule["alert"]] = rule["labels"]["severity"], rule.get("for", "")

    assert documented == expected


def map_of_the_package() -> list[str]:
    """Return the modules and folders of the map in tests/README.md, from top to bottom."""
    text = (REPOSITORY / "tests/README.md").read_text()
    lines = text.partition("<!-- the map -->\n\n```\n")[2].partition("```")[0].splitlines()
    return [line.split()[0] for line in lines]


def test_each_room_is_on_the_map() -> None:
    """The map in tests/README.md has each module and folder of the package, and no other."""
    rooms = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    rooms |= {f"{path.parent.name}/" for path in PACKAGE.glob("[a-z]*/__init__.py")}

    assert rooms == {*map_of_the_package()}


def test_imports_go_down() -> None:
    """A module imports only modules below it on the map, and of another folder only its `__init__`."""
    floors = [room.rstrip("/") for room in map_of_the_package()]
    wrong = []
    for path in PACKAGE.rglob("[a-z]*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for imported in imports_of(path):
            other, _, inside = imported.partition(".")
            if other == room:
                continue
            if inside or floors.index(other) < floors.index(room):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {imported}")

    assert [] == wrong


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports, without the package's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        package, _, module = node.module.partition(".")
        if package == PACKAGE.name and module:
            yield module
        elif package == PACKAGE.name:
            # Names with underscores are the package's own, as its version.
            yield from (name.name for name in node.names if not name.name.startswith("_"))
