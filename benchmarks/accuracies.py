"""What a suite compares, over sparsities: a line per method, from the rows of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.rows import Row, number, series
from masksearch.report import Drawing
from masksearch.report.style import STYLE, Looks

__all__ = ["Line", "drawing", "lines"]


@dataclass(frozen=True)
class Line:
    """A series of rows, as figures tell it from others."""

    name: str
    method: str
    way: str
    learned: bool


def lines(rows: Sequence[Row]) -> dict[str, Line]:
    """The series of rows by their names."""
    found = {}
    for name, places in series(rows).items():
        row = next(iter(places.values()))
        way = name.removeprefix(row["method"]).strip()
        found[name] = Line(name, row["method"], way, row.get("learned") == "True")
    return found


def drawing(rows: Sequence[Row], column: str, scale: float) -> Drawing:
    """Means over seeds of a column, times a scale, against sparsities.

    Parameters
    ----------
    rows : sequence of Row
        Of one sweep.
    column : str
        An accuracy.
    """
    known = lines(rows)
    looks = Looks(known.values())
    styles: dict[str, cycle[str]] = {}  # by colour: more methods than colours share some
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for name, places in series(rows).items():
            sparsities = sorted({sparsity for sparsity, _ in places})
            means = [
                scale * np.mean([number(row, column) for (there, _), row in places.items() if there == sparsity])
                for sparsity in sparsities
            ]
            colour = looks.colour(known[name].method)
            style = next(styles.setdefault(colour, cycle(["-", "--", ":"])))
            axes.plot([100 * one for one in sparsities], means, marker="o", color=colour, linestyle=style, label=name)
        axes.set_xlabel("sparsity, %")
        axes.set_ylabel("test accuracy, %")
        figure.legend(loc="outside right center")
    seeds = len({row["seed"] for row in rows})
    about = f"{rows[0]['dataset']}, {rows[0]['model']}, {rows[0]['granularity']}s"
    return Drawing("accuracy", f"Test accuracy after retraining, {about}: means over {seeds} seeds.", figure)
