"""Least-squares repair of a masked network: kept weights take over the work of removed ones, without labels.

A layer with weight W (out, k) reads inputs X (rows, k); the dense network's outputs are X W^T. A mask keeps the columns
S of a row w of W and removes the columns R. The repaired row v minimises |X_S v - X w|^2 + ridge |v - w_S|^2, so that

    v = w_S + (G_SS + ridge I)^-1 G_SR w_R,    G = X^T X over all positions of the examples.

Nothing changes where nothing is removed, and the squared error never exceeds that of the masked row. He et al. 2017
solve the same least squares for kept channels; Frantar and Alistarh 2022 remove single weights by closed forms of it.
The last column of a layer with a bias is one, and is not penalised. A layer without a bias before a BatchNorm is solved
on centred inputs: the running mean, which is computed anew, takes the offset.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from masksearch.core.mask import Mask
from masksearch.cost.forward_pass import device_of
from masksearch.spaces import NetworkSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, as_nested, call_model, n_examples, take, to_device

__all__ = ["recalibrate", "reconstruct"]

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of G's mean diagonal; the one of smallest error on held-out examples is taken
_RIDGE_PATTERNS = 32  # sets of kept columns that are solved for every ridge
_HELD_OUT = 4  # every fourth batch chooses the ridge, the others make G
_BATCH = 64  # examples per forward pass


def reconstruct(
    model: nn.Module,
    space: NetworkSpace,
    mask: Mask,
    examples: Nested | Iterable[Nested],
    *,
    sequential: bool = False,
) -> nn.Module:
    """Repair a masked network: solve kept weights by least squares so that its layers give the dense layers' outputs.

    Linear layers and ungrouped 1-D and 2-D convolutions are repaired; then BatchNorm statistics are computed anew.
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
    batches = _batches(examples, device_of(model))
    dense = copy_network(model).eval()
    repaired = copy_network(model).eval()
    space.apply(repaired, mask)
    layers = _layers(dense, space.parameter_masks(mask), batches[0])
    if not sequential:
        grams = _grams(dense, dense, layers, batches)
        for layer in layers:
            _repair(repaired.get_submodule(layer.name), dense.get_submodule(layer.name), layer, *grams.pop(layer.name))
    else:
        for layer in layers:
            grams = _grams(repaired, dense, [layer], batches)
            _repair(repaired.get_submodule(layer.name), dense.get_submodule(layer.name), layer, *grams[layer.name])
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


@dataclass(frozen=True)
class _Layer:
    """A layer to repair."""

    name: str
    keep: Tensor  # bool (out, k): kept entries of the weight as a matrix
    centred: bool  # no bias, and a BatchNorm behind it


def _layers(model: nn.Module, masks: Mapping[str, Tensor], batch: Nested) -> list[_Layer]:
    """The layers with removed and kept inputs, in the order in which they run."""
    order: list[str] = []
    modules = {name: module for name, module in model.named_modules() if not list(module.children())}
    hooks = [module.register_forward_hook(lambda *_, name=name: order.append(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            call_model(model, take(batch, slice(2)))
    finally:
        for hook in hooks:
            hook.remove()
    layers = {}
    for place, name in enumerate(order):
        module, keep = modules[name], masks.get(f"{name}.weight")
        if keep is None or name in layers or not _is_repairable(module):
            continue
        keep = keep.flatten(1)
        rows = keep.any(1)  # rows without an entry are removed outputs
        if not rows.any() or keep[rows].all():
            continue
        behind = modules[order[place + 1]] if place + 1 < len(order) else None
        layers[name] = _Layer(name, keep.cpu(), module.bias is None and isinstance(behind, _BatchNorm))
    return list(layers.values())


def _is_repairable(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _rows(module: Any, inputs: Tensor) -> Tensor:
    """The inputs of a layer as a matrix (rows, k): a row per position of every example."""
    if isinstance(module, nn.Linear):
        return inputs.flatten(0, -2)
    kernel, dilation, padding, stride = module.kernel_size, module.dilation, module.padding, module.stride
    if isinstance(module, nn.Conv1d):
        inputs, kernel, dilation, padding, stride = (
            inputs[:, :, None], (1, *kernel), (1, *dilation), (0, *padding), (1, *stride)
        )  # fmt: skip
    return F.unfold(inputs, kernel, dilation, padding, stride).transpose(1, 2).flatten(0, 1)


@dataclass
class _Gram:
    """Sums over rows: inputs times inputs (k + 1, k + 1), and inputs times dense inputs. The last column is one."""

    own: Tensor
    cross: Tensor

    @classmethod
    def empty(cls, k: int) -> "_Gram":
        return cls(torch.zeros(k + 1, k + 1, dtype=torch.float64), torch.zeros(k + 1, k + 1, dtype=torch.float64))

    def add(self, rows: Tensor, dense_rows: Tensor | None) -> None:
        """Add rows of inputs and dense inputs (None: the same). Products are in the rows' type, sums in float64."""
        rows = F.pad(rows, (0, 1), value=1.0)
        own = (rows.T @ rows).double().cpu()
        self.own += own
        self.cross += own if dense_rows is None else (rows.T @ F.pad(dense_rows, (0, 1), value=1.0)).double().cpu()

    def centred(self) -> "_Gram":
        """The sums over deviations from the mean; the last row and column become zero."""
        n = self.own[-1, -1]
        return _Gram(
            self.own - torch.outer(self.own[:, -1], self.own[-1]) / n,
            self.cross - torch.outer(self.cross[:, -1], self.cross[-1]) / n,
        )


def _grams(
    own: nn.Module, dense: nn.Module, layers: Sequence[_Layer], batches: Sequence[Nested]
) -> dict[str, tuple[_Gram, _Gram]]:
    """Per layer: the Gram matrices of the inputs in network ``own``, of most examples and of the held-out ones."""
    grams: dict[str, tuple[_Gram, _Gram]] = {}
    for number, batch in enumerate(batches):
        seen: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
        targets: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
        with _inputs_of(own, seen), torch.no_grad():
            call_model(own, batch)
        if own is dense:
            targets = seen
        else:
            with _inputs_of(dense, targets), torch.no_grad():
                call_model(dense, batch)
        for layer in layers:
            module = dense.get_submodule(layer.name)
            for inputs, dense_inputs in zip(seen[layer.name], targets[layer.name], strict=True):
                rows = _rows(module, inputs)
                pair = grams.setdefault(layer.name, (_Gram.empty(rows.shape[1]), _Gram.empty(rows.shape[1])))
                gram = pair[number % _HELD_OUT == _HELD_OUT - 1]
                gram.add(rows, None if own is dense else _rows(module, dense_inputs))
    return grams


@contextmanager
def _inputs_of(model: nn.Module, found: dict[str, list[Tensor]]) -> Iterator[None]:
    """Within the block, append the inputs of the named layers."""
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, own=own: own.append(args[0].detach()))
        for name, own in found.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _repair(module: Any, dense_module: Any, layer: _Layer, fitted: _Gram, held_out: _Gram) -> None:
    """Solve the kept entries of a layer's weight, in place; rows with equal kept entries are solved together."""
    if layer.centred:
        fitted, held_out = fitted.centred(), held_out.centred()
    dense, has_bias = _dense_rows(dense_module), module.bias is not None
    patterns, members = torch.unique(layer.keep, dim=0, return_inverse=True)
    places = [number for number, pattern in enumerate(patterns) if pattern.any()]  # others are removed outputs

    def solve(numbers: Sequence[int], ridge: float) -> tuple[Tensor, Tensor]:
        """Rows with these patterns, and their solution."""
        rows = torch.cat([(members == number).nonzero().flatten() for number in numbers])
        solved = torch.zeros(len(dense), dense.shape[1], dtype=torch.float64)
        for number in numbers:
            own = (members == number).nonzero().flatten()
            columns = F.pad(patterns[number], (0, 1), value=has_bias).nonzero().flatten()
            solved[own[:, None], columns] = _solution(fitted, dense[own], columns, ridge, has_bias)
        return rows, solved[rows]

    # A few patterns decide the ridge: a weight mask has one per row.
    errors = {}
    for ridge in _RIDGES:
        rows, solved = solve(places[:_RIDGE_PATTERNS], ridge)
        errors[ridge] = _error(held_out, solved, dense[rows])
    rows, solved = solve(places, min(errors, key=errors.__getitem__))
    with torch.no_grad():
        new = torch.zeros_like(dense)
        new[rows] = solved
        module.weight.copy_(new[:, :-1].view(module.weight.shape).to(module.weight))
        if has_bias:
            module.bias[rows] = solved[:, -1].to(module.bias)


def _solution(gram: _Gram, dense: Tensor, columns: Tensor, ridge: float, has_bias: bool) -> Tensor:
    """The kept columns (rows, kept) of the rows ``dense`` (rows, k + 1), by least squares."""
    scale = gram.own.diagonal()[:-1].mean()
    penalty = torch.full((len(columns),), ridge, dtype=torch.float64)
    if has_bias:
        penalty[-1] = 0.0  # the column of ones
    # Inputs that are always zero leave the matrix singular; a billionth is below any ridge.
    penalty = (penalty + 1e-9) * scale
    right = gram.cross[columns] @ dense.T + penalty[:, None] * dense[:, columns].T
    return torch.linalg.solve(gram.own[columns][:, columns] + torch.diag(penalty), right).T


def _error(gram: _Gram, rows: Tensor, dense: Tensor) -> float:
    """Squared error of solved rows against dense ones, up to a constant, from the sums of held-out examples."""
    return float((rows @ gram.own * rows).sum() - 2 * (rows @ gram.cross * dense).sum())


def _dense_rows(module: Any) -> Tensor:
    """The dense layer's weight as a matrix (out, k + 1) in float64; the last column is the bias."""
    weight = module.weight.detach().flatten(1).cpu().double()
    bias = torch.zeros(len(weight)) if module.bias is None else module.bias.detach().cpu()
    return torch.cat([weight, bias[:, None].double()], dim=1)


def _batches(examples: Any, device: torch.device) -> list[Nested]:
    """Batches of inputs on the device, at least four, so that one is held out."""
    if isinstance(examples, Tensor | dict) or (isinstance(examples, tuple) and examples):
        inputs = as_nested(examples, "examples")
        n = n_examples(inputs)
        if n < 2 * _HELD_OUT:
            raise InputError(f"examples: {n} of them; at least {2 * _HELD_OUT} are needed to repair a network")
        size = min(_BATCH, n // _HELD_OUT)
        parts = [take(inputs, slice(start, start + size)) for start in range(0, n - n % size, size)]
    else:
        parts = [as_nested(batch, "examples") for batch in examples]
        if len(parts) < _HELD_OUT:
            raise InputError(f"examples: {len(parts)} batches; at least {_HELD_OUT} are needed to repair a network")
    return [to_device(part, device) for part in parts]
