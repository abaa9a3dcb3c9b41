"""The documents of the repository, and their code blocks, commands and links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if path.parent != RESULTS)]
MEASURED = [ROOT / "benchmarks" / "README.md", *sorted(RESULTS.glob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *MEASURED]


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


def included(page: Path) -> str:
    """The prose of a page, with the sections of other files that the site puts into it."""
    text = prose(page)
    for file in re.findall(r'^--8<-- "(.+?):page"$', text, re.MULTILINE):
        text += prose(ROOT / file).partition("[start:page] -->")[2].partition("<!-- --8<-- [end:page]")[0]
    return text


def links(page: Path) -> list[str]:
    """Targets of the links and pictures of a page, also of links whose target stands at the end of the page."""
    text = prose(page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub, and MkDocs, give to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", included(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
