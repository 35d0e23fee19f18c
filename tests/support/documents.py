"""The Markdown documents of the repository, and the code blocks in them."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

# Not from support.machine: the unit tests have only the dependencies of the extra `test`.
REPOSITORY = Path(__file__).parents[2]

DOCUMENTS = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("[!.]*/README.md"))]

# The sections of compose/README.md whose commands tests/deploy/test_image.py runs.
ON_THE_IMAGE = {
    "The image",
    "Bases and platforms",
    "Publish, verify, look inside",
    "Dependencies",
}

_FENCE = re.compile(r"^ *```(\w*)")
_HEADING = re.compile(r"^#+ (.+)$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A code block: the heading above it, the language after its fence, and its text without indentation."""

    section: str
    language: str
    text: str


def blocks(document: Path, language: str) -> list[Block]:
    """Return the code blocks of a document in one language, in document order."""
    found, section, fence, lines = [], "", "", list[str]()
    for line in document.read_text().splitlines():
        if opened := _FENCE.match(line):
            if fence:
                found.append(Block(section, fence, textwrap.dedent("\n".join(lines)) + "\n"))
            fence, lines = ("" if fence else opened[1] or "text"), []
        elif fence:
            lines.append(line)
        elif heading := _HEADING.match(line):
            section = heading[1]
    return [block for block in found if block.language == language]


def tables(document: Path) -> list[list[list[str]]]:
    """Return the tables of a document as rows of cells, each with its head and without the rule below it."""
    found: list[list[list[str]]] = [[]]
    for line in document.read_text().splitlines():
        if not line.startswith("|"):
            found.append([])
        elif not line.startswith("|---"):
            cells = line.strip("|").replace(r"\|", "\0").split("|")
            found[-1].append([cell.replace("\0", "|").strip() for cell in cells])
    return [table for table in found if table]


def links(document: Path) -> list[str]:
    """Return the targets of a document's links, except in code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
    return _LINK.findall(prose)


def anchors(document: Path) -> set[str]:
    """Return the fragments that GitHub gives to a document's headings."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
