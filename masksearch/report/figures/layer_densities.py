"""Figures of layers: density, kept weights, and MACs of the kept weights in each layer, by method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Group
from masksearch.experiment.result_parts import LayerCost
from masksearch.report.figures.drawing import Drawing, few, one_sparsity, over_seeds
from masksearch.report.figures.hover_texts import plot_points
from masksearch.report.figures.style import STYLE, Look, Looks, legend_below
from masksearch.utils.number_text import percent

_SERIES = 8
_Left = Mapping[str, Mapping[str, float]]


def layer_drawings(groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """Yield a figure of each layer's density, kept weights, and MACs of kept weights, by method, at one sparsity."""
    if not groups:
        return
    sparsity = one_sparsity(groups)
    here = [group for group in groups if group.sparsity == sparsity and group.control == "none"]
    left: dict[tuple[str, str], _Left] = {}
    for group in here:
        layers = _means(group)
        if layers not in [other for (method, _), other in left.items() if method == group.method]:
            left[group.method, group.label] = layers  # others have just the same masks
    if not left:
        return
    chosen = few([group for group in here if (group.method, group.label) in left], _SERIES)
    seeds = over_seeds(max(len(group.cells) for group in here))
    about = f"Density, kept weights and MACs of every layer at {percent(sparsity)} sparsity, {seeds}"
    if len(left) > len(chosen):
        about += f"; {len(chosen)} of {len(left)} methods and variants are shown"
    shown = {series: left[series] for series in chosen}
    yield Drawing("layers", f"{about}. Grey: the dense network.", _figure(shown, looks))


def _means(group: Group) -> _Left:
    return {
        name: {
            item.name: float(np.mean([getattr(cell.layers[name], item.name) for cell in group.cells]))
            for item in fields(LayerCost)
        }
        for name in group.cells[0].layers
    }


@mpl.rc_context(STYLE)
def _figure(series: Mapping[tuple[str, str], _Left], looks: Looks) -> Figure:
    whole = next(iter(series.values()))
    layers = list(whole)
    places = np.arange(len(layers))
    figure = Figure(figsize=(9.5, 1.6 + 0.22 * max(6, len(layers)) + 0.1 * len(series)))
    panels = figure.subplots(1, 3, sharey=True)
    grey: Look = {"color": "#aaaaaa", "linewidth": 5, "alpha": 0.5}
    for axes, key in zip(panels[1:], ("weights", "macs"), strict=True):
        axes.plot([whole[layer][key] or np.nan for layer in layers], places, solid_capstyle="round", **grey)
        axes.set_xscale("log")
    handles = []
    for (method, label), left in series.items():
        labels = [known for one, known in series if one == method]
        name = looks.series_name(method, label)
        look: Look = looks.line(label, labels) | {"color": looks.colour(method), "markersize": 3.5, "linewidth": 1.3}
        # Products of activations, as in attention, have no weights.
        shares = [100 * left[layer]["weights_left"] / (left[layer]["weights"] or np.nan) for layer in layers]
        # A layer that is empty has no place on a logarithmic axis: its point is missing.
        weights, macs = ([left[layer][key] or np.nan for layer in layers] for key in ("weights_left", "macs_left"))
        forms = ((shares, ".3g", "%"), (weights, ",.0f", "weights"), (macs, ",.0f", "MACs"))
        for axes, (values, form, unit) in zip(panels, forms, strict=True):
            pairs = zip(layers, values, strict=True)
            plot_points(axes, values, places, [f"{name}, {layer}: {x:{form}} {unit}" for layer, x in pairs], **look)
        handles.append(Line2D([], [], label=name, **look))
    for axes, label in zip(panels, ("density of the weights (%)", "weights left", "effective MACs"), strict=True):
        axes.set_xlabel(label)
    panels[0].set_ylim(len(layers) - 0.5, -0.5)
    panels[0].set_xlim(left=min(0, panels[0].get_xlim()[0]))
    panels[0].set_yticks(places, layers, fontsize=8 if len(layers) <= 30 else 6.5)
    legend_below(figure, [*handles, Line2D([], [], label="dense", **grey)])
    return figure
