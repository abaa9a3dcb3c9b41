"""Figures of weights: histograms of each layer's kept weights, one column of panels per method."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from masksearch.analysis import Group
from masksearch.experiment import SweepResult
from masksearch.experiment.cell_results import CellResult
from masksearch.experiment.store.sweep_plan import read_plan
from masksearch.report.figures.drawing import Drawing, few, one_sparsity
from masksearch.report.figures.hover_texts import tell_cells
from masksearch.report.figures.style import STYLE, Looks
from masksearch.spaces import REMOVED
from masksearch.utils.files import load_tensors
from masksearch.utils.number_text import percent

_COLUMNS = 6
_LAYERS = 20
_SAMPLE = 20_000  # weights of a layer that are looked at; the shape of more is the same
_BINS = 60
_OVERLAP = 1.3  # height of a histogram, in distances between two of them

Layers = dict[str, np.ndarray]  # kept weights


def weight_drawings(result: SweepResult, groups: Sequence[Group], looks: Looks) -> Iterator[Drawing]:
    """Yield a figure with a histogram of each layer's kept weights per method, at one sparsity and the first seed."""
    if not groups:
        return
    sparsity = one_sparsity(groups)
    here = [group for group in groups if group.sparsity == sparsity]
    chosen = few(here, _COLUMNS)
    columns: dict[str, tuple[str, Layers, Layers]] = {}
    for group in here:
        folder = result.folders[group.places[0]]
        if (group.method, group.label) in chosen and (folder / "retrained.safetensors").exists():
            title = f"{looks.name(group.method)}\n{fill(group.label, 20)}".strip()
            columns[title] = looks.colour(group.method), *_kept(result, group.cells[0], folder)
    if not columns:
        return
    about = (
        f"Histograms of the kept weights of every layer at {percent(sparsity)} sparsity, seed {here[0].cells[0].seed}. "
    )
    about += "Filled: after training" + "; lines: when the mask was found" * any(
        before for _, _, before in columns.values()
    )
    names = list(next(iter(columns.values()))[1])
    if len(names) > _LAYERS:
        about += f"; {_LAYERS} of {len(names)} layers are shown"
    about += ". All histograms have the same height; weights beyond the ends of the axis are left out."
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), _LAYERS)).round().astype(int))
    yield Drawing("weights", about, _figure(columns, [names[place] for place in places]))


def _kept(result: SweepResult, cell: CellResult, folder: Path) -> tuple[Layers, Layers]:
    """Kept weights of a cell's layers: after training, and when its mask was found if known.

    Pruned weights are zero in the trained network, and no other weights are; filters and blocks are removed. A training
    that diverged leaves weights that are not finite; they are left out.
    """
    trained, _ = load_tensors(folder / "retrained.safetensors")
    source = _found_weights(result, cell, folder)
    found = load_tensors(source)[0] if source and source.exists() else {}
    after, before = {}, {}
    for layer in cell.layers:
        left = trained.get(f"{layer}.weight")  # None: its block is removed
        weights = np.empty(0) if left is None else left.float().numpy().ravel()
        places = np.flatnonzero(np.isfinite(weights) & (weights != 0))
        places = places[:: max(1, len(places) // _SAMPLE)]
        after[layer] = weights[places]
        earlier = found.get(f"{layer}.weight")
        if earlier is not None and earlier.numel() == weights.size:
            before[layer] = earlier.float().numpy().ravel()[places]
    return after, before


def _found_weights(result: SweepResult, cell: CellResult, folder: Path) -> Path | None:
    """The file of the weights that a weight mask was found at; None if it isn't known, or units were removed."""
    if cell.granularity in REMOVED or cell.control != "none":
        return None
    if earlier := [round_.number for round_ in cell.rounds[:-1] if round_.epochs]:
        return folder / f"round{earlier[-1]}" / "retrained.safetensors"
    names = {"0": "init", "end": "dense", "best": "best"}
    name = names.get(cell.find_at, f"weights_{cell.find_at.replace(':', '_')}")
    files = [home / f"{name}.safetensors" for home in read_plan(result.path).dense_folders(cell.seed)]
    return files[0] if len(files) == 1 else None


@mpl.rc_context(STYLE)
def _figure(columns: dict[str, tuple[str, Layers, Layers]], names: Sequence[str]) -> Figure:
    spreads = [
        np.quantile(np.abs(layers[name]), 0.995)
        for _, *both in columns.values()
        for layers in both
        for name in names
        if len(layers.get(name, ()))
    ]
    reach = float(np.quantile(spreads, 0.8) * 1.1) if spreads else 1.0
    figure = Figure(figsize=(max(5.5, min(9.5, 2.0 + 2.4 * len(columns))), 1.3 + 0.34 * max(5, len(names))))
    panels = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    nothing = np.empty(0)
    for axes, (title, (colour, trained, before)) in zip(panels, columns.items(), strict=True):
        for place, name in enumerate(names):
            _ridge(axes, trained.get(name, nothing), before.get(name, nothing), name, place, colour, reach)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("weight")
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_ylim(len(names) - 0.7, -_OVERLAP - 0.1)
    if any(before for _, _, before in columns.values()):
        handles = [
            Patch(facecolor="#999999", alpha=0.6, label="after training"),
            Line2D([], [], color="#222222", linewidth=0.9, label="when the mask was found"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _ridge(
    axes: Axes, trained: np.ndarray, before: np.ndarray, name: str, place: int, colour: str, reach: float
) -> None:
    """Draw one layer's histograms, upwards from the layer's line (the axis points down)."""
    if not len(trained):
        axes.text(0, place - 0.1, "empty", fontsize=6, color="#777777", ha="center", zorder=place + 2)
        return
    bins = int(np.clip(2 * len(trained) ** 0.5, 12, _BINS))  # few weights in many bins would be all noise
    counts, edges = np.histogram(trained, bins, (-reach, reach))
    middles = (edges[1:] + edges[:-1]) / 2
    texts = [f"{100 * count / len(trained):.2g} %" for count in counts]
    places = np.concatenate([edges[:1], middles, edges[-1:]])
    outline = _heights(counts, place)
    area = axes.fill_between(places, place, outline, color=colour, alpha=0.6, linewidth=0.4, zorder=place)
    if len(before):
        earlier = np.histogram(before, edges)[0]
        axes.plot(places, _heights(earlier, place), color="#222222", linewidth=0.9, zorder=place + 0.5)
        shares = [f"{100 * count / len(before):.2g} % when found" for count in earlier]
        texts = [f"{text}, {share}" for text, share in zip(texts, shares, strict=True)]
    tell_cells(area, [f"{name}, weights near"], [f"{middle:.2g}" for middle in middles], [texts])


def _heights(counts: np.ndarray, place: int) -> np.ndarray:
    """The outline of a histogram, from its first edge over the middles of its bins to its last edge."""
    return np.pad(place - _OVERLAP * np.round(counts / max(1, counts.max()), 3), 1, mode="edge")
