"""Repair energy of filter masks: the layers' squared output errors after least-squares repair of their weights.

A layer with weight W (out, k) reads inputs X (rows, k). With G = X^T X, H = G + ridge I and the kept columns S, the
least-squares weights are V = H_SS^-1 (H W^T)_S. Removing the columns R costs, after this best repair, exactly

    E(R) = tr(W_R ([H^-1]_RR)^-1 W_R^T) = |X_S V - X W^T|^2 + ridge |[V, 0] - W^T|^2,

which is the saliency of optimal brain surgery (Hassibi and Stork 1993) for groups of columns, used by OBC (Frantar and
Alistarh 2022) and ZipLM (Kurtic et al. 2023) to remove structures one by one. The energy of a mask is the sum of
E / tr(W G W^T) over all layers that read units. It needs no forward pass.

A walk over masks holds, for every layer, the principal pivot transform of H for the kept columns (the sweep operator of
regression). The change of E by any set of toggled columns p is -tr(Z_p^T Q_pp^-1 Z_p), read from a block of the
transform; a move that is made is one update of rank |p|.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.linalg.blas import dgemm
from torch import Tensor, nn

from masksearch.core.energy_protocol import Energy, EnergyState, removal_order
from masksearch.core.mask import Mask
from masksearch.pruning.gram_matrices import LayerGrams, calibration_batches, gram_matrices
from masksearch.pruning.matrix_layers import MatrixLayer, matrix_layers
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.spaces.base_space import unwrapped
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import Nested

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of G's mean diagonal; the one of smallest error on held-out examples is taken
_REFRESH = 500  # rank updates after which a transform is computed anew, against rounding errors


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """Least-squares problem of one layer: new values of the weights that a mask keeps, so that outputs change least."""

    hessian: np.ndarray  # H, float64 (k, k)
    target: np.ndarray  # H W^T, or a matrix with the same product with its transpose, float64 (k, <= k)
    total: float  # tr(W H W^T)
    scale: float  # 1 / tr(W G W^T)
    units: np.ndarray  # unit of every column, int64 (k,); -1: the column always stays
    columns: dict[int, np.ndarray]  # layer of the space -> columns of each of its units, int64 (layer size, n)

    def kept(self, bits: np.ndarray) -> np.ndarray:
        """Return which input columns of a layer's weight matrix a mask keeps: bool, one entry per column."""
        return np.append(bits, True)[self.units]


class RepairEnergy(Energy):
    """Energy that rates filter masks, lower = better: the layers' output errors after a least-squares refit of weights.

    Made by :func:`repair_energy`.

    Memory: the matrix H (k, k) in float64 for every layer that reads units, k = inputs x kernel size, and as much again
    for every walk.

    Attributes
    ----------
    names : tuple of str
        Layers that read units, one term of the energy each.
    """

    def __init__(self, space: NetworkSpace, problems: dict[str, LayerProblem]) -> None:
        self.space, self.problems = space, tuple(problems.values())
        self.names = tuple(problems)
        self.readers: list[list[int]] = [
            [number for number, problem in enumerate(self.problems) if layer in problem.columns]
            for layer in range(len(space.layers))
        ]

    def __call__(self, mask: Mask) -> float:
        """Return the energy of a mask: the sum of the layers' relative squared errors after repair."""
        return self.start(mask).value

    def saliency(self, alive: Mask | None = None) -> Tensor:
        """Return each filter's saliency: 0 if greedy pruning removes the filter first, 1 if second, and so on.

        The result is float64 (n_units,).

        Units that the mask ``alive`` prunes, if one is given, have -1.
        """
        order = removal_order(self, self.space, self.space.full() if alive is None else alive)
        saliency = torch.full((self.space.n_units,), -1.0, dtype=torch.float64)
        saliency[torch.from_numpy(order)] = torch.arange(len(order), dtype=torch.float64)
        return saliency

    def start(self, mask: Mask, coefficients: np.ndarray | None = None) -> "RepairState":
        """Return the start of a local search over filter masks: ``mask`` with its energy (output error after repair).

        See :class:`~masksearch.core.energy_protocol.Energy`.
        """
        self.space.check_mask(mask)
        weights = np.ones(len(self.problems)) if coefficients is None else np.asarray(coefficients, dtype=np.float64)
        return RepairState(self, mask.bits.numpy().copy(), weights)


class RepairState(EnergyState):
    """Current filter mask of a local search, with its energy: the layers' output errors after least-squares repair."""

    def __init__(self, energy: RepairEnergy, bits: np.ndarray, coefficients: np.ndarray) -> None:
        self.energy, self.bits = energy, bits
        self._factors = coefficients * [problem.scale for problem in energy.problems]
        self._coefficients = coefficients
        self._transforms = [_Transform(problem, bits) for problem in energy.problems]
        self._singles: dict[int, np.ndarray] = {}

    @property
    def value(self) -> float:
        """Energy of the current mask: the weighted sum of all layers' relative squared output errors after repair."""
        return float(self._coefficients @ self.terms())

    def terms(self) -> np.ndarray:
        """Return each layer's relative squared output error, after repair under the current mask: float64 (layers,)."""
        pairs = zip(self._transforms, self.energy.problems, strict=True)
        return np.array([transform.error * problem.scale for transform, problem in pairs])

    def singles(self, layer: int) -> np.ndarray:
        """Return how the mask's energy changes if only one filter of a layer is pruned or restored: (filters,)."""
        if layer not in self._singles:
            own = self.energy.space.layers[layer]
            self._singles[layer] = self.deltas(np.arange(own.start, own.stop)[:, None])
        return self._singles[layer]

    def deltas(self, units: np.ndarray) -> np.ndarray:
        """Return the change of the mask's energy by each move; move i prunes kept filters and restores pruned ones.

        ``units`` (moves, n) are the filters that each move changes, all at once. The result is float64 (moves,).
        """
        changes = np.zeros(len(units))
        for reader, columns in self._columns(units):
            changes += self._factors[reader] * self._transforms[reader].changes(columns)
        return changes

    def toggle(self, units: np.ndarray) -> None:
        """Change the current mask at the filter indices ``units``: prune kept filters, and restore pruned filters."""
        self.bits[units] ^= True
        changed = self._columns(units[None])
        for reader, columns in changed:
            self._transforms[reader].pivot(columns[0], self.bits)
        touched = {layer for reader, _ in changed for layer in self.energy.problems[reader].columns}
        self._singles = {layer: values for layer, values in self._singles.items() if layer not in touched}

    def _columns(self, units: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Return (reader, its columns that each move toggles, int64 (m, n)) of every layer that reads the units."""
        space = self.energy.space
        layers = space.layer_of(units[0])
        found: dict[int, list[np.ndarray]] = {}
        for place, layer in enumerate(layers.tolist()):
            local = units[:, place] - space.layers[layer].start
            for reader in self.energy.readers[layer]:
                found.setdefault(reader, []).append(self.energy.problems[reader].columns[layer][local])
        return [(reader, np.concatenate(parts, axis=1)) for reader, parts in found.items()]


class _Transform:
    """Principal pivot transform of one layer's H for the kept columns S, with the right-hand sides.

    Q_SS = -H_SS^-1, Q_SR = H_SS^-1 H_SR, Q_RR = H_RR - H_RS H_SS^-1 H_SR; Z_S = H_SS^-1 B_S, the repaired weights, and
    Z_R = B_R - H_RS Z_S, with B = H W^T.
    """

    def __init__(self, problem: LayerProblem, bits: np.ndarray) -> None:
        self._problem = problem
        self.refresh(bits)

    def refresh(self, bits: np.ndarray) -> None:
        """Compute a layer's repair for the mask ``bits`` from scratch, to remove rounding errors of earlier updates."""
        hessian, target = self._problem.hessian, self._problem.target
        self._kept = self._problem.kept(bits)
        self._updates = 0
        kept, gone = np.flatnonzero(self._kept), np.flatnonzero(~self._kept)
        inverse = np.linalg.inv(hessian[np.ix_(kept, kept)])
        cross = inverse @ hessian[np.ix_(kept, gone)]
        self._q = np.empty_like(hessian, order="F")
        self._q[np.ix_(kept, kept)] = -inverse
        self._q[np.ix_(kept, gone)] = cross
        self._q[np.ix_(gone, kept)] = cross.T
        self._q[np.ix_(gone, gone)] = hessian[np.ix_(gone, gone)] - hessian[np.ix_(gone, kept)] @ cross
        self._z = np.empty_like(target, order="F")
        self._z[kept] = inverse @ target[kept]
        self._z[gone] = target[gone] - hessian[np.ix_(gone, kept)] @ self._z[kept]
        self.error = max(0.0, self._problem.total - float((target[kept] * self._z[kept]).sum()))

    def changes(self, columns: np.ndarray) -> np.ndarray:
        """Return how a layer's squared output error changes if input columns are removed or restored: float64 (moves,).

        Move i removes or restores the input columns ``columns[i]``; ``columns`` is int64 (moves, n).
        """
        block = self._q[columns[:, :, None], columns[:, None, :]]
        sides = self._z[columns]
        return -(np.linalg.solve(block, sides) * sides).sum((1, 2))

    def pivot(self, columns: np.ndarray, bits: np.ndarray) -> None:
        """Update a layer's repair for the new mask ``bits``, which removes or restores the input columns ``columns``.

        ``columns`` is int64 (n,).
        """
        if self._updates >= _REFRESH:
            self.refresh(bits)
            return
        self._updates += 1
        signs = np.where(self._kept[columns], -1.0, 1.0)
        # The mean of rows and columns: an asymmetry of rounding errors would grow exponentially.
        rows, sides = np.asfortranarray(self._q[:, columns] + self._q[columns].T) / 2, self._z[columns]
        inverse = np.linalg.inv(rows[columns])
        inverse = (inverse + inverse.T) / 2
        solved, moved = np.asfortranarray(rows @ inverse), inverse @ sides
        self.error = max(0.0, self.error - float((moved * sides).sum()))
        # In place: q -= solved rows^T, z -= rows moved.
        dgemm(-1.0, solved, rows, 1.0, self._q, trans_b=1, overwrite_c=1)
        dgemm(-1.0, rows, np.asfortranarray(moved), 1.0, self._z, overwrite_c=1)
        solved *= signs
        self._q[:, columns], self._q[columns] = solved, solved.T
        self._q[np.ix_(columns, columns)] = -signs[:, None] * inverse * signs
        self._z[columns] = signs[:, None] * moved
        self._kept[columns] ^= True


def repair_energy(
    model: nn.Module, space: NetworkSpace, examples: Nested | Iterable[Nested], *, ridge: float | None = None
) -> RepairEnergy:
    """Return an object that rates filter masks by the layers' output errors after least-squares repair of kept weights.

    Units are channels, neurons and heads; the layers that read them are those that :func:`masksearch.reconstruct`
    repairs. Each layer counts with its squared error relative to its outputs' sum of squares (of deviations from the
    mean, if a bias or a BatchNorm takes the mean).

    Parameters
    ----------
    model : nn.Module
        The trained network of the space. It does not change.
    examples : tensor (n, ...), tuple or dict of tensors, or iterable of batches of them
        Inputs without targets; some hundred training examples suffice. At least 8.
    ridge : float, optional
        Penalty on changes of kept weights, as a share of the mean diagonal of G. Default: for every layer, the one of
        1e-4 to 1e-1 with the smallest error on held-out examples.

    Raises
    ------
    InputError
        If the space has no filters, no layer that can be repaired reads the units of a layer, or there are too few
        examples.
    """
    if not isinstance(space, FilterSpace):
        raise InputError(
            f"energy: it is for filter masks, and this is a {space.describe()}; give a space of ms.filter_space"
        )
    network = copy_network(unwrapped(model)).eval()
    batches = calibration_batches(examples, device_of(model))
    units = {layer: units for layer in matrix_layers(network, batches[0]) if (units := _units_of(layer, space)).any()}
    grams = gram_matrices(network, network, list(units), batches)
    problems = {}
    for layer, own in units.items():
        problem = _problem(
            layer, network.get_submodule(layer.name), own.numpy() - 1, grams.pop(layer.name), space, ridge
        )
        if problem is not None:
            problems[layer.name] = problem
    energy = RepairEnergy(space, problems)
    for made, readers in zip(space.layers, energy.readers, strict=True):
        if not readers:
            raise InputError(
                f"energy: units of layer {made.name!r} are read by no linear layer or convolution, so that their "
                "removal can't be repaired; exclude the layer from the space"
            )
    return energy


def _units_of(layer: MatrixLayer, space: FilterSpace) -> Tensor:
    """Return 1 + the unit of every column of a layer's matrices, int64 (groups, k); 0: no unit."""
    name = f"{layer.name}.weight"
    units = torch.zeros(space.groups.shapes[name], dtype=torch.int64)
    for run in space.groups.by_tensor.get(name, []):
        if run.dim == 1:
            units += (run.numbers + 1).view([-1 if dim == run.dim else 1 for dim in range(units.ndim)])
    return layer.kept_entries(units)[:, 0]


def _problem(
    layer: MatrixLayer, module: Any, units: np.ndarray, grams: LayerGrams, space: FilterSpace, ridge: float | None
) -> LayerProblem | None:
    """Return the least-squares problem of a layer, its groups side by side; None if its outputs are constant."""
    if layer.centred or module.bias is not None:
        grams = grams.centred()  # an unpenalised bias, or BatchNorm, takes the means
    matrices = [matrix[:, :-1].numpy() for matrix in layer.matrix(module)]
    fitted, held_out = ([gram.own[:-1, :-1].numpy() for gram in part] for part in (grams.fitted, grams.held_out))
    weight, gram = block_diag(*(matrix.T for matrix in matrices)), block_diag(*fitted)
    power = float((weight * (gram @ weight)).sum())
    if not power > 0:
        return None
    flat = units.ravel()
    penalty = gram.diagonal().mean()
    if ridge is None:
        ridge = _best_ridge(weight, gram, block_diag(*held_out), flat, space)
    # Inputs that are always zero leave the matrix singular; a billionth is below any ridge.
    hessian = gram + (ridge + 1e-9) * penalty * np.eye(len(gram))
    target = hessian @ weight
    total = float((weight * target).sum())
    if target.shape[1] > len(target):
        target = np.linalg.qr(target.T)[1].T
    columns = {}
    for number, own in enumerate(space.layers):
        mine = np.flatnonzero((flat >= own.start) & (flat < own.stop))
        if len(mine):
            columns[number] = mine[np.argsort(flat[mine], kind="stable")].reshape(own.size, -1)
    return LayerProblem(hessian, target, total, 1 / power, flat, columns)


def _best_ridge(
    weight: np.ndarray, gram: np.ndarray, held_out: np.ndarray, units: np.ndarray, space: FilterSpace
) -> float:
    """Return the ridge with the smallest held-out error after repair of a mask that keeps every other unit."""
    kept = np.flatnonzero((units < 0) | (units % 2 == 0))
    if not 0 < len(kept) < len(units):
        return _RIDGES[0]
    own, penalty = gram[np.ix_(kept, kept)], gram.diagonal().mean()
    target = gram[kept] @ weight
    errors = {}
    for ridge in _RIDGES:
        weighted = (ridge + 1e-9) * penalty
        change = -weight.copy()
        change[kept] += np.linalg.solve(own + weighted * np.eye(len(kept)), target + weighted * weight[kept])
        errors[ridge] = float((change * (held_out @ change)).sum())
    return min(errors, key=errors.__getitem__)
