"""Figures in sentences: each occurs in a table of the page, or of a page that the paragraph links to.

Figures are decimals, and whole numbers before %, points, times and units of time. A comment on the page allows the
others: ``<!-- typed: 0.05 98.09; why they are in no table -->``.
"""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from documents import RESULTS, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.parent == RESULTS or re.search(r"\]\([./a-z]*results/", page.read_text())]

_NUMBER = r"[-+]?(?:\d[\d,]*)?(?:\.\d+(?:e-?\d+)?|\d)"
_UNIT = r"(?= ?%| ?points?\b| times| seconds| ms\b| milliseconds| retrainings)"
FIGURE = re.compile(
    rf"(?<![\w.,@])(?P<pair>{_NUMBER} ± {_NUMBER})|(?<![\w.,@])[-+]?(?:\d[\d,]*)?(?:\.\d+(?:e-?\d+)?|\d{_UNIT})"
)
TYPED = re.compile(r"<!-- typed: (.*?); [^;]+? -->", re.DOTALL)
BLOCK = re.compile(r"^<!-- ((?:\w+: )?\w+) -->\n(.*?)^<!-- end of \1 -->\n?", re.DOTALL | re.MULTILINE)


def plain(figure: str) -> tuple[Decimal, ...]:
    """A figure, or the two of ``mean ± interval``, without signs and commas."""
    return tuple(Decimal(part.replace(",", "").strip("+- ")) for part in figure.split("±"))


def tables(path: Path) -> set[tuple[Decimal, ...]]:
    """All numbers, and all pairs ``mean ± interval``, in the blocks of a page that commands have written."""
    blocks = " ".join(block[2] for block in BLOCK.finditer(path.read_text()))
    return {plain(number) for number in re.findall(rf"{_NUMBER} ± {_NUMBER}", blocks) + re.findall(_NUMBER, blocks)}


def paragraphs(text: str) -> list[str]:
    """Paragraphs, list items and table rows without blocks, code and comments."""
    text = re.sub(r"<!--.*?-->", "", BLOCK.sub("\n\n", text), flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=- |\| |#)", text) if part.strip()]


def linked(path: Path, paragraph: str) -> list[Path]:
    """The page, and the pages of results that a paragraph links to."""
    targets = [path.parent / target for target in re.findall(r"\]\(([^)#\s]+\.md)", paragraph)]
    return [path, *(target for target in targets if target.resolve().parent == RESULTS)]


def is_rounded(wanted: tuple[Decimal, ...], number: tuple[Decimal, ...]) -> bool:
    """Whether a number rounds to the figure; of pairs, both."""
    halves = [Decimal(1).scaleb(int(part.as_tuple().exponent)) / 2 for part in wanted]
    return len(wanted) == len(number) and all(
        abs(one - other) <= half for one, other, half in zip(wanted, number, halves, strict=True)
    )


def unfounded(path: Path, text: str) -> list[tuple[str, str]]:
    """(figure, paragraph) of each figure that no table has and no comment on the page allows."""
    typed = {figure.lstrip("+-") for figures in TYPED.findall(text) for figure in figures.replace(",", "").split()}
    found = []
    for paragraph in paragraphs(text):
        words = re.sub(r"\]\([^)]*\)|95 % intervals?", "", paragraph)
        figures = [match[0] for match in FIGURE.finditer(words) if match[0].replace(",", "").lstrip("+-") not in typed]
        numbers = set().union(*map(tables, linked(path, paragraph))) if figures else set()
        found += [
            (figure, paragraph) for figure in figures if not any(is_rounded(plain(figure), one) for one in numbers)
        ]
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_figure_in_a_sentence_occurs_in_a_table(path):
    assert unfounded(path, path.read_text()) == []


def test_wrong_figures_in_sentences_are_found():
    page = RESULTS / "trained_masks.md"
    right = "It reaches 95.39 % (95.39 ± 0.12)."
    assert unfounded(page, right) == []
    assert [figure for figure, _ in unfounded(page, "It reaches 55.31 % and 95.39 ± 0.35.")] == [
        "55.31",
        "95.39 ± 0.35",
    ]
    assert unfounded(page, "It reaches 55.31 %.\n\n<!-- typed: 55.31; published -->\n") == []
    assert unfounded(RESULTS / "tried.md", right.replace("It", "[It](trained_masks.md)")) == []
    assert len(unfounded(RESULTS / "tried.md", right)) == 2
