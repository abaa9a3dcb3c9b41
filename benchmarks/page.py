"""The page of measurements, ``benchmarks/README.md``: its blocks between markers, and the figures in their tables."""

import re
from itertools import pairwise
from pathlib import Path

from masksearch.utils.errors import InputError

__all__ = ["HERE", "block", "cells", "replace_block"]

HERE = Path(__file__).parent

_RULE = re.compile(r"\|[-:| ]+\|")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {re.escape(name)} -->\n)(.*?)(<!-- end of {re.escape(name)} -->)", re.DOTALL)


def block(page: str, name: str, path: str = "benchmarks/README.md") -> str:
    """What stands between the markers of ``name``.

    Raises
    ------
    InputError
        If ``page``, the text of ``path``, has no such markers.
    """
    found = _pattern(name).search(page)
    if not found:
        raise InputError(f"{path}: no lines <!-- {name} --> and <!-- end of {name} -->")
    return found[2]


def replace_block(page: str, name: str, text: str, path: str = "benchmarks/README.md") -> str:
    """``page`` with ``text`` between the markers of ``name``; raises as :func:`block` does."""
    block(page, name, path)
    return _pattern(name).sub(lambda match: match[1] + text + match[3], page)


def cells(page: str, name: str, column: str, *row: str) -> list[str]:
    """Cells of the tables in a block, from top to bottom.

    Parameters
    ----------
    column : str
        The head of their column.
    *row : str
        Cells that their rows have, too, whole; all rows if there are none.

    Raises
    ------
    InputError
        If there is no such block, or no such cell in it.
    """
    found = []
    head: list[str] = []
    lines = block(page, name).splitlines()
    for line, below in pairwise([*lines, ""]):
        own = [cell.strip() for cell in line[1:-1].split("|")] if line.startswith("|") else []
        if _RULE.fullmatch(below):
            head = own
        elif not own:
            head = []
        elif column in head and not _RULE.fullmatch(line) and set(row) <= set(own):
            found.append(own[head.index(column)])
    if not found:
        raise InputError(f"benchmarks/README.md: {name} has no cell in column {column!r} of a row with {_words(row)}")
    return found


def _words(row: tuple[str, ...]) -> str:
    return " and ".join(map(repr, row)) or "anything"
