"""Trainability: a figure of how fast masked networks of all methods learn, and a table with their controls."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from masksearch.analysis import INTERVALS, Estimate, Group, control_rows
from masksearch.experiment.result_parts import Metric
from masksearch.report.figures.curves_by_sparsity import quantities
from masksearch.report.figures.drawing import Drawing, few, over_seeds
from masksearch.report.figures.hover_texts import plot_curve
from masksearch.report.figures.style import STYLE, Look, Looks, legend_below
from masksearch.report.tables.table_formats import Grid
from masksearch.utils.number_text import percent

_LINES = 10


def training(groups: Sequence[Group], looks: Looks) -> tuple[list[Grid], list[Drawing]]:
    """Return a table and a figure of how masked networks' training loss and metric change in retraining."""
    trained = [group for group in groups if all(cell.epochs for cell in group.cells)]
    if not trained:
        return [], []
    sparsity, metric = percent(trained[0].sparsity), trained[0].cells[0].metric
    rows = []
    for group in trained:
        losses = [[row.train_loss for row in cell.epochs] for cell in group.cells]
        looked = [[one[0] for one in losses], [one[(len(one) - 1) // 2] for one in losses], [one[-1] for one in losses]]
        best = Estimate.of(cell.trained.best_val_epoch for cell in group.cells)
        last = Estimate.of(cell.trained.val_accuracy for cell in group.cells)
        name = looks.series_name(group.method, group.label)
        rows.append(
            (
                name,
                *(Estimate.of(one).text(1, 4) for one in looked),
                last.text(metric.scale, metric.digits),
                best.plain(".1f"),
            )
        )
    about = (
        f"Training losses of the first, the middle and the last epoch: {INTERVALS}. Best epoch: "
        "number of the epoch with the best validation result, in the learning rate's schedule."
    )
    head = (
        "method",
        "loss, first",
        "loss, halfway",
        "loss, last",
        f"validation {'%' if metric.is_accuracy else metric.name}",
        "best epoch",
    )
    grid = Grid(f"Trainability at {sparsity}", head, rows, 1, about)
    series = few(trained, _LINES)
    chosen = [group for group in trained if (group.method, group.label) in series and group.control == "none"]
    if not chosen:
        return [grid], []
    caption = (
        f"Training of the tickets at {sparsity} sparsity, {over_seeds(max(len(group.cells) for group in chosen))}."
    )
    return [grid], [Drawing(f"training_{sparsity.split()[0]}", caption, _figure(chosen, looks))]


def controls(groups: Sequence[Group], looks: Looks) -> list[Grid]:
    """Return tables that compare the test metrics of masked networks with those of their control networks."""
    metric = groups[0].cells[0].metric if groups else Metric()
    rows = [
        (
            looks.name(row.group.method),
            row.group.label,
            percent(row.group.sparsity),
            row.treated.text(metric.scale, metric.digits),
            row.control.text(metric.scale, metric.digits),
            row.difference.text(metric.scale, metric.digits, "+"),
        )
        for row in control_rows(groups)
    ]
    about = (
        f"Test {metric.name} after the last epoch: {INTERVALS}. Shuffled: the mask permuted within "
        "its layers, which keeps only the layers' densities; reinitialised: the mask on new weights; repaired: the "
        "mask on weights that are made as orthonormal as the mask allows. If a control is as good as the ticket, "
        "the part that it changes (units of the mask, or weights) does not matter."
    )
    head = ("method", "control", "sparsity", f"ticket{metric.unit}", f"control{metric.unit}", "difference")
    return [Grid("Tickets and their controls", head, rows, 2, about)] if rows else []


@mpl.rc_context(STYLE)
def _figure(groups: Sequence[Group], looks: Looks) -> Figure:
    figure = Figure(figsize=(9.5, 4.4))
    panels = figure.subplots(1, 2)
    for axes, (name, label, scale) in zip(panels, quantities(groups[0].cells[0].metric), strict=True):
        for group in groups:
            trainings = [cell.epochs for cell in group.cells]
            common = min(map(len, trainings))  # as far as all seeds go
            values = np.array([[getattr(row, name) for row in one[:common]] for one in trainings], float)  # None: NaN
            epochs, means = [row.epoch for row in trainings[0][:common]], scale * values.mean(axis=0)
            series = looks.series_name(group.method, group.label)
            look: Look = {"color": looks.colour(group.method), "linestyle": looks.line(group.label)["linestyle"]}
            plot_curve(axes, epochs, means, f"{series}, epoch", linewidth=1.5, **look)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend_below(figure, looks.handles(list(dict.fromkeys(group.label for group in groups))))
    return figure
