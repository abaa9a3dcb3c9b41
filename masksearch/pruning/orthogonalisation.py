"""Orthogonality repair: masked weight matrices are changed until their columns are nearly orthonormal again."""

from collections.abc import Mapping

import torch
from torch import Tensor

_ITERATIONS = 100  # of L-BFGS, per layer


def repaired(weights: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with kept weights changed so that each weight matrix has columns as orthonormal as possible.

    For each layer, L-BFGS minimises the squared Frobenius norm of W^T W - I over the kept entries of W (out, in): the
    approximate dynamical isometry of Lee et al. 2020 (section 5), without data. With fewer outputs than inputs the
    columns can't be orthonormal; the minimum then has orthonormal rows, since both norms differ by a constant.

    Parameters
    ----------
    weights : mapping
        A state dict.
    keep : mapping
        Parameter name -> bool tensor of its shape, True = kept. Other weights, biases and normalisation do not change.

    Returns
    -------
    dict
        The whole state dict; repaired weights are zero at pruned entries. Equal arguments give equal results.
    """
    return {
        name: _repair(weight, keep[name]) if name in keep and weight.ndim > 1 else weight
        for name, weight in weights.items()
    }


def _repair(weight: Tensor, keep: Tensor) -> Tensor:
    kept = keep.to(weight.device)
    values = weight.detach()[kept].clone().requires_grad_()
    if not len(values):
        return torch.zeros_like(weight)
    optimizer = torch.optim.LBFGS([values], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def masked_weight() -> Tensor:
        return torch.zeros_like(weight).masked_scatter(kept, values)

    def closure() -> Tensor:
        optimizer.zero_grad()
        matrix = masked_weight().flatten(1)
        matrix = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
        distance = (matrix @ matrix.T - torch.eye(len(matrix), device=matrix.device)).square().sum()
        distance.backward()
        return distance

    with torch.enable_grad():
        optimizer.step(closure)
    return masked_weight().detach()
