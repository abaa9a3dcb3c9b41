"""Figures in sentences: prose as templates, rendered onto ``benchmarks/README.md``, ``README.md`` and ``docs/*.md``.

    python -m benchmarks.sentences

A template is a file ``benchmarks/sentences/<name>.md`` in Jinja2's language. Its text goes between the lines
``<!-- says_<name> -->`` and ``<!-- end of says_<name> -->`` of the one document that has these lines. Figures are
expressions: ``{{ mean("thesis_mlp_cpu", "annealing", 0.9) }}`` is a mean over the seeds of committed rows,
``{{ cell("sparse", "90%", "256 x 256", "64") }}`` stands in a table of the page. Accuracies are in percent. A number is
printed with two digits after the point, an :class:`Estimate` with its 95 % interval, a list as a / b / c.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import product
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from benchmarks.page import HERE, cells, replace_block
from benchmarks.rows import Row, number, read_csv
from masksearch.analysis import Estimate, paired
from masksearch.utils.errors import InputError

__all__ = ["Figures", "documents", "render", "write"]

ACCURACY = "trained.test_accuracy"


def _of_lists(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, and where arguments are lists, the list of what it says of each, those of the last one fastest."""

    @wraps(function)
    def each(self: "Figures", *given: Any, **named: Any) -> Any:
        names, values = list(named), [*given, *named.values()]
        if not any(isinstance(value, list) for value in values):
            return function(self, *given, **named)
        choices = product(*(value if isinstance(value, list) else [value] for value in values))
        return [
            function(self, *one[: len(given)], **dict(zip(names, one[len(given) :], strict=True))) for one in choices
        ]

    return each


@dataclass(frozen=True)
class Figures:
    """What templates take figures from.

    Attributes
    ----------
    results : Path
        The folder of committed rows.
    page : str
        The text of ``benchmarks/README.md``.
    """

    results: Path
    page: str

    def seeds(self, sweep: str, method: str, sparsity: float, column: str = ACCURACY, **where: Any) -> list[float]:
        """The figures of one case, by seed.

        Parameters
        ----------
        sweep : str
            The rows' file, ``results/<sweep>.csv``.
        sparsity : float
            To four digits after the point, as tables print it.
        column : str
            A column, or two with `` / `` between them: their quotient, row by row. Accuracies are turned to percent.
        **where
            What other columns say, where method and sparsity leave several rows a seed: ``find_at="0"``.

        Raises
        ------
        InputError
            If there are no such rows, several of one seed, or one without the figure.
        """
        return [value for _, value in self._case(sweep, method, sparsity, column, where)]

    def runs(self, sweep: str, method: str, sparsity: float, **where: Any) -> int:
        """How many seeds of a case have run: 0 where :meth:`seeds` would be an error for want of rows."""
        _, found = self._rows(sweep, method, sparsity, ACCURACY, where)
        return len({row["seed"] for row in found})

    @_of_lists
    def estimate(self, *case: Any, **where: Any) -> Estimate:
        """Mean and 95 % interval over the seeds of a case; arguments as of :meth:`seeds`, or lists of such."""
        return Estimate.of(self.seeds(*case, **where))

    @_of_lists
    def mean(self, *case: Any, **where: Any) -> float:
        """The mean over the seeds of a case; arguments as of :meth:`seeds`, or lists of such."""
        return Estimate.of(self.seeds(*case, **where)).mean

    def difference(self, one: Mapping[str, Any], other: Mapping[str, Any], **shared: Any) -> Estimate:
        """The first case minus the second, in pairs by seed, over the seeds that both have.

        Parameters
        ----------
        one, other : mapping
            What tells both apart, of the arguments of :meth:`seeds`.
        **shared
            What they have in common.
        """
        first, second = (dict(self._case(**_arguments({**shared, **case}))) for case in (one, other))
        both = [seed for seed in first if seed in second]
        return paired([first[seed] for seed in both], [second[seed] for seed in both]).difference

    def cells(self, block: str, column: str, *row: str) -> list[str]:
        """See :func:`benchmarks.page.cells`."""
        return cells(self.page, block, column, *row)

    @_of_lists
    def cell(self, block: str, column: str, *row: str) -> str:
        """The one cell in ``column`` of the tables of a block whose row has the cells ``row``; or lists of such.

        Raises
        ------
        InputError
            If there is none, or several that differ.
        """
        found = list(dict.fromkeys(self.cells(block, column, *row)))
        if len(found) > 1:
            raise InputError(
                f"benchmarks/README.md: {block} has {len(found)} cells in column {column!r} of rows with "
                f"{' and '.join(map(repr, row))}: {', '.join(found)}"
            )
        return found[0]

    def _case(
        self, sweep: str, method: str, sparsity: float, column: str, where: Mapping[str, Any]
    ) -> list[tuple[int, float]]:
        """Seeds and figures of the one case, from the lowest seed on."""
        path = self._path(sweep)
        rows, found = self._rows(sweep, method, sparsity, column, where)
        what = f"{method} at {100 * sparsity:g} %{''.join(f', {name} {value}' for name, value in where.items())}"
        if not found:
            methods = ", ".join(dict.fromkeys(row["method"] for row in rows))
            raise InputError(f"{path}: no rows of {what}; its methods are {methods or 'none'}")
        if len({row["seed"] for row in found}) < len(found):
            raise InputError(f"{path}: several rows a seed of {what}; they differ in {_differing(found)}")
        figures = sorted((int(row["seed"]), _figure(row, column)) for row in found)
        if any(math.isnan(figure) for _, figure in figures):
            raise InputError(f"{path}: a row of {what} has no {column}")
        return figures

    def _rows(
        self, sweep: str, method: str, sparsity: float, column: str, where: Mapping[str, Any]
    ) -> tuple[list[Row], list[Row]]:
        """All rows of a sweep, and those of the one case."""
        rows = read_csv(self._path(sweep))
        unknown = [name for name in (*where, *column.split(" / ")) if not any(name in row for row in rows)]
        if rows and unknown:
            raise InputError(f"{self._path(sweep)}: no column {unknown[0]!r}")
        wanted = {"method": method} | {name: str(value) for name, value in where.items()}
        found = [
            row
            for row in rows
            if abs(number(row, "sparsity") - sparsity) < 5e-5
            and all(row[name] == value for name, value in wanted.items())
        ]
        return rows, found

    def _path(self, sweep: str) -> Path:
        return self.results / f"{sweep}.csv"


def _arguments(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``_case`` among those of ``seeds``."""
    own = {name: case[name] for name in ("sweep", "method", "sparsity")} | {"column": case.get("column", ACCURACY)}
    return own | {"where": {name: value for name, value in case.items() if name not in own}}


def _figure(row: Row, column: str) -> float:
    name, _, by = column.partition(" / ")
    figure = number(row, name) / (number(row, by) if by else 1)
    return 100 * figure if "accuracy" in column and not by else figure


def _differing(rows: Sequence[Row]) -> str:
    names = [name for name in rows[0] if "." not in name and name not in ("cell", "seed")]
    return ", ".join(name for name in names if len({row[name] for row in rows}) > 1) or "nothing"


_FUNCTIONS = ("mean", "estimate", "difference", "seeds", "runs", "cell", "cells")


def first_number(text: str) -> float:
    """The first number in a cell: 97.98 of ``97.98 ± 0.05``, 110114 of ``110,114``.

    Raises
    ------
    InputError
        If there is none.
    """
    found = re.search(r"[-+]?(\d[\d,]*)?\.?\d+(e[-+]?\d+)?", text)
    if not found:
        raise InputError(f"cell {text!r}: no number")
    return float(found[0].replace(",", ""))


def digits(figures: float | Sequence[float], n: int) -> str:
    """A number, or several as a / b / c, with ``n`` digits after the point and commas between thousands."""
    if isinstance(figures, int | float):
        return f"{figures:,.{n}f}"
    return " / ".join(digits(figure, n) for figure in figures)


def span(figures: Sequence[float], n: int = 2) -> str:
    """From the lowest to the highest: ``40 to 44``, or the one number if that is all."""
    ends = [digits(end(figures), n) for end in (min, max)]
    return " to ".join(dict.fromkeys(ends))


def listed(figures: Sequence[float], n: int = 0) -> str:
    """``15, 11, 14, 12 and 18``."""
    *most, last = (digits(figure, n) for figure in figures)
    return f"{', '.join(most)} and {last}" if most else last


_FILTERS: dict[str, Callable[..., Any]] = {
    "number": first_number,
    "digits": digits,
    "span": span,
    "listed": listed,
}


def _printed(value: Any) -> Any:
    """How expressions are printed that say nothing of it."""
    if isinstance(value, float):
        return digits(value, 2)
    if isinstance(value, Estimate):
        return value.text()
    if isinstance(value, list):
        return " / ".join(str(_printed(one)) for one in value)
    return value


def render(home: Path = HERE) -> dict[str, str]:
    """The text of every template in ``home/sentences``, by the block that it is for.

    Raises
    ------
    InputError
        If a figure is not to be found, or is not the only one, or a template can't be read.
    """
    paths = sorted((home / "sentences").glob("*.md"))
    if not paths:
        return {}
    environment = Environment(
        loader=FileSystemLoader(home / "sentences"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printed,
        autoescape=False,
    )
    figures = Figures(home / "results", (home / "README.md").read_text())
    environment.globals |= {name: getattr(figures, name) for name in _FUNCTIONS}
    environment.filters |= _FILTERS
    texts = {}
    for path in paths:
        try:
            texts[f"says_{path.stem}"] = environment.get_template(path.name).render()
        except (InputError, TemplateError) as error:
            raise InputError(f"{path}: {error}") from error
    return texts


def documents(home: Path = HERE) -> dict[Path, str]:
    """The texts of all documents that may have places for templates, by path.

    These are ``home/README.md``, and ``README.md`` and ``docs/*.md`` of the folder above ``home``.
    """
    above = home.parent
    paths = [home / "README.md", above / "README.md", *sorted((above / "docs").glob("*.md"))]
    return {path: path.read_text() for path in paths if path.exists()}


def write(home: Path = HERE) -> None:
    """Render all templates in ``home/sentences`` to their places in :func:`documents`.

    Raises
    ------
    InputError
        If a figure is not found, or if not exactly one document has a place for a template. No file has changed then.
    """
    texts = render(home)
    pages = documents(home) if texts else {}
    for name, text in texts.items():
        places = [path for path, page in pages.items() if f"<!-- {name} -->\n" in page]
        if len(places) != 1:
            found = ", ".join(map(str, places or pages))
            raise InputError(f"{name}: exactly one document needs a place for it; {len(places)} have one ({found})")
        pages[places[0]] = replace_block(pages[places[0]], name, text, str(places[0]))
    for path, page in pages.items():
        path.write_text(page)


if __name__ == "__main__":
    try:
        write()
    except InputError as error:
        sys.exit(f"sentences: {error}")
