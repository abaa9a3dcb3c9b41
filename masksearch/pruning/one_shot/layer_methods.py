"""Masks of one layer from its weight and its inputs' Gram matrix: magnitude, Wanda, and SparseGPT with its update.

All functions take a weight (out, k) and G = X^T X (k, k) of its inputs X (rows, k), and return which entries are kept,
bool (out, k), and the new weight. They compute in the type of their arguments; :func:`masksearch.one_shot` passes
float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from masksearch.pruning.matrix_layers import MatrixLayer
from masksearch.utils.errors import InputError

__all__ = [
    "METHODS",
    "Kept",
    "by_magnitude",
    "inverse_factor",
    "outlier_share",
    "relative_error",
    "sparsegpt",
    "wanda",
    "wanda_ranks",
    "weight_shaped",
]

_BLOCK = 128  # columns whose mask SparseGPT chooses at once
_DAMPING = 0.01  # of G's mean diagonal, as SparseGPT's authors have it


@dataclass(frozen=True)
class Kept:
    """How much of a weight matrix to keep: a share of its entries, or n of every m consecutive inputs per output."""

    density: float
    pattern: tuple[int, int] | None = None  # (n, m)

    def best(self, values: Tensor) -> Tensor:
        """Return a bool mask of ``values`` (rows, columns), True at the highest entries: a share ``density`` of them.

        The number of kept entries is round(density x entries); with a pattern, exactly n of every m consecutive entries
        of a row are kept instead. Of equal values, the first are kept.
        """
        if self.pattern is None:
            return _top(values, round(self.density * values.numel()))
        n, m = self.pattern
        groups = values.unflatten(1, (-1, m))
        order = groups.argsort(dim=2, descending=True, stable=True)
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order[..., :n], True).flatten(1)


def _top(values: Tensor, count: int) -> Tensor:
    keep = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    keep[values.flatten().argsort(descending=True, stable=True)[:count]] = True
    return keep.view(values.shape)


def by_magnitude(weight: Tensor, gram: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Return the mask that keeps the weights of largest magnitude in a layer, and the masked weight tensor."""
    keep = kept.best(weight.abs())
    return keep, weight * keep


def wanda(weight: Tensor, gram: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Return the Wanda mask of a layer's weight (highest |w| x input norm per output), and the masked weight.

    The norm of input j is sqrt(G_jj) (Sun et al. 2024).
    """
    values = _product(weight, gram)
    keep = kept.best(values if kept.pattern else wanda_ranks(values))
    return keep, weight * keep


def wanda_ranks(values: Tensor) -> Tensor:
    """Return each entry's rank in its row of ``values``, smallest first, scaled to [0, 1): float64, of the same shape.

    The ranking by these numbers keeps as many inputs of every output, to within one. Between entries of equal rank in
    different rows, the larger value is first.
    """
    ranks = values.argsort(dim=1, stable=True).argsort(dim=1)
    within_rank = 0.5 * values.double() / values.max().clamp_min(torch.finfo(values.dtype).tiny)
    return (ranks + within_rank) / values.shape[1]


def outlier_share(weight: Tensor, gram: Tensor, factor: float) -> tuple[int, int]:
    """Return a layer's number of outlier weights (|w| x input norm above ``factor`` x mean), and of all weights.

    The norm of input j is sqrt(G_jj).
    """
    values = _product(weight, gram)
    return int((values > factor * values.mean()).sum()), values.numel()


def sparsegpt(weight: Tensor, gram: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """Return SparseGPT's mask of a layer's weight, and the weight with kept entries changed to make up for pruned ones.

    The mask is chosen in blocks of 128 columns together with the optimal-brain update (Frantar and Alistarh 2023). U is
    the upper Cholesky factor of (G + damping I)^-1. From left to right, pruning w_ij costs (w_ij / U_jj)^2 and moves
    the row's entries to the right by -(w_ij / U_jj) U_j,: . Each block keeps its share of the entries of lowest cost; a
    pattern is chosen for m columns at a time. Entries to the left of a column never change again.

    Raises
    ------
    InputError
        If the inputs are not finite, so that G has no inverse.
    """
    weight, keep = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    factor = inverse_factor(gram)
    out, k = weight.shape
    step = _BLOCK if kept.pattern is None else math.lcm(_BLOCK, kept.pattern[1])
    for start in range(0, k, step):
        stop = min(start + step, k)
        block, upper = weight[:, start:stop].clone(), factor[start:stop, start:stop]
        if kept.pattern is None:  # the first columns up to a block's end keep round(density x entries): exact in all
            count = round(kept.density * out * stop) - round(kept.density * out * start)
            chosen = _top((block / upper.diagonal()).square(), count)
        else:
            chosen = torch.zeros_like(block, dtype=torch.bool)
        moved = torch.zeros_like(block)
        for j in range(stop - start):
            if kept.pattern is not None and j % kept.pattern[1] == 0:
                group = slice(j, j + kept.pattern[1])
                chosen[:, group] = kept.best((block[:, group] / upper.diagonal()[group]).square())
            moved[:, j] = torch.where(chosen[:, j], 0, block[:, j]) / upper[j, j]
            block[:, j:] -= moved[:, j, None] * upper[j, j:]
        keep[:, start:stop] = chosen
        weight[:, start:stop] = block * chosen
        weight[:, stop:] -= moved @ factor[start:stop, stop:]
    return keep, weight


def weight_shaped(matrix: Tensor, layer: MatrixLayer, shape: Sequence[int]) -> Tensor:
    """Reshape a layer's matrices, one per convolution group, to the shape of the layer's weight tensor."""
    places = layer.kept_entries(torch.arange(matrix.numel()).view(tuple(shape)))
    flat = torch.empty(matrix.numel(), dtype=matrix.dtype)
    flat[places.flatten()] = matrix.flatten().cpu()
    return flat.view(tuple(shape))


def relative_error(dense: Tensor, weight: Tensor, gram: Tensor) -> float:
    """Return the relative error of a layer with a new weight: squared output error / squared outputs before pruning."""
    change = dense - weight
    total = float((dense @ gram * dense).sum())
    return float((change @ gram * change).sum()) / total if total > 0 else 0.0


def _product(weight: Tensor, gram: Tensor) -> Tensor:
    return weight.abs() * gram.diagonal().clamp_min(0).sqrt()


def inverse_factor(gram: Tensor) -> Tensor:
    """Return the upper Cholesky factor of (G + damping I)^-1 for a Gram matrix G (k, k) of a layer's inputs.

    Inputs that are always zero count as independent.

    Raises
    ------
    InputError
        If the inputs are not finite, so that G has no inverse.
    """
    damped = gram.clone()
    diagonal = damped.diagonal()
    mean = float(diagonal.mean())
    if not math.isfinite(mean):
        raise InputError("calibration inputs: a layer's inputs are NaN or infinite; check the network and its inputs")
    diagonal += _DAMPING * mean if mean > 0 else 1.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


METHODS = {"magnitude": by_magnitude, "wanda": wanda, "sparsegpt": sparsegpt}
"""Name -> f(weight (out, k), Gram matrix (k, k), kept) -> (kept entries, new weight)."""
