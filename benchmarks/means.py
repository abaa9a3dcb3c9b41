"""Means of rows by method and sparsity, or paired differences between methods, as a table.

    python -m benchmarks.means benchmarks/results/search_trained_cpu_global.csv --write trained_criteria
    python -m benchmarks.means benchmarks/results/controls.csv --of magnitude snip random --write controls_pairs

``--of NAME`` prints NAME minus each other method, in pairs by seed; ``--of`` with several names prints each name minus
its controls. Accuracies are in percent, other columns as they are, with 95 % intervals (Student's t) and, in
parentheses, the number of seeds where it is less than the most of the table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import HERE, write_block
from benchmarks.rows import Series, number, read_rows, series
from masksearch.analysis import Estimate, paired
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["differences", "means"]

_Cells = dict[str, dict[float, tuple[str, int]]]
"""By name of a row and sparsity: text, number of seeds."""


def means(found: Series, column: str) -> _Cells:
    """Return the mean of a column over seeds, by method and sparsity."""
    return {
        name: {
            sparsity: _text(Estimate.of(_by_seed(rows, sparsity, column).values()), column)
            for sparsity in sorted({sparsity for sparsity, _ in rows})
        }
        for name, rows in found.items()
    }


def differences(found: Series, names: Sequence[str], column: str) -> _Cells:
    """Return one name minus all other methods, or each name minus its controls, over the seeds that both have."""
    cells: _Cells = {}
    for name in names:
        choose("method", name, list(found))
        controls = [other for other in found if other.startswith(f"{name} ")]
        for other in controls if len(names) > 1 else [one for one in found if one != name]:
            row = cells.setdefault(f"{name} minus {other}", {})
            for sparsity in sorted({sparsity for sparsity, _ in found[name]}):
                one, two = (_by_seed(found[method], sparsity, column) for method in (name, other))
                if both := [seed for seed in one if seed in two]:
                    difference = paired([one[s] for s in both], [two[s] for s in both]).difference
                    row[sparsity] = _text(difference, column, "+")
    return cells


def _by_seed(rows: dict[tuple[float, int], dict[str, str]], sparsity: float, column: str) -> dict[int, float]:
    return {seed: number(row, column) for (other, seed), row in sorted(rows.items()) if other == sparsity}


def _text(estimate: Estimate, column: str, sign: str = "") -> tuple[str, int]:
    scale, digits = (100, 2) if column.endswith("accuracy") else (1, 3)
    return estimate.text(scale, digits, sign), estimate.n


def _quantity(column: str) -> str:
    parts = {"test_accuracy": "Test accuracy in percent", "val_accuracy": "Validation accuracy in percent"}
    return next((text for part, text in parts.items() if column.endswith(part)), f"{column}, mean")


def table(cells: _Cells, column: str) -> str:
    """Return names x sparsities as Markdown; accuracies in percent."""
    sparsities = sorted({sparsity for row in cells.values() for sparsity in row})
    most = max(n for row in cells.values() for _, n in row.values())
    lines = [["method", *(f"{100 * sparsity:g} %" for sparsity in sparsities)], ["---", *["---:"] * len(sparsities)]]
    for name, row in cells.items():
        texts = [row.get(sparsity, ("–", most)) for sparsity in sparsities]
        lines.append([name, *(text + f" ({n})" * (n < most) for text, n in texts)])
    note = f"{_quantity(column)} over {most} seed{'s' * (most > 1)}, or over as many seeds as in parentheses."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{note}\n"


def main(arguments: Sequence[str] | None = None, home: Path = HERE) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="files of rows")
    parser.add_argument("--of", nargs="+", default=[], metavar="NAME", help="methods to compare with others")
    parser.add_argument("--column", default="trained.test_accuracy", help="column of the rows")
    parser.add_argument("--write", metavar="NAME", help="write the table between the lines <!-- NAME --> of its page")
    asked = parser.parse_args(arguments)
    try:
        found = series(read_rows(asked.rows))
        cells = differences(found, asked.of, asked.column) if asked.of else means(found, asked.column)
        text = table(cells, asked.column)
        if asked.write:
            write_block(asked.write, text, home)
    except InputError as error:
        print(f"means: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
