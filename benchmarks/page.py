"""The pages of results, ``docs/results/*.md``: commands write tables between their markers, people write the rest."""

import re
from pathlib import Path

from masksearch.utils.errors import InputError

__all__ = ["HERE", "RESULTS", "page_of", "pages_folder", "replace_block", "write_block"]

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results"


def pages_folder(home: Path) -> Path:
    """Return the folder of the pages and their figures; a folder other than ``benchmarks`` holds its own."""
    return RESULTS if home == HERE else home


def page_of(name: str, home: Path = HERE) -> Path:
    """Return the page with the lines ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises
    ------
    InputError
        If no page has them, or several.
    """
    folder = pages_folder(home)
    pages = [path for path in sorted(folder.glob("*.md")) if _pattern(name).search(path.read_text())]
    if len(pages) != 1:
        found = ", ".join(path.name for path in pages) or "none"
        raise InputError(
            f"{folder}: one page needs the lines <!-- {name} --> and <!-- end of {name} -->; those with both: {found}"
        )
    return pages[0]


def replace_block(page: str, name: str, text: str) -> str:
    """Return the page with ``text`` between the markers of ``name``."""
    return _pattern(name).sub(lambda match: match[1] + text + match[3], page)


def write_block(name: str, text: str, home: Path = HERE) -> Path:
    """Write ``text`` between the markers of ``name``, and return the page; raises as :func:`page_of` does."""
    path = page_of(name, home)
    path.write_text(replace_block(path.read_text(), name, text))
    return path


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {re.escape(name)} -->\n)(.*?)(<!-- end of {re.escape(name)} -->)", re.DOTALL)
