"""Least-squares repair of a masked network: kept weights take over the work of removed ones, without labels.

A layer with weight W (out, k) reads inputs X (rows, k); the dense network's outputs are X W^T. A mask keeps the columns
S of a row w of W and removes the columns R. The repaired row v minimises |X_S v - X w|^2 + ridge |v - w_S|^2, so that

    v = w_S + (G_SS + ridge I)^-1 G_SR w_R,    G = X^T X over all positions of the examples.

Nothing changes where nothing is removed, and the squared error never exceeds that of the masked row. He et al. 2017
solve the same least squares for kept channels. The optimal-brain update of Frantar and Alistarh 2022, which removes one
weight after the other, ends at the same row. The last column of a layer with a bias is one, and is not penalised. A
layer without a bias before a BatchNorm is solved on centred inputs: the running mean, which is computed anew, takes the
offset.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from masksearch.core.mask import Mask
from masksearch.pruning.gram_matrices import Gram, LayerGrams, calibration_batches, gram_matrices
from masksearch.pruning.matrix_layers import MatrixLayer, matrix_layers
from masksearch.pruning.physical import prune
from masksearch.spaces import BlockSpace, FilterSpace, NetworkSpace
from masksearch.training.input_check import takes_channels_last
from masksearch.utils.copies import copy_network
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import Nested, call_model, take

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of G's mean diagonal; the one of smallest error on held-out examples is taken
_RIDGE_PATTERNS = 32  # sets of kept columns that are solved for every ridge
_CACHED = 1 << 27  # numbers in the cached solutions: 1 GiB in float64


def reconstruct(
    model: nn.Module,
    space: NetworkSpace,
    mask: Mask,
    examples: Nested | Iterable[Nested],
    *,
    sequential: bool = False,
) -> nn.Module:
    """Repair a masked network: solve its kept weights by least squares to restore the dense network's layer outputs.

    Repaired are linear layers, 1-D to 3-D convolutions and the projections of ``nn.MultiheadAttention``; then BatchNorm
    statistics are computed anew. Other layers keep their masked weights. Memory: two Gram matrices (k, k) in float64
    per layer and group, k = inputs x kernel size (four of one layer at a time with ``sequential``), and the activations
    of 64 examples.

    Parameters
    ----------
    model : nn.Module
        The trained network of the space. It does not change.
    mask : Mask
        A mask of any space over the network's parameters: filters, blocks or weights. Rows of a weight mask are solved
        one by one, which takes about (kept weights per row)^3 / 3 multiply-adds and (kept weights per row)^2 numbers
        per row. Filters have one solution for all rows.
    examples : tensor (n, ...), tuple or dict of tensors, or iterable of batches of them
        Inputs without targets; some hundred training examples suffice. At least 8.
    sequential : bool
        Whether a layer's inputs are those of the network repaired so far; by default they are those of the dense
        network. Passes over the examples: three per layer, by default one in all. Targets are the dense outputs. Where
        a layer's outputs are added to a shortcut, targets are those of the sum: they make up for the shortcut's errors.

    Returns
    -------
    nn.Module
        A copy of full size in eval mode with zeros where the mask removes. ``ms.prune`` makes it small.

    Raises
    ------
    InputError
        If the mask is of another space, or there are too few examples.
    """
    if sequential:
        return _sequential(model, space, mask, calibration_batches(examples, device_of(model)))
    return Reconstruction(model, space, examples, only=mask)(mask)


class Reconstruction:
    """Least-squares repair of one network for many masks in turn; Gram matrices of layer inputs are computed once.

    A layer's solution depends on its kept inputs alone, and is cached by them: a mask that changes few layers is
    repaired quickly. Removed outputs are zeroed afterwards.

    Parameters
    ----------
    model, space, examples
        As for :func:`reconstruct`. Memory: besides its own, up to 1 GiB of cached solutions.
    only : Mask, optional
        The only mask to be repaired: Gram matrices are made for the layers that lose inputs under it.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        examples: Nested | Iterable[Nested],
        *,
        only: Mask | None = None,
    ) -> None:
        self.space, self.batches = space, calibration_batches(examples, device_of(model))
        self.dense = copy_network(model).eval()
        if takes_channels_last(self.dense, take(self.batches[0], slice(2))):
            self.batches = [cast(Tensor, batch).to(memory_format=torch.channels_last) for batch in self.batches]
        self.layers = matrix_layers(self.dense, self.batches[0])
        if only is not None:
            space.check_mask(only)
            kept = space.parameter_masks(only)
            self.layers = [layer for layer in self.layers if _loses_inputs(layer, kept)]
        grams = gram_matrices(self.dense, self.dense, self.layers, self.batches)
        self._problems = {
            layer.name: _Problem(layer, self.dense.get_submodule(layer.name), grams.pop(layer.name))
            for layer in self.layers
        }
        self._cached: OrderedDict[tuple[str, bytes], _Solution] = OrderedDict()
        self._n_cached = 0

    def __call__(self, mask: Mask, *, small: bool = False) -> nn.Module:
        """Return a repaired copy of the network under a mask, in eval mode, with zeros where the mask removes.

        With ``small``, the copy is physically without the removed filters or blocks, where the mask empties no layer.

        Raises
        ------
        InputError
            If the mask is of another space.
        """
        repaired = copy_network(self.dense)
        self.space.apply(repaired, mask)
        kept = self.space.parameter_masks(mask)
        for layer in self.layers:
            if _loses_inputs(layer, kept):
                keep = layer.kept_entries(kept[layer.weight_name])
                _store(layer, repaired.get_submodule(layer.name), self._solution(layer, keep).matrix, keep)
        if small and isinstance(self.space, FilterSpace | BlockSpace) and not mask.empty_layers():
            repaired = prune(repaired, self.space, mask)
            recalibrate(repaired, self.batches)
            return repaired
        recalibrate(repaired, self.batches)
        self.space.apply(repaired, mask)
        return repaired

    def errors(self, mask: Mask) -> dict[str, float]:
        """Return {layer name: relative squared output error after repair} for layers that lose inputs under a mask.

        The error is that on held-out examples, for the dense network's inputs, divided by the outputs' squared size.
        Removed outputs count, too.
        """
        kept = self.space.parameter_masks(mask)
        return {
            layer.name: self._solution(layer, layer.kept_entries(kept[layer.weight_name])).error
            for layer in self.layers
            if _loses_inputs(layer, kept)
        }

    def _solution(self, layer: MatrixLayer, keep: Tensor) -> "_Solution":
        """Return the solution of a layer for kept entries (groups, out, k), from the cache if it has them."""
        patterns = _one_pattern(keep)
        key = (layer.name, (keep if patterns is None else patterns).numpy().tobytes())
        if key in self._cached:
            self._cached.move_to_end(key)
            return self._cached[key]
        solution = self._problems[layer.name].solved(keep)
        if patterns is not None:
            self._cached[key] = solution
            self._n_cached += solution.matrix.numel()
            while self._n_cached > _CACHED:
                self._n_cached -= self._cached.popitem(last=False)[1].matrix.numel()
        return solution


def _sequential(model: nn.Module, space: NetworkSpace, mask: Mask, batches: Sequence[Nested]) -> nn.Module:
    """Repair layer after layer, each for the inputs that the layers repaired before leave."""
    dense, repaired = copy_network(model).eval(), copy_network(model).eval()
    space.apply(repaired, mask)
    recalibrate(repaired, batches)
    kept = space.parameter_masks(mask)
    for layer in matrix_layers(dense, batches[0]):
        if not _loses_inputs(layer, kept):
            continue
        grams = gram_matrices(repaired, dense, [layer], batches)[layer.name]
        keep = layer.kept_entries(kept[layer.weight_name])
        solution = _Problem(layer, dense.get_submodule(layer.name), grams).solved(keep)
        _store(layer, repaired.get_submodule(layer.name), solution.matrix, keep)
        recalibrate(repaired, batches)
        if layer.added and layer.norm is not None:
            _keep_scale(dense.get_submodule(layer.norm), repaired.get_submodule(layer.norm))
        space.apply(repaired, mask)
    return repaired


def _keep_scale(dense: Any, norm: Any) -> None:
    """Scale a BatchNorm so that it multiplies as the dense one does, in place: its new targets have other variances."""
    if norm.weight is not None:
        with torch.no_grad():
            norm.weight.copy_(dense.weight * ((norm.running_var + norm.eps) / (dense.running_var + dense.eps)).sqrt())


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Sequence[Nested]) -> None:
    """Compute the running statistics of all BatchNorm layers anew from batches of inputs, in place.

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


def _loses_inputs(layer: MatrixLayer, kept: dict[str, Tensor]) -> bool:
    """Whether a mask removes entries of rows that it keeps; rows without an entry are removed outputs."""
    keep = kept.get(layer.weight_name)
    if keep is None:
        return False
    rows = layer.kept_entries(keep)
    left = rows.any(2)
    return bool(left.any()) and not bool(rows[left].all())


def _one_pattern(keep: Tensor) -> Tensor | None:
    """Return the kept columns (groups, k) if all rows of a group that keep any keep the same; None otherwise."""
    columns = keep.any(1)
    return columns if bool((keep == (columns[:, None] & keep.any(2)[..., None])).all()) else None


def _store(layer: MatrixLayer, module: Any, matrix: Tensor, keep: Tensor) -> None:
    """Write a solution into a masked layer; removed outputs keep their masked weights and biases."""
    layer.store(module, torch.where(keep.any(2)[..., None], matrix, layer.matrix(module)))


class _Solution(NamedTuple):
    """Result of a layer's least-squares problem."""

    matrix: Tensor  # repaired matrices (groups, out, k + 1)
    error: float  # relative squared error on held-out examples


class _Problem:
    """Least-squares problem of a layer: its dense matrices, and the Gram matrices of its inputs."""

    def __init__(self, layer: MatrixLayer, module: Any, grams: LayerGrams) -> None:
        grams = grams.centred() if layer.centred else grams
        self._fitted, self._held_out = grams.fitted, grams.held_out
        self._dense, self._has_bias = layer.matrix(module), layer.has_bias(module)
        self._size = sum(map(_squared_outputs, self._held_out, self._dense))

    def solved(self, keep: Tensor) -> _Solution:
        """Return the layer's weights that best restore the dense outputs; they are 0 where the mask ``keep`` is False.

        The shape of ``keep`` is (groups, output channels per group, inputs per output channel). All groups share one
        ridge. If all rows keep the same entries, rows of removed outputs are solved with them.
        """
        columns = _one_pattern(keep)
        if columns is not None:
            keep = columns[:, None].expand_as(keep)
        groups = [_Rows(*parts, self._has_bias) for parts in zip(self._dense, keep, self._fitted, strict=True)]

        def error(matrices: Sequence[Tensor]) -> float:
            triples = zip(groups, self._held_out, matrices, strict=True)
            return sum(rows.error(gram, matrix) for rows, gram, matrix in triples)

        # Of a weight mask, which has a problem per row, a few choose the ridge.
        tried = [[rows.solved(ridge, _RIDGE_PATTERNS) for rows in groups] for ridge in _RIDGES]
        errors = [error(matrices) for matrices in tried]
        best = min(range(len(_RIDGES)), key=errors.__getitem__)
        if all(len(rows.problems) <= _RIDGE_PATTERNS for rows in groups):
            matrices, least = tried[best], errors[best]
        else:
            matrices = [rows.solved(_RIDGES[best]) for rows in groups]
            least = error(matrices)
        removed = sum(
            _squared_outputs(gram, dense[~any_kept])
            for gram, dense, any_kept in zip(self._held_out, self._dense, keep.any(2), strict=True)
        )
        return _Solution(torch.stack(list(matrices)), (least + removed) / max(self._size, 1e-300))


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
        """Return the weights (rows, inputs + 1) that best restore the dense outputs; the last column is the bias.

        Rows with equal masks of kept entries are solved together. If ``n_patterns`` is given, only rows with one of
        the first ``n_patterns`` masks are solved, and the others are 0.
        """
        new = torch.zeros_like(self.dense)
        for rows, columns in self.problems[:n_patterns]:
            new[rows[:, None], columns] = _solution(self.gram, self.dense, rows, columns, ridge, self.has_bias)
        return new

    def error(self, gram: Gram, solved: Tensor) -> float:
        """Return the squared output error of refitted weights on held-out examples, from the examples' Gram matrix.

        Where targets are shifted, up to a constant. Rows that are zero have none.
        """
        rows = solved.any(1)
        solved, dense = solved[rows], self.dense[rows]
        found = (solved @ gram.own * solved).sum() - 2 * (solved @ gram.cross * dense).sum()
        if gram.shift is not None:
            found -= 2 * (solved * gram.shift.T[rows]).sum()
        elif gram.cross is gram.own:
            found += (dense @ gram.own * dense).sum()
        return float(found)


def _squared_outputs(gram: Gram, dense: Tensor) -> float:
    """Squared size of the outputs of rows (n, k + 1), for the inputs of the sums."""
    return float((dense @ gram.own * dense).sum())


def _solution(gram: Gram, dense: Tensor, rows: Tensor, columns: Tensor, ridge: float, has_bias: bool) -> Tensor:
    """The kept columns (rows, kept) of some rows of ``dense`` (n, k + 1), by least squares."""
    scale = gram.own.diagonal()[:-1].mean()
    penalty = torch.full((len(columns),), ridge, dtype=torch.float64)
    if has_bias:
        penalty[-1] = 0.0  # the column of ones
    # Inputs that are always zero leave the matrix singular; a billionth is below any ridge.
    penalty = (penalty + 1e-9) * scale
    right = gram.cross[columns] @ dense[rows].T + penalty[:, None] * dense[rows[:, None], columns].T
    if gram.shift is not None:
        right += gram.shift[columns][:, rows]
    matrix = gram.own[columns][:, columns]
    matrix.diagonal().add_(penalty)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.cholesky_solve(right, factor).T if not failed else torch.linalg.solve(matrix, right).T
