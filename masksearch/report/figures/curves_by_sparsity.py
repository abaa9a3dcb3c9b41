"""Figures of trainings: training loss and validation metric over epochs, one line per sparsity."""

import math
from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from masksearch.analysis import Group
from masksearch.experiment.cell_results import DenseResult
from masksearch.experiment.result_parts import Metric
from masksearch.report.figures.drawing import Drawing, few, label_of, over_seeds
from masksearch.report.figures.hover_texts import plot_curve
from masksearch.report.figures.style import DENSE, STYLE, Looks, legend_below, shades
from masksearch.training import EpochRow
from masksearch.utils.number_text import percent

_SERIES = 9  # pairs of method and label that are drawn
_COLUMNS = 3  # side by side in one figure
_POINTS = 400  # of a line; more can't be distinguished


def quantities(metric: Metric) -> tuple[tuple[str, str, float], ...]:
    """Return, for each quantity in training figures: field of an epoch's results, axis label, factor for its values."""
    return ("train_loss", "training loss", 1.0), ("val_metric", label_of(metric, "validation"), metric.scale)


def trajectory_drawings(groups: Sequence[Group], dense: Sequence[DenseResult], looks: Looks) -> Iterator[Drawing]:
    """Yield figures of training loss and validation metric over epochs, one column of panels per method.

    Vertical lines part the rounds of training. Lines are means over seeds, up to the last epoch that all seeds have.
    """
    networks = [network.epochs for network in dense if network.epochs]
    drawn = [group for group in groups if any(round_.epochs for round_ in group.cells[0].rounds)]
    series = few(drawn, _SERIES)
    total = len(few(drawn, len(drawn)))
    seeds = over_seeds(max([len(group.cells) for group in groups] or [len(networks)]))
    metric = next((one.metric for one in (*(group.cells[0].dense for group in groups), *dense)), Metric())
    about = f"Training loss and validation {metric.name} over the epochs of retraining, {seeds}"
    if any(len(group.cells[0].rounds) > 1 for group in drawn):
        about += "; vertical lines separate the rounds"
    if total > len(series):
        about += f"; {len(series)} of {total} methods and variants are shown"
    if not series:
        if networks:
            about = f"Training loss and validation {metric.name} of the dense training, {seeds}."
            yield Drawing("training", about, _figure([], [], networks, looks, metric))
        return
    columns = math.ceil(len(series) / math.ceil(len(series) / _COLUMNS))  # four are two and two
    for number, first in enumerate(range(0, len(series), columns), start=1):
        name = "training" if len(series) <= _COLUMNS else f"training_{number}"
        yield Drawing(name, f"{about}.", _figure(drawn, series[first : first + columns], networks, looks, metric))


@mpl.rc_context(STYLE)
def _figure(
    groups: Sequence[Group],
    series: Sequence[tuple[str, str]],
    dense: Sequence[Sequence[EpochRow]],
    looks: Looks,
    metric: Metric,
) -> Figure:
    columns = max(1, len(series))
    colours = shades(group.sparsity for group in groups)
    figure = Figure(figsize=(9.5 if columns > 1 else 5.5, 5.4))
    grid = figure.subplots(2, columns, sharex="col", sharey="row", squeeze=False)
    partings: list[set[float]] = [set() for _ in range(columns)]
    for (name, label, scale), row in zip(quantities(metric), grid, strict=True):
        row[0].set_ylabel(label)
        for place, axes in enumerate(row):
            if dense:
                _line(axes, [[epochs] for epochs in dense], name, scale, "dense", color=DENSE, linestyle=":")
            for group in groups:
                if series and (group.method, group.label) == series[place]:
                    rounds = [[round_.epochs for round_ in cell.rounds] for cell in group.cells]
                    text, colour = percent(group.sparsity), colours[group.sparsity]
                    partings[place] |= _line(axes, rounds, name, scale, text, color=colour)
    losses = [value for axes in grid[0] for line in axes.lines for value in np.asarray(line.get_ydata()) if value > 0]
    if losses and max(losses) > 20 * min(losses):
        grid[0, 0].set_yscale("log")
    for column, places, (method, label) in zip(grid.T, partings, series, strict=False):
        column[0].set_title(f"{looks.name(method)}\n{fill(label, 40)}".strip(), fontsize=9)
        for axes in column:
            for parting in places:
                axes.axvline(parting, color="#999999", linewidth=0.8)
    for axes in grid[1]:
        axes.set_xlabel("epochs of retraining" if series else "epochs")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    handles = [Line2D([], [], color=colour, linewidth=2, label=percent(value)) for value, colour in colours.items()]
    if dense:
        handles.append(Line2D([], [], color=DENSE, linestyle=":", label="dense training"))
    legend_below(figure, handles)
    return figure


def _line(
    axes: Axes, seeds: Sequence[Sequence[Sequence[EpochRow]]], name: str, scale: float, series: str, **look: Any
) -> set[float]:
    """Draw means over seeds by epoch, one round after the other; return the places between rounds."""
    epochs: list[float] = []
    means: list[float] = []
    partings: set[float] = set()
    done = 0  # epochs of the rounds before
    for rounds in zip(*seeds, strict=True):
        common = min(map(len, rounds))
        values = np.array([[getattr(row, name) for row in round_[:common]] for round_ in rounds], float)  # None: NaN
        if common:
            gap = [math.nan] * bool(means)
            epochs += [done + 0.5] * len(gap) + [done + 1 + place for place in range(common)]
            means += [*gap, *(scale * values.mean(axis=0))]
        longest = max(map(len, rounds))
        partings |= {done + 0.5} if done and longest else set()
        done += longest
    stride = math.ceil(len(epochs) / _POINTS) or 1
    marker = "." if len(epochs) <= 3 else ""  # a line of one point can't be seen
    plot_curve(axes, epochs[::stride], means[::stride], f"{series}, epoch", linewidth=1.5, marker=marker, **look)
    return partings
