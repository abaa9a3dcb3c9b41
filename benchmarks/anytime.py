"""Figures of searches: best score so far against scorings, images or seconds."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.accuracies import lines
from benchmarks.rows import Row, number, series
from masksearch.analysis import Band, band
from masksearch.report import Drawing
from masksearch.report.figures.style import STYLE, Looks

__all__ = ["curves", "drawings", "shared_seeds"]

_WORDS = {"scorings": "scorings", "images": "image-evaluations", "seconds": "seconds of proposing and scoring"}


def curves(rows: Sequence[Row], axis: str) -> dict[str, tuple[np.ndarray, Band]]:
    """Return {method: (places along an axis, band of best scores over seeds)}; empty without such columns.

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


def shared_seeds(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the seeds that every method has.

    Parameters
    ----------
    rows : sequence of Row
        Of one sparsity.
    """
    seeds = set.intersection(*({seed for _, seed in places} for places in series(rows).values()))
    return [row for row in rows if int(row["seed"]) in seeds]


def drawings(rows: Sequence[Row]) -> list[Drawing]:
    """Return one figure with a row of panels per sparsity and a panel per axis; none if methods share no seed.

    There is none as long as methods have no seed in common.
    """
    sparsities = sorted({number(row, "sparsity") for row in rows})
    shared = {one: shared_seeds([row for row in rows if number(row, "sparsity") == one]) for one in sparsities}
    shared = {one: own for one, own in shared.items() if own}
    axes = [axis for axis in _WORDS if any(curves(own, axis) for own in shared.values())]
    if not axes:
        return []
    titles = {one: f"{100 * one:g} % sparsity, {_seeds(own)}" for one, own in shared.items()}
    known = lines(rows)
    colours = Looks(known.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.8 * len(axes) + 1.6, 2.9 * len(shared) + 0.3), layout="constrained")
        grid = figure.subplots(len(shared), len(axes), squeeze=False)
        for panels, (sparsity, own) in zip(grid, shared.items(), strict=True):
            for panel, axis in zip(panels, axes, strict=True):
                for name, (looks, over_seeds) in curves(own, axis).items():
                    colour = colours.colour(known[name].method)
                    panel.plot(looks, over_seeds.mean, label=name, color=colour)
                    panel.fill_between(looks, over_seeds.low, over_seeds.high, color=colour, alpha=0.2, linewidth=0)
                panel.set_xscale("log")
                panel.xaxis.set_minor_formatter(NullFormatter())  # less than a decade would fill the axis with numbers
                panel.set_xlabel(_WORDS[axis])
                panel.set_ylabel("best score so far")
                panel.set_title(titles[sparsity])
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right center")
    about = "Best score so far, means and 95 % intervals over the seeds that all methods have"
    return [Drawing("anytime", f"{about}: {'; '.join(titles.values())}.", figure)]


def _seeds(rows: Sequence[Row]) -> str:
    seeds = len({row["seed"] for row in rows})
    return f"{seeds} seed{'s' * (seeds != 1)}"
