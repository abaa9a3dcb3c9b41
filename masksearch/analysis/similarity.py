"""How alike masks are: three measures, matrices over named masks, and random masks of the same densities to compare."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from masksearch.mask import Mask
from masksearch.seeds import torch_generator
from masksearch.table import Table

__all__ = ["SIMILARITIES", "cosine", "hamming", "iou", "random_like", "similarity_matrix", "similarity_means"]


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


def similarity_matrix(masks: Sequence[Mask], measure: str) -> np.ndarray:
    """A measure of all pairs of masks, (len(masks), len(masks)); all of one space.

    Parameters
    ----------
    measure : str
        A row of :data:`SIMILARITIES`.
    """
    compute = SIMILARITIES[measure]
    matrix = np.empty((len(masks), len(masks)))
    for i, one in enumerate(masks):
        for j, other in enumerate(masks[: i + 1]):
            matrix[i, j] = matrix[j, i] = compute(one, other)
    return matrix


def similarity_means(matrix: np.ndarray, owners: Sequence[tuple[int, int]]) -> np.ndarray:
    """Means over pairs of seeds, (methods, methods); NaN where there is no pair.

    Within a method the pairs are those of different seeds: how alike the masks are that one method finds. Between two
    methods they are the pairs of the same seed, which share their initial weights.

    Parameters
    ----------
    matrix : array (n, n)
        Of :func:`similarity_matrix`.
    owners : sequence of (method, seed)
        Of its n masks; methods are numbered from 0.
    """
    methods, seeds = np.array(owners).T
    n = methods.max() + 1
    same = seeds[:, None] == seeds[None, :]
    means = np.full((n, n), np.nan)
    for i in range(n):
        for j in range(n):
            pairs = (methods[:, None] == i) & (methods[None, :] == j) & (same if i != j else ~same)
            if pairs.any():
                means[i, j] = matrix[pairs].mean()
    return means
