"""Figures of layers: what every method leaves of each of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from masksearch.analysis import Group
from masksearch.experiment.results import LayerCost
from masksearch.report.figures.drawing import Drawing, few, one_sparsity, over_seeds, percent
from masksearch.report.figures.hover import tell
from masksearch.report.figures.style import STYLE, LineStyle, Looks, legend_columns

__all__ = ["layer_drawings"]

_SERIES = 8
_STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # of the labels of one method
_WHAT = {"weights_left": "weights", "macs_left": "MACs"}
_Left = Mapping[str, Mapping[str, float]]


def layer_drawings(groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """Density, weights and effective MACs of every layer, a line per method and label, at one sparsity."""
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
    about = f"What is left of every layer at {percent(sparsity)} sparsity, {seeds}"
    if len(left) > len(chosen):
        about += f"; {len(chosen)} of {len(left)} methods and variants"
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


def _figure(series: Mapping[tuple[str, str], _Left], looks: Looks) -> Figure:
    layers = list(next(iter(series.values())))
    whole = next(iter(series.values()))
    places = np.arange(len(layers))
    labels: dict[str, list[str]] = {}
    for method, label in series:
        labels.setdefault(method, []).append(label)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.6 + 0.22 * max(6, len(layers)) + 0.1 * len(series)))
        density, weights, macs = figure.subplots(1, 3, sharey=True)
        for axes, key in ((weights, "weights"), (macs, "macs")):
            totals = [max(1.0, whole[layer][key]) for layer in layers]
            axes.plot(totals, places, color="#aaaaaa", linewidth=5, alpha=0.5, solid_capstyle="round")
            axes.set_xscale("log")
        handles = []
        for (method, label), left in series.items():
            style, marker = _STYLES[labels[method].index(label) % len(_STYLES)]
            colour = looks.colour(method)
            look: LineStyle = {"linestyle": style, "marker": marker}
            shares = [100 * left[layer]["weights_left"] / left[layer]["weights"] for layer in layers]
            name = looks.series_name(method, label)
            [line] = density.plot(shares, places, color=colour, markersize=3.5, linewidth=1.3, **look)
            tell(line, [f"{name}, {layer}: {share:.3g} %" for layer, share in zip(layers, shares, strict=True)])
            for axes, key in ((weights, "weights_left"), (macs, "macs_left")):
                # A layer that is empty has no place on a logarithmic axis: its point is missing.
                values = [left[layer][key] or np.nan for layer in layers]
                [line] = axes.plot(values, places, color=colour, markersize=3.5, linewidth=1.3, **look)
                pairs = zip(layers, values, strict=True)
                tell(line, [f"{name}, {layer}: {value:,.0f} {_WHAT[key]}" for layer, value in pairs])
            handles.append(Line2D([], [], color=colour, markersize=3.5, linewidth=1.3, label=name, **look))
        handles.append(Line2D([], [], color="#aaaaaa", linewidth=5, alpha=0.5, label="dense"))
        density.set(xlabel="density of the weights (%)", ylim=(len(layers) - 0.5, -0.5))
        density.set_xlim(left=min(0, density.get_xlim()[0]))
        weights.set_xlabel("weights left")
        macs.set_xlabel("effective MACs")
        density.set_yticks(places, layers, fontsize=8 if len(layers) <= 30 else 6.5)
        columns = legend_columns([str(handle.get_label()) for handle in handles], 9.5)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        return figure
