"""Trainability: how fast the tickets of all methods learn, side by side, and what they are worth beside controls."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from masksearch.analysis import Estimate, Group, control_rows
from masksearch.report.figures.drawing import Drawing, few, over_seeds, percent
from masksearch.report.figures.hover import tell_along
from masksearch.report.figures.style import STYLE, Looks, legend_columns
from masksearch.report.tables.text_table import Grid

__all__ = ["controls", "training"]

_LINES = 10
_PANELS = (("train_loss", "training loss", 1.0), ("val_accuracy", "validation accuracy (%)", 100.0))


def training(groups: Sequence[Group], looks: Looks) -> tuple[list[Grid], list[Drawing]]:
    """The retrainings of groups at one sparsity, of the last round where there are several: a table and a figure."""
    trained = [group for group in groups if all(cell.epochs for cell in group.cells)]
    if not trained:
        return [], []
    sparsity = percent(trained[0].sparsity)
    rows = []
    for group in trained:
        losses = [[row.train_loss for row in cell.epochs] for cell in group.cells]
        looked = [[one[0] for one in losses], [one[(len(one) - 1) // 2] for one in losses], [one[-1] for one in losses]]
        best = Estimate.of(cell.trained.best_val_epoch for cell in group.cells)
        last = Estimate.of(cell.trained.val_accuracy for cell in group.cells)
        name = looks.series_name(group.method, group.label)
        rows.append((name, *(Estimate.of(one).text(1, 4) for one in looked), last.text(100), best.plain(".1f")))
    about = (
        "Training loss: means of an epoch, the first, the one halfway and the last one. Mean ± 95 % interval over "
        "seeds. Best epoch: by validation, counted as the learning rate's schedule counts."
    )
    head = ("method", "loss, first", "loss, halfway", "loss, last", "validation %", "best epoch")
    grid = Grid(f"Trainability at {sparsity}", head, rows, 1, about)
    series = few(trained, _LINES)
    chosen = [group for group in trained if (group.method, group.label) in series and group.control == "none"]
    if not chosen:
        return [grid], []
    caption = f"How tickets of {sparsity} sparsity learn, {over_seeds(max(len(group.cells) for group in chosen))}."
    return [grid], [Drawing(f"training_{sparsity.split()[0]}", caption, _figure(chosen, looks))]


def controls(groups: Sequence[Group], looks: Looks) -> list[Grid]:
    """Accuracies of tickets beside those of their controls."""
    rows = [
        (
            looks.name(row.group.method),
            row.group.label,
            percent(row.group.sparsity),
            row.treated.text(100),
            row.control.text(100),
            row.difference.text(100, sign="+"),
        )
        for row in control_rows(groups)
    ]
    about = (
        "Test accuracy after the last epoch: mean ± 95 % interval over seeds. Shuffled: the mask permuted within its "
        "layers, so that their densities alone are left of it; reinitialised: the mask on fresh weights; repaired: the "
        "mask on weights made as orthonormal under it as it allows. A control that loses nothing says that what it "
        "changed didn't matter."
    )
    head = ("method", "control", "sparsity", "ticket %", "control %", "difference")
    return [Grid("Tickets beside their controls", head, rows, 2, about)] if rows else []


def _figure(groups: Sequence[Group], looks: Looks) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.4))
        panels = figure.subplots(1, len(_PANELS))
        for axes, (name, label, scale) in zip(panels, _PANELS, strict=True):
            for group in groups:
                epochs, means = _curve(group, name, scale)
                style = looks.line(group.label)["linestyle"]
                axes.plot(epochs, means, color=looks.colour(group.method), linestyle=style, linewidth=1.5)
                series = looks.series_name(group.method, group.label)
                texts = [f"{series}, epoch {epoch:g}: {mean:.4g}" for epoch, mean in zip(epochs, means, strict=True)]
                tell_along(axes, list(epochs), list(means), texts)
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        handles = looks.handles(list(dict.fromkeys(group.label for group in groups)))
        columns = legend_columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        return figure


def _curve(group: Group, name: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and means over seeds as far as all seeds go."""
    trainings = [cell.epochs for cell in group.cells]
    common = min(map(len, trainings))
    values = np.array([[getattr(row, name) for row in one[:common]] for one in trainings], float)  # None: NaN
    return np.array([row.epoch for row in trainings[0][:common]], float), scale * values.mean(axis=0)
