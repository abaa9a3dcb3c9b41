"""Figures of accuracy after retraining against the epoch that masks were found at."""

import math
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from masksearch.analysis import Estimate, Group
from masksearch.experiment.results import CellResult, DenseResult
from masksearch.report.figures.drawing import Drawing, over_seeds, percent
from masksearch.report.figures.hover import tell
from masksearch.report.figures.style import DENSE, STYLE, Looks, legend_columns, shades
from masksearch.training.duration import Duration

__all__ = ["found_at_drawings"]

_PANELS = 8
_Point = tuple[float, Estimate]


def found_at_drawings(groups: Sequence[Group], dense: Sequence[DenseResult], looks: Looks) -> Iterator[Drawing]:
    """A panel per method and variant, a line per sparsity; stars mark epochs that an early-bird schedule has found."""
    points: dict[tuple[str, str], dict[float, list[_Point]]] = {}
    stars: dict[tuple[str, str], list[tuple[float, _Point]]] = {}  # by method and rewinding
    rewinding: dict[tuple[str, str], str] = {}
    missing = False
    for group in groups:
        epochs = [_epoch(cell, dense) for cell in group.cells]
        known = [epoch for epoch in epochs if epoch is not None]
        if group.control != "none" or not known:
            missing |= group.control == "none"
            continue
        point = sum(known) / len(known), Estimate.of(cell.trained.test_accuracy for cell in group.cells)
        rewind = group.cells[0].rewind_to
        if group.find_at == "early":
            stars.setdefault((group.method, rewind), []).append((group.sparsity, point))
        else:
            points.setdefault((group.method, group.variant), {}).setdefault(group.sparsity, []).append(point)
            rewinding[group.method, group.variant] = rewind
    panels = [key for key, lines in points.items() if any(len(line) > 1 for line in lines.values())]
    if not panels:
        return
    shown = panels[:_PANELS]
    early = {key: stars.get((key[0], rewinding[key]), []) for key in shown}
    about = "Test accuracy after retraining against the epoch of the dense training that the mask was found at"
    about += "; stars: tickets drawn by the schedule, rewound as the others of the panel" * any(early.values())
    about += f"; {over_seeds(max(len(group.cells) for group in groups), intervals=True)}."
    about += " Moments that are no whole epochs are left out." * missing
    about += f" {len(shown)} of {len(panels)} methods and variants." * (len(panels) > len(shown))
    colours = shades(group.sparsity for group in groups)
    figure = _figure({key: points[key] for key in shown}, early, colours, dense, looks)
    yield Drawing("found_at", about, figure)


def _figure(
    panels: Mapping[tuple[str, str], Mapping[float, list[_Point]]],
    stars: Mapping[tuple[str, str], list[tuple[float, _Point]]],
    colours: Mapping[float, Any],
    dense: Sequence[DenseResult],
    looks: Looks,
) -> Figure:
    columns = min(4 if len(panels) > 4 else 3, len(panels))
    lines = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0 if columns == 1 else 9.5, 1.0 + 2.9 * lines))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for ((method, variant), curves), axes in zip(panels.items(), grid.flat, strict=False):
            for sparsity, points in curves.items():
                look = {"marker": "o", "markersize": 4, "linewidth": 1.5}
                _draw(axes, sorted(points, key=lambda point: point[0]), sparsity, color=colours[sparsity], **look)
            for sparsity, point in stars[method, variant]:
                look = {"marker": "*", "markersize": 13, "linestyle": "", "markeredgecolor": "white"}
                _draw(axes, [point], sparsity, color=colours[sparsity], **look)
            if dense:
                accuracy = np.mean([_nan(network.test_accuracy) for network in dense])
                axes.axhline(100 * accuracy, color=DENSE, linewidth=1, linestyle=":")
            axes.set_title(f"{looks.name(method)}\n{fill(variant, 120 // columns)}".strip(), fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in grid[-1]:
            axes.set_xlabel("found at epoch")
        for axes in grid[:, 0]:
            axes.set_ylabel("test accuracy (%)")
        handles = [
            Line2D([], [], color=colour, linewidth=3, label=percent(sparsity)) for sparsity, colour in colours.items()
        ]
        if any(stars.values()):
            handles.append(Line2D([], [], color="#666666", marker="*", markersize=11, linestyle="", label="early bird"))
        handles.append(Line2D([], [], color=DENSE, linewidth=1, linestyle=":", label="dense"))
        columns = legend_columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        return figure


def _draw(axes: Axes, points: Sequence[_Point], sparsity: float, **look: Any) -> None:
    bars = axes.errorbar(
        [epoch for epoch, _ in points],
        [100 * estimate.mean for _, estimate in points],
        yerr=[0 if math.isnan(e.half_width) else 100 * e.half_width for _, e in points],
        capsize=2.5,
        **look,
    )
    tell(bars.lines[0], [f"{percent(sparsity)}, epoch {epoch:.3g}: {e.text(100)} %" for epoch, e in points])


def _epoch(cell: CellResult, dense: Sequence[DenseResult]) -> float | None:
    """The epoch that a cell's mask was found at; None if its moment is no epoch of a training that is known."""
    moment = Duration.parse(cell.find_at)
    network = next((one for one in dense if one.without_epochs == cell.dense), None)
    if not moment.best and moment.unit == "ep":
        return float(moment.count)
    if str(moment) == "0":
        return 0.0
    if network is None or not network.epochs or moment.unit == "it":
        return None
    total = len(network.epochs)
    if not moment.best:
        return float(total)
    until = moment.count if moment.unit == "ep" else total
    values = [_nan(row.val_accuracy) for row in network.epochs[:until]]
    return None if np.isnan(values).all() else float(np.nanargmax(values)) + 1


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
