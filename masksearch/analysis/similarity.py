"""How alike masks are: three measures, matrices over named masks, and random masks of the same densities to compare."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from masksearch.mask import Mask
from masksearch.seeds import torch_generator
from masksearch.table import Table

__all__ = ["SIMILARITIES", "cosine", "hamming", "iou", "random_like", "similarity_matrix"]


def cosine(one: Mask, other: Mask) -> float:
    """Common units / sqrt(kept x kept), in [0, 1]; random masks of density d have about d."""
    return one.cosine(other)


def hamming(one: Mask, other: Mask) -> float:
    """Share of all units that differ: a distance, 0 for equal masks; random masks of density d have 2 d (1 - d)."""
    return one.hamming(other) / one.space.n_units


def iou(one: Mask, other: Mask) -> float:
    """Common units / units that either keeps, in [0, 1]; random masks of density d have about d / (2 - d)."""
    either = one.n_kept + other.n_kept
    common = (either - one.hamming(other)) // 2
    return common / (either - common) if either > common else 0.0


SIMILARITIES: Table[Callable[[Mask, Mask], float]] = Table(
    "similarity", {"cosine": cosine, "hamming": hamming, "iou": iou}
)


def random_like(mask: Mask, seed: int) -> Mask:
    """A random mask that keeps as much of every layer as ``mask`` does."""
    bits = mask.bits.clone()
    generator = torch_generator(seed, "analysis", "random masks", mask.hash)
    for layer in mask.space.layers:
        kept = bits[layer.slice]
        bits[layer.slice] = kept[torch.randperm(layer.size, generator=generator)]
    return Mask(mask.space, bits)


def similarity_matrix(rows: Sequence[Mapping[int, Mask]], measure: str) -> np.ndarray:
    """Means of a measure over all pairs of seeds, (len(rows), len(rows)); symmetric, NaN where there is no pair.

    Within a row the pairs are those of different seeds: how alike the masks are that one method finds. Between two rows
    they are the pairs of the same seed, which share their initial weights.

    Parameters
    ----------
    rows : sequence of mapping
        Seed -> mask, of every row; all of one space.
    measure : str
        A row of :data:`SIMILARITIES`.
    """
    compute = SIMILARITIES[measure]
    matrix = np.full((len(rows), len(rows)), np.nan)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows[: i + 1]):
            if i == j:
                pairs = [(one[a], one[b]) for a in one for b in one if a < b]
            else:
                pairs = [(one[seed], other[seed]) for seed in one if seed in other]
            if pairs:
                matrix[i, j] = matrix[j, i] = np.mean([compute(a, b) for a, b in pairs])
    return matrix
