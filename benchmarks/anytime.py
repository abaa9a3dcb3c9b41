"""Anytime curves of a sweep of searches, from its rows: the best score so far along what it has cost."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.accuracies import lines
from benchmarks.rows import Row, number, series
from masksearch.analysis import Band, band
from masksearch.report import Drawing
from masksearch.report.style import STYLE, Looks

__all__ = ["curves", "drawing"]

_WORDS = {"scorings": "scorings", "images": "image-evaluations", "seconds": "seconds of scoring"}


def curves(rows: Sequence[Row], axis: str) -> dict[str, tuple[np.ndarray, Band]]:
    """Of every method the looks along an axis and the band of its best scores over seeds; none if there are no looks.

    Parameters
    ----------
    rows : sequence of Row
        Of one sparsity.
    axis : str
        scorings, images or seconds.
    """
    prefix = f"best.{axis}."
    columns = sorted((name for name in rows[0] if name.startswith(prefix)), key=lambda name: float(name[len(prefix) :]))
    looks = np.array([float(name[len(prefix) :]) for name in columns])
    return {
        name: (looks, band(np.array([[number(row, column) for column in columns] for row in places.values()])))
        for name, places in series(rows).items()
        if columns
    }


def drawing(rows: Sequence[Row]) -> Drawing:
    """The curves at the highest sparsity, a panel an axis."""
    sparsity = max(number(row, "sparsity") for row in rows)
    own = [row for row in rows if number(row, "sparsity") == sparsity]
    panels = {axis: found for axis in _WORDS if (found := curves(own, axis))}
    seeds = len({row["seed"] for row in own})
    known = lines(own)
    colours = Looks(known.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.8 * len(panels) + 1.6, 3.2), layout="constrained")
        for place, (axis, found) in enumerate(panels.items(), start=1):
            panel = figure.add_subplot(1, len(panels), place)
            for name, (looks, over_seeds) in found.items():
                colour = colours.colour(known[name].method)
                panel.plot(looks, over_seeds.mean, label=name, color=colour)
                panel.fill_between(looks, over_seeds.low, over_seeds.high, color=colour, alpha=0.2, linewidth=0)
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())  # less than a decade would fill the axis with numbers
            panel.set_xlabel(_WORDS[axis])
            panel.set_ylabel("best score so far")
        figure.legend(*panel.get_legend_handles_labels(), loc="outside right center")
    caption = f"Best score so far at {100 * sparsity:g} % sparsity, means over {seeds} seeds with 95 % intervals."
    return Drawing("anytime", caption, figure)
