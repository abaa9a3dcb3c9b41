"""Figures of a suite: accuracy against sparsity and against costs, with a panel per method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.equal_costs import COSTS, Cost, costs_differ, dense_cost, mean_points
from benchmarks.rows import Row, number, series
from masksearch.analysis import pareto_front
from masksearch.report import Drawing
from masksearch.report.figures.style import DENSE, STYLE, Looks

__all__ = ["Line", "cost_drawings", "drawing", "lines"]

_ACROSS = 5  # panels, at most
_TICKS = (*range(10, 100, 10), 95, 98, 99)  # accuracies, in percent
_PERFECT = 0.1  # points of error: what is below is drawn there

Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""{name: (values along the x axis, accuracies in percent)}."""


@dataclass(frozen=True)
class Line:
    """Name, method and label of one line of a figure."""

    name: str
    method: str
    label: str
    learned: bool


def lines(rows: Sequence[Row]) -> dict[str, Line]:
    """Return {name: line} of all series of rows."""
    found = {}
    for name, places in series(rows).items():
        row = next(iter(places.values()))
        label = name.removeprefix(row["method"]).strip()
        found[name] = Line(name, row["method"], label, row.get("learned") == "True")
    return found


def drawing(rows: Sequence[Row], column: str, scale: float) -> Drawing:
    """Return a figure of a column against sparsity: means over seeds, times a scale.

    Parameters
    ----------
    rows : sequence of Row
        Of one sweep.
    column : str
        An accuracy.
    """
    points = {}
    for name, places in series(rows).items():
        sparsities = sorted({sparsity for sparsity, _ in places})
        own = [[number(row, column) for (there, _), row in places.items() if there == one] for one in sparsities]
        points[name] = ([100 * one for one in sparsities], [scale * np.mean(values) for values in own])
    figure = _panels(rows, points, "sparsity, %")
    caption = f"Test accuracy after retraining, {_about(rows)}. Grey: the other methods."
    return Drawing("accuracy", caption, figure)


def cost_drawings(rows: Sequence[Row], column: str, scale: float) -> list[Drawing]:
    """Return figures against MACs, and against parameters where methods differ in them, with Pareto fronts."""
    chosen = [cost for cost in reversed(COSTS) if cost.word == "MACs" or costs_differ(rows, cost)]
    return [_against(rows, column, scale, cost) for cost in chosen]


def _against(rows: Sequence[Row], column: str, scale: float, cost: Cost) -> Drawing:
    found = mean_points(rows, cost.column, column)
    costs, values = (np.array(means) for means in zip(*found.values(), strict=True))
    costs, values = 100 * costs / dense_cost(rows, cost), scale * values
    names = np.array([name for name, _ in found])
    points = {name: (costs[names == name], values[names == name]) for name in dict.fromkeys(names)}
    front = pareto_front(values, costs)
    figure = _panels(rows, points, f"{cost.word}, % of the dense network's", (costs[front], values[front]))
    caption = (
        f"Test accuracy after retraining against {cost.word}, {_about(rows)}. Black steps: the Pareto front of all "
        "methods; rings: points of the panel's method on the front."
    )
    return Drawing(cost.word.lower(), caption, figure)


def _about(rows: Sequence[Row]) -> str:
    seeds = len({row["seed"] for row in rows})
    return f"{rows[0]['dataset']}, {rows[0]['model']}, {rows[0]['granularity']}s: means over {seeds} seeds"


def _panels(
    rows: Sequence[Row], points: Points, label: str, front: tuple[np.ndarray, np.ndarray] | None = None
) -> Figure:
    """Return a figure with a panel per series; the other series are grey lines behind it."""
    known = lines(rows)
    looks = Looks(known.values())
    down = -(-len(points) // _ACROSS)
    across = -(-len(points) // down)
    with mpl.rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9}):
        figure = Figure(figsize=(1.8 * across + 0.5, 1.65 * down + 0.5), layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, name in zip(grid, points, strict=False):
            for other in points:
                panel.plot(*points[other], color="#d0d0d0", linewidth=0.8, zorder=1)
            if front:
                panel.step(*front, where="post", color=DENSE, linewidth=0.8, zorder=2)
                ringed = [one for one in zip(*points[name], strict=True) if one in set(zip(*front, strict=True))]
                if ringed:
                    panel.plot(*zip(*ringed, strict=True), "o", markersize=8, markerfacecolor="none", color=DENSE)
            panel.plot(*points[name], marker="o", markersize=4, color=looks.colour(known[name].method), zorder=3)
            panel.set_title((len(looks.methods) == 1 and known[name].label) or name)
        for panel in grid[len(points) :]:
            panel.remove()
        _log_error(grid[0], np.concatenate([accuracies for _, accuracies in points.values()]))
        if front:
            _log_percent(grid[0])
        figure.supxlabel(label, fontsize=9)
        figure.supylabel("test accuracy, % (log scale of the error)", fontsize=9)
    return figure


def _log_error(axes: Axes, accuracies: np.ndarray) -> None:
    """Set a y axis of accuracies in percent that is logarithmic in the error."""

    def forward(values: np.ndarray) -> np.ndarray:
        return -np.log(np.maximum(100 - np.asarray(values, dtype=float), _PERFECT))

    axes.set_yscale("function", functions=(forward, lambda heights: 100 - np.exp(-np.asarray(heights))))
    low, high = forward(np.array([np.nanmin(accuracies), np.nanmax(accuracies)]))
    margin = 0.06 * (high - low) + 0.01
    axes.set_ylim(*(100 - np.exp(-np.array([low - margin, high + margin]))))
    ticks: list[float] = []
    for tick, height in zip(_TICKS, forward(np.array(_TICKS)), strict=True):
        if height >= low - margin and (not ticks or height - forward(np.array(ticks[-1])) > 0.15 * (high - low)):
            ticks.append(tick)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_percent(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
