"""Tables and figures about masks: similarity, orthogonality, densities and MACs of layers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from masksearch.analysis import (
    INTERVALS,
    SIMILARITIES,
    Group,
    group_masks,
    group_orthogonality,
    layer_means,
    random_like,
    similarity_matrix,
    similarity_means,
)
from masksearch.core.layout import Layout
from masksearch.core.mask import Mask
from masksearch.experiment import SweepResult
from masksearch.report.figures.drawing import Drawing, by_sparsity
from masksearch.report.figures.style import MATRIX_COLOURS, STYLE
from masksearch.report.tables.table_formats import Grid
from masksearch.spaces import UNITS, Granularity
from masksearch.utils.number_text import percent

_MEASURES = {
    "cosine": "units that both keep / sqrt(units of one x units of the other)",
    "hamming": "share of all units in which the masks differ (a distance)",
    "iou": "units that both keep / units that at least one keeps",
}


def similarity(
    result: SweepResult, groups: Sequence[Group], measures: Iterable[str] = SIMILARITIES
) -> tuple[list[Grid], list[Drawing]]:
    """Return tables and figures of how similar the methods' masks are, for each sparsity and similarity measure."""
    grids, drawings = [], []
    parts = ((sparsity, *part) for sparsity, own in by_sparsity(groups) for part in _by_space(result, own))
    for sparsity, space, kept in parts:
        names = [group.name for group, _ in kept]
        owners = [(place, seed) for place, (_, masks) in enumerate(kept) for seed in masks]
        masks = [kept[place][1][seed] for place, seed in owners]
        drawn = [random_like(mask, seed) for mask, (_, seed) in zip(masks, owners, strict=True)]
        for measure in measures:
            matrices = similarity_matrix(masks, measure), similarity_matrix(drawn, measure)
            pairs = np.stack([similarity_means(matrix, owners) for matrix in matrices], axis=-1)  # found and random
            texts = [["–" if np.isnan(pair[0]) else "{:.3f} ({:.3f})".format(*pair) for pair in row] for row in pairs]
            rows = [(name, *row) for name, row in zip(names, texts, strict=True)]
            about = (
                f"{measure}: {_MEASURES[measure]}. In brackets: the same for random masks with the same layer "
                "densities. Within a method: pairs of different seeds; between methods: the same seed."
            )
            title = ", ".join(filter(None, [f"Similarity of masks at {percent(sparsity)}", space, measure]))
            grids.append(Grid(title, ("method", *names), rows, 1, about))
            file = "_".join(filter(None, ["similarity", measure, f"{100 * sparsity:.4g}", space.replace(" ", "_")]))
            drawings.append(Drawing(file, about, _matrices(names, owners, matrices, measure)))
    return grids, drawings


def _by_space(
    result: SweepResult, groups: Iterable[Group]
) -> Iterator[tuple[str, list[tuple[Group, dict[int, Mask]]]]]:
    """Yield (text about a mask space, groups with masks of it); the text is empty if there is one space."""
    spaces: dict[str, list[tuple[Group, dict[int, Mask]]]] = {}
    for group in groups:
        if masks := group_masks(result, group):
            spaces.setdefault(_space(masks).fingerprint, []).append((group, masks))
    for kept in spaces.values():
        space = _space(kept[0][1])
        yield f"{space.n_units} {UNITS[cast(Granularity, space.granularity)]}" if len(spaces) > 1 else "", kept


def _space(masks: Mapping[int, Mask]) -> Layout:
    return next(iter(masks.values())).space


def orthogonality(result: SweepResult, groups: Sequence[Group]) -> list[Grid]:
    """Return a table of how far initial weights are from orthogonal, masked by each method and without a mask.

    The dense network's score is over the layers of the first mask.
    """
    rows = []
    at_initial = [group for group in groups if group.control != "reinit"]
    found = [(group, group_masks(result, group)) for group in at_initial]
    spaces = [_space(masks) for _, masks in found if masks]
    if spaces and all(cell.granularity == "weight" for cell in result.cells):
        seeds = sorted({cell.seed for cell in result.cells})
        full = Mask(spaces[0], torch.ones(spaces[0].n_units, dtype=torch.bool))
        whole = group_orthogonality(result, dict.fromkeys(seeds, full), seeds)
        if whole.n:
            rows.append(("dense", "–", whole.text(1, 5)))
            for group, masks in found:
                score = group_orthogonality(result, masks, list(masks), group.control == "repair")
                rows.append((group.name, percent(group.sparsity), score.text(1, 5)))
    about = f"Sum over layers of the mean of (W^T W - I)^2 for the masked initial weights W; {INTERVALS}."
    return [Grid("Orthogonality scores", ("method", "sparsity", "score"), rows, 1, about)] if rows else []


def densities(groups: Sequence[Group]) -> list[Grid]:
    """Return tables of the layers' densities, one table per sparsity and one column per method."""
    about = (
        "Kept units of every layer, in % of all its units, means over seeds; – where a layer has no units of its own."
    )
    grids = []
    for sparsity, own in by_sparsity(groups):
        means = [layer_means(group) for group in own]
        shares = {layer: [one[layer][0] for one in means] for layer in means[0]}
        rows = [(k, *("–" if np.isnan(v) else f"{100 * v:.2f}" for v in values)) for k, values in shares.items()]
        head = ("layer", *(group.name for group in own))
        grids.append(Grid(f"Densities of layers at {percent(sparsity)}", head, rows, 1, about))
    return grids


def macs(groups: Sequence[Group]) -> list[Grid]:
    """Return tables of MACs of each layer's kept weights, by method and in the dense network, one per sparsity."""
    about = "Multiply-adds of the kept weights for one image, means over seeds."
    grids = []
    for sparsity, own in by_sparsity(groups):
        means = [layer_means(group) for group in own]
        kept = {layer: [dense, *(one[layer][1] for one in means)] for layer, (_, _, dense) in means[0].items()}
        rows = [(layer, *(f"{value:,.0f}" for value in values)) for layer, values in kept.items()]
        head = ("layer", "dense", *(group.name for group in own))
        grids.append(Grid(f"MACs of layers at {percent(sparsity)}", head, rows, 1, about))
    return grids


@mpl.rc_context(STYLE)
def _matrices(
    names: Sequence[str], owners: Sequence[tuple[int, int]], matrices: Sequence[np.ndarray], measure: str
) -> Figure:
    """Two heat maps on one scale, of the masks of all methods and seeds: as they are, and random ones."""
    off = ~np.eye(len(owners), dtype=bool)  # a mask equals itself: that shows nothing and would set the scale
    highest = max((value for matrix in matrices for value in matrix[off]), default=1.0) or 1.0
    side = 2.2 + max(0.5 * len(names), 0.16 * len(owners))
    ends = [place for place, (one, other) in enumerate(pairwise(owners)) if one[0] != other[0]]
    middles = [np.mean([place for place, (method, _) in enumerate(owners) if method == i]) for i in range(len(names))]
    figure = Figure(figsize=(2 * side + 0.8, side + 0.4))
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("as found", "random masks, as dense in every layer")
    for axes, matrix, title in zip(panels, matrices, titles, strict=True):
        image = axes.imshow(np.where(off, matrix, np.nan), cmap=MATRIX_COLOURS, vmin=0, vmax=highest)
        axes.grid(visible=False)
        axes.set_title(title)
        for end in ends:
            axes.axvline(end + 0.5, color="white", linewidth=0.8)
            axes.axhline(end + 0.5, color="white", linewidth=0.8)
        axes.set_xticks(middles, names, rotation=60, ha="right")
        axes.set_yticks(middles, names)
    figure.colorbar(image, ax=panels, label=f"{measure}, a square per pair of masks", shrink=0.8)
    return figure
