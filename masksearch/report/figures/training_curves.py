"""Figures of trainings: training loss and validation accuracy over epochs, a line per sparsity."""

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
from masksearch.experiment.results import DenseResult
from masksearch.report.figures.drawing import Drawing, few, over_seeds, percent
from masksearch.report.figures.hover import tell_along
from masksearch.report.figures.style import DENSE, STYLE, Looks, legend_columns, shades
from masksearch.training import EpochRow

__all__ = ["trajectory_drawings"]

_SERIES = 9  # pairs of method and label that are drawn
_COLUMNS = 3  # side by side in one figure
_POINTS = 400  # of a line; more can't be told apart
_ROWS = (("train_loss", "training loss", 1.0), ("val_accuracy", "validation accuracy (%)", 100.0))


def trajectory_drawings(groups: Sequence[Group], dense: Sequence[DenseResult], looks: Looks) -> Iterator[Drawing]:
    """A column per method and label: loss above, accuracy below.

    Rounds follow one another, set apart by vertical lines. Means over seeds, as far as all seeds go.
    """
    networks = [network.epochs for network in dense if network.epochs]
    drawn = [group for group in groups if any(round_.epochs for round_ in group.cells[0].rounds)]
    series = few(drawn, _SERIES)
    total = len(few(drawn, len(drawn)))
    seeds = over_seeds(max([len(group.cells) for group in groups] or [len(networks)]))
    about = f"Training loss and validation accuracy over the epochs of retraining, {seeds}"
    if any(len(group.cells[0].rounds) > 1 for group in drawn):
        about += "; vertical lines part the rounds"
    if total > len(series):
        about += f"; {len(series)} of {total} methods and variants"
    if not series:
        if networks:
            yield Drawing(
                "training",
                f"Training loss and validation accuracy of the dense training, {seeds}.",
                _figure([], [], networks, looks),
            )
        return
    columns = math.ceil(len(series) / math.ceil(len(series) / _COLUMNS))  # four are two and two
    for number, first in enumerate(range(0, len(series), columns), start=1):
        name = "training" if len(series) <= _COLUMNS else f"training_{number}"
        yield Drawing(name, f"{about}.", _figure(drawn, series[first : first + columns], networks, looks))


def _figure(
    groups: Sequence[Group], series: Sequence[tuple[str, str]], dense: Sequence[Sequence[EpochRow]], looks: Looks
) -> Figure:
    columns = max(1, len(series))
    colours = shades(group.sparsity for group in groups)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5 if columns > 1 else 5.5, 5.4))
        grid = figure.subplots(2, columns, sharex="col", sharey="row", squeeze=False)
        losses: list[float] = []
        partings: list[set[float]] = [set() for _ in range(columns)]
        for (name, _, scale), row in zip(_ROWS, grid, strict=True):
            for place, axes in enumerate(row):
                if dense:
                    _line(axes, _curve([[epochs] for epochs in dense], name, scale), DENSE, ":", "dense")
                for group in groups:
                    if series and (group.method, group.label) == series[place]:
                        rounds = [[round_.epochs for round_ in cell.rounds] for cell in group.cells]
                        curve = _curve(rounds, name, scale)
                        _line(axes, curve, colours[group.sparsity], "-", percent(group.sparsity))
                        partings[place] |= _partings(rounds)
                if name == "train_loss":
                    losses += [value for line in axes.lines for value in np.asarray(line.get_ydata()) if value > 0]
        for column, places in zip(grid.T, partings, strict=True):
            for axes in column:
                for parting in places:
                    axes.axvline(parting, color="#999999", linewidth=0.8)
        if losses and max(losses) > 20 * min(losses):
            grid[0, 0].set_yscale("log")
        for (_, label, _), axes in zip(_ROWS, grid[:, 0], strict=True):
            axes.set_ylabel(label)
        for axes, one in zip(grid[0], series, strict=False):
            axes.set_title(f"{looks.name(one[0])}\n{fill(one[1], 40)}".strip(), fontsize=9)
        for axes in grid[1]:
            axes.set_xlabel("epochs of retraining" if series else "epochs")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        labels = {percent(sparsity): colour for sparsity, colour in colours.items()}
        handles = [Line2D([], [], color=colour, linewidth=2, label=label) for label, colour in labels.items()]
        if dense:
            handles.append(Line2D([], [], color=DENSE, linestyle=":", label="dense training"))
        columns = legend_columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        return figure


def _line(axes: Axes, points: tuple[np.ndarray, np.ndarray], colour: Any, style: str, name: str) -> None:
    stride = math.ceil(len(points[0]) / _POINTS) or 1
    few_points = ~np.isnan(points[1]) & (len(points[0]) <= 3)
    marker = "." if few_points.any() else ""  # a line of one point can't be seen
    axes.plot(points[0][::stride], points[1][::stride], color=colour, linestyle=style, linewidth=1.5, marker=marker)
    texts = [f"{name}, epoch {epoch:g}: {value:.4g}" for epoch, value in zip(*points, strict=True)]
    tell_along(axes, list(points[0]), list(points[1]), texts)


def _curve(seeds: Sequence[Sequence[Sequence[EpochRow]]], name: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and means over seeds, the rounds one after the other with a gap between them."""
    epochs: list[float] = []
    means: list[float] = []
    done = 0.0  # epochs of the rounds before
    for rounds in zip(*seeds, strict=True):
        common = min(len(round_) for round_ in rounds)
        values = np.array([[_number(getattr(row, name)) for row in round_[:common]] for round_ in rounds], float)
        if common:
            if means:
                epochs.append(done + 0.5)
                means.append(math.nan)
            epochs += [done + 1 + place for place in range(common)]
            means += list(scale * values.mean(axis=0))
        done += max(len(round_) for round_ in rounds)
    return np.array(epochs), np.array(means)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _partings(seeds: Sequence[Sequence[Sequence[Any]]]) -> set[float]:
    """Where one round's training ends and another one's begins."""
    places: set[float] = set()
    done = 0
    for rounds in zip(*seeds, strict=True):
        longest = max(len(round_) for round_ in rounds)
        if done and longest:
            places.add(done + 0.5)
        done += longest
    return places
