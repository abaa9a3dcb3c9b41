"""Figures of the test metric after retraining against the epoch at which masks were found."""

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
from masksearch.experiment.cell_results import CellResult, DenseResult
from masksearch.experiment.result_parts import Metric
from masksearch.report.figures.drawing import Drawing, label_of, over_seeds
from masksearch.report.figures.hover_texts import plot_estimates
from masksearch.report.figures.style import DENSE_LINE, STYLE, Look, Looks, legend_below, panel_grid, shades
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.number_text import percent

_PANELS = 8
_Point = tuple[float, Estimate]


def found_at_drawings(groups: Sequence[Group], dense: Sequence[DenseResult], looks: Looks) -> Iterator[Drawing]:
    """Yield a figure of test metric against the epoch at which masks were found; nothing if all have the same epoch."""
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
    metric = groups[0].cells[0].metric
    about = (
        f"Test {metric.name} after retraining against the epoch of the dense training after which the mask was found"
    )
    about += "; stars: tickets of the early-bird schedule, rewound as the other tickets of the panel" * any(
        early.values()
    )
    about += f"; {over_seeds(max(len(group.cells) for group in groups), intervals=True)}."
    about += " Masks found between whole epochs are left out." * missing
    about += f" {len(shown)} of {len(panels)} methods and variants are shown." * (len(panels) > len(shown))
    colours = shades(group.sparsity for group in groups)
    looked = {key: points[key] for key in shown}
    figure = _figure(looked, early, colours, dense, looks, metric)
    yield Drawing("found_at", about, figure)


@mpl.rc_context(STYLE)
def _figure(
    panels: Mapping[tuple[str, str], Mapping[float, list[_Point]]],
    stars: Mapping[tuple[str, str], list[tuple[float, _Point]]],
    colours: Mapping[float, Any],
    dense: Sequence[DenseResult],
    looks: Looks,
    metric: Metric,
) -> Figure:
    columns = min(4 if len(panels) > 4 else 3, len(panels))
    size = (6.0 if columns == 1 else 9.5, 2.9)
    figure, grid = panel_grid(len(panels), columns, size, 1.0, ("found at epoch", label_of(metric, "test")))
    for ((method, variant), curves), axes in zip(panels.items(), grid, strict=True):
        for sparsity, points in curves.items():
            _draw(axes, sorted(points, key=lambda point: point[0]), sparsity, colours, metric, marker="o", markersize=4)
        for sparsity, point in stars[method, variant]:
            look: Look = {"marker": "*", "markersize": 13, "linestyle": "", "markeredgecolor": "white"}
            _draw(axes, [point], sparsity, colours, metric, **look)
        if dense:
            mean = np.array([network.test_accuracy for network in dense], float).mean()
            axes.axhline(metric.scale * mean, **DENSE_LINE)
        axes.set_title(f"{looks.name(method)}\n{fill(variant, 120 // columns)}".strip(), fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    handles = [Line2D([], [], color=colour, linewidth=3, label=percent(value)) for value, colour in colours.items()]
    if any(stars.values()):
        handles.append(Line2D([], [], color="#666666", marker="*", markersize=11, linestyle="", label="early bird"))
    legend_below(figure, [*handles, Line2D([], [], label="dense", **DENSE_LINE)])
    return figure


def _draw(
    axes: Axes,
    points: Sequence[_Point],
    sparsity: float,
    colours: Mapping[float, Any],
    metric: Metric,
    **look: Any,
) -> None:
    epochs, estimates = zip(*points, strict=True)
    values = [estimate.text(metric.scale, metric.digits) + metric.unit for estimate in estimates]
    texts = [f"{percent(sparsity)}, epoch {epoch:.3g}: {value}" for epoch, value in zip(epochs, values, strict=True)]
    look |= {"color": colours[sparsity], "linewidth": 1.5, "capsize": 2.5}
    plot_estimates(axes, epochs, estimates, texts, metric, **look)


def _epoch(cell: CellResult, dense: Sequence[DenseResult]) -> float | None:
    """The epoch of the dense training at which a cell's mask was found; None if the moment is no known epoch."""
    moment = TrainingMoment.parse(cell.find_at)
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
    known = (row.val_metric for row in network.epochs[:until])
    values = np.array([None if value is None else cell.metric.score(value) for value in known], float)  # None: NaN
    return None if np.isnan(values).all() else float(np.nanargmax(values)) + 1
