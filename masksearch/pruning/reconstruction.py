"""Least-squares repair of a masked network: kept weights take over the work of removed ones, without labels.

A layer with weight W (out, k) reads inputs X (rows, k); the dense network's outputs are X W^T. A mask keeps the columns
S of a row w of W and removes the columns R. The repaired row v minimises |X_S v - X w|^2 + ridge |v - w_S|^2, so that

    v = w_S + (G_SS + ridge I)^-1 G_SR w_R,    G = X^T X over all positions of the examples.

Nothing changes where nothing is removed, and the squared error never exceeds that of the masked row. He et al. 2017
solve the same least squares for kept channels; Frantar and Alistarh 2022 remove single weights by closed forms of it.
The last column of a layer with a bias is one, and is not penalised. A layer without a bias before a BatchNorm is solved
on centred inputs: the running mean, which is computed anew, takes the offset.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from masksearch.core.mask import Mask
from masksearch.cost.forward_pass import device_of
from masksearch.pruning.gram_matrices import (
    Gram,
    LayerGrams,
    MatrixLayer,
    calibration_batches,
    gram_matrices,
    matrix_layers,
)
from masksearch.spaces import NetworkSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.nested import Nested, call_model

__all__ = ["recalibrate", "reconstruct"]

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of G's mean diagonal; the one of smallest error on held-out examples is taken
_RIDGE_PATTERNS = 32  # sets of kept columns that are solved for every ridge


def reconstruct(
    model: nn.Module,
    space: NetworkSpace,
    mask: Mask,
    examples: Nested | Iterable[Nested],
    *,
    sequential: bool = False,
) -> nn.Module:
    """Repair a masked network: solve kept weights by least squares so that its layers give the dense layers' outputs.

    Linear layers and 1-D and 2-D convolutions are repaired; then BatchNorm statistics are computed anew.
    Other layers keep their masked weights. Memory: four Gram matrices (k, k) in float64 per layer, k = inputs x kernel
    size (of one layer at a time with ``sequential``), and the activations of 64 examples.

    Parameters
    ----------
    model : nn.Module
        The trained network of the space. It does not change.
    mask : Mask
        A mask of any space over the network's parameters: filters or weights. Rows of a weight mask are solved one by
        one, which takes time in proportion to (kept weights per row)^3.
    examples : tensor (n, ...), tuple or dict of tensors, or iterable of batches of them
        Inputs without targets; some hundred training examples suffice. At least 8.
    sequential : bool
        Whether a layer's inputs are those of the network repaired so far, with one pass over the examples per layer; by
        default they are those of the dense network, with one pass in all.

    Returns
    -------
    nn.Module
        A copy of full size in eval mode with zeros where the mask removes. ``ms.prune`` makes it small.

    Raises
    ------
    InputError
        If the mask is of another space, or there are too few examples.
    """
    batches = calibration_batches(examples, device_of(model))
    dense = copy_network(model).eval()
    repaired = copy_network(model).eval()
    space.apply(repaired, mask)
    kept = space.parameter_masks(mask)
    layers = [layer for layer in matrix_layers(dense, batches[0]) if _loses_inputs(kept.get(f"{layer.name}.weight"))]
    grams = {} if sequential else gram_matrices(dense, dense, layers, batches)
    for layer in layers:
        own = grams.pop(layer.name) if grams else gram_matrices(repaired, dense, [layer], batches)[layer.name]
        old, new = dense.get_submodule(layer.name), repaired.get_submodule(layer.name)
        _repair(layer, old, new, kept[f"{layer.name}.weight"], own)
    recalibrate(repaired, batches)
    space.apply(repaired, mask)
    return repaired


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Sequence[Nested]) -> None:
    """Compute the running statistics of all BatchNorm layers anew, as means over batches, in place.

    Li et al. 2020 (EagleEye): the statistics of the dense network don't fit the pruned one.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
        norm.train()
    for batch in batches:
        call_model(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _loses_inputs(keep: Tensor | None) -> bool:
    """Whether a mask of a weight removes entries of rows that it keeps; rows without an entry are removed outputs."""
    if keep is None:
        return False
    rows = keep.flatten(1)
    left = rows.any(1)
    return bool(left.any()) and not bool(rows[left].all())


def _repair(layer: MatrixLayer, dense_module: Any, module: Any, keep: Tensor, grams: LayerGrams) -> None:
    """Solve the kept entries of a layer's weight, in place; one ridge serves all groups."""
    if layer.centred:
        grams = grams.centred()
    dense, has_bias = layer.matrix(dense_module), module.bias is not None
    groups = [_Rows(*parts, has_bias) for parts in zip(dense, layer.kept_entries(keep), grams.fitted, strict=True)]

    def error(ridge: float) -> float:
        """Squared error on held-out examples, of a few patterns: a weight mask has one per row."""
        pairs = zip(groups, grams.held_out, strict=True)
        return sum(rows.error(held_out, rows.solved(ridge, _RIDGE_PATTERNS)) for rows, held_out in pairs)

    ridge = min(_RIDGES, key=error)
    new = torch.stack([rows.solved(ridge) for rows in groups])
    if has_bias:  # removed outputs keep the masked bias
        removed = ~layer.kept_entries(keep).any(2)
        new[..., -1][removed] = layer.matrix(module)[..., -1][removed]
    layer.store(module, new)


class _Rows:
    """Least-squares problems of the rows of one matrix; rows with equal kept entries are solved together."""

    def __init__(self, dense: Tensor, keep: Tensor, gram: Gram, has_bias: bool) -> None:
        self.dense, self.gram, self.has_bias = dense, gram, has_bias
        patterns, members = torch.unique(keep, dim=0, return_inverse=True)
        self.problems = [
            ((members == number).nonzero().flatten(), F.pad(pattern, (0, 1), value=has_bias).nonzero().flatten())
            for number, pattern in enumerate(patterns)
            if pattern.any()
        ]  # (rows, kept columns); rows without a kept entry are removed outputs

    def solved(self, ridge: float, n_patterns: int | None = None) -> Tensor:
        """Return the solved matrix (rows, k + 1), of the first ``n_patterns`` patterns; other rows are zero."""
        new = torch.zeros_like(self.dense)
        for rows, columns in self.problems[:n_patterns]:
            new[rows[:, None], columns] = _solution(self.gram, self.dense[rows], columns, ridge, self.has_bias)
        return new

    def error(self, gram: Gram, solved: Tensor) -> float:
        """Squared error of solved rows against dense ones, up to a constant, from the sums of held-out examples."""
        return float((solved @ gram.own * solved).sum() - 2 * (solved @ gram.cross * self.dense).sum())


def _solution(gram: Gram, dense: Tensor, columns: Tensor, ridge: float, has_bias: bool) -> Tensor:
    """The kept columns (rows, kept) of the rows ``dense`` (rows, k + 1), by least squares."""
    scale = gram.own.diagonal()[:-1].mean()
    penalty = torch.full((len(columns),), ridge, dtype=torch.float64)
    if has_bias:
        penalty[-1] = 0.0  # the column of ones
    # Inputs that are always zero leave the matrix singular; a billionth is below any ridge.
    penalty = (penalty + 1e-9) * scale
    right = gram.cross[columns] @ dense.T + penalty[:, None] * dense[:, columns].T
    return torch.linalg.solve(gram.own[columns][:, columns] + torch.diag(penalty), right).T
