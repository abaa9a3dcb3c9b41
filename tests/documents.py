"""The documents of the repository, and their code blocks, commands and links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "benchmarks" / "README.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", MEASUREMENTS]


class Block(NamedTuple):
    page: str  # path from ROOT
    heading: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced code blocks of a page, in order."""
    found, heading = [], ""
    for part in re.finditer(r"^(#+ [^\n]*)$|^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if part[1]:
            heading = part[1].lstrip("# ")
        else:
            found.append(Block(str(page.relative_to(ROOT)), heading, part[2], part[3]))
    return found


def prose(page: Path) -> str:
    """The text of a page without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
