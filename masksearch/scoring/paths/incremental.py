"""A fast path for chains of linear layers: compute only the activations that change between two masks.

Why it is fast. A move of radius r changes at most 2 r weights, most of them in the first layer, and therefore at most
2 r rows of the first layer's pre-activations. For a layer with inputs A (in, n), masked weights W (out, in) and
pre-activations Z = W A + b (out, n), a change dW of the weights and a change dA of the inputs give

    Z' = (W + dW) (A + dA) + b = Z + dW A + (W + dW) dA.

dW is sparse, and dA is zero except in the rows that the layer before has changed. Both products are small while few
rows change. If most rows change, Z' is computed from scratch, which is then faster.

What is kept between scorings. The path keeps the weights and the pre-activations of one base mask. A proposal from this
base writes its weights and computes its changes, but the changes stay apart (``_Pending``). The next proposal shows
what the searcher has decided: if the proposal's mask is the new base, the changes are copied into the
pre-activations; else the weights are written back.

Where the logits differ from those of the reference path. They differ by rounding. If the reference has two largest
logits that are exactly equal, another one may be the largest here; this happens only if all paths to the outputs are
cut and the layer has no bias, so that all logits are zero. If a mask cuts all paths, updates leave rounding errors in
place of zeros, so such logits are computed from scratch. Rounding errors add up over updates; a refresh after 512
scorings removes them.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask, Move, same_mask
from masksearch.core.protocol import Proposal
from masksearch.spaces import WeightSpace

__all__ = ["IncrementalPath", "linear_chain"]

_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout)
_FROM_SCRATCH = 0.75  # share of changed inputs above which the whole product is faster (measured)
_REFRESH_EVERY = 512  # scorings; rounding errors of 512 updates stay below 1e-5 of the logits' standard deviation
_PART = 2000  # images per part
_RESIDUE = 1e-5  # share of the largest pre-activation: logits that differ by less may be rounding errors only


@dataclass
class _Layer:
    """A linear layer and its activation. Values have one row per neuron and one column per image of a part."""

    dense: Tensor  # weights without mask (out, in)
    weights: Tensor  # under the current mask (out, in)
    bias: Tensor | None  # (out, 1)
    activation: Callable[[Tensor], Tensor]
    start: int  # first unit of the layer in the space; -1 if the layer has no units
    z: list[Tensor]  # pre-activations (out, b) of every part; activations are recomputed: faster than reading them

    def write(self, places: np.ndarray, values: np.ndarray) -> None:
        """Set weights by their indices in the flat tensor."""
        self.weights.view(-1).numpy()[places] = values


@dataclass
class _LayerMove:
    """The weights (out, in) of one layer that a move changes."""

    places: np.ndarray  # indices in the flat weight, ascending
    before: np.ndarray  # values under the base mask
    after: np.ndarray  # values under the proposal's mask
    inputs: int  # number of inputs of the layer
    hidden: bool  # whether the inputs are the outputs of another layer

    @cached_property
    def update(self) -> "_Update":
        """The change of the weights as a sparse matrix, without its zero rows."""
        row, column = np.divmod(self.places, self.inputs)
        firsts = np.concatenate([[0], np.flatnonzero(row[1:] != row[:-1]) + 1])
        columns = None
        if self.hidden:
            columns, column = np.unique(column, return_inverse=True)
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(np.append(firsts, len(row)).astype(np.int32)),
            torch.from_numpy(column.astype(np.int32)),
            torch.from_numpy(self.after - self.before),
            size=(len(firsts), self.inputs if columns is None else len(columns)),
            check_invariants=False,
        )
        return _Update(torch.from_numpy(row[firsts]), None if columns is None else torch.from_numpy(columns), matrix)


@dataclass
class _Update:
    """The change of a layer's weights, dW."""

    rows: Tensor  # indices of the non-zero rows
    columns: Tensor | None  # indices of the non-zero columns; None: the matrix has all columns
    matrix: Tensor  # sparse (rows, columns)


@dataclass
class _Change:
    """The change of one layer's pre-activations on one part of the images."""

    rows: Tensor | None  # indices of the changed rows; None: all rows
    z: Tensor  # their values after the move
    old: Tensor  # their values before the move


@dataclass
class _Pending:
    """A proposal that is not known to be accepted. Weights are those of its mask, pre-activations those of its base."""

    mask: Mask
    moves: list[_LayerMove | None]
    columns: list[Tensor | None]  # per layer: the weights of the inputs that the layer before changes
    changes: list[list[_Change | None]]  # per part so far, per layer


def linear_chain(model: nn.Module) -> list[tuple[str, nn.Linear, list[nn.Module]]] | None:
    """Return (name, linear layer, elementwise modules after it) per layer of an MLP; None for other networks.

    The network is an ``nn.Sequential`` of linear layers: a chain. It has no hooks, no subclasses of torch's layers, and
    no shared weights. Activations may be shared.
    """
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    shared = len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters()))
    if type(model) is not nn.Sequential or hooked or shared:
        return None
    chain: list[tuple[str, nn.Linear, list[nn.Module]]] = []
    for name, module in zip(model._modules, model, strict=True):  # named_children() skips repeated modules
        if type(module) is nn.Linear:
            chain.append((name, module, []))
        elif chain and type(module) in _ELEMENTWISE:
            chain[-1][2].append(module)
        elif chain or not (type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)):
            return None
    return chain or None


class IncrementalPath:
    """Fast way to compute an MLP's outputs: per mask, update only activations that changed since the last mask.

    Parameters
    ----------
    chain : list
        Layers of the network from :func:`linear_chain`; weights are copied.
    space : WeightSpace
        The space of the masks.
    images : float tensor (n, c, h, w)
        All images, float32 or float64, on the CPU.
    """

    name = "incremental"
    refresh_every = _REFRESH_EVERY
    part = _PART

    def __init__(
        self, chain: Sequence[tuple[str, nn.Linear, list[nn.Module]]], space: WeightSpace, images: Tensor
    ) -> None:
        self._images = images.flatten(1)
        starts = {layer.name: layer.start for layer in space.layers}
        self._layers = [
            _Layer(
                linear.weight.detach().clone(),
                linear.weight.detach().clone(),
                None if linear.bias is None else linear.bias.detach()[:, None].clone(),
                _activation(after),
                starts.get(name, -1),
                [],
            )
            for name, linear, after in chain
        ]
        with warnings.catch_warnings():  # torch calls its CSR tensors beta, once a process
            warnings.simplefilter("ignore")
            torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1))
        self._whole = torch.arange(len(images)).split(_PART)
        self._places: Sequence[Tensor] = ()
        self._inputs: list[Tensor] = []  # (in, b) of every part
        self.refresh()

    def logits(self, proposal: Proposal) -> Tensor:
        """Return the logits (n, classes) of all images under the mask ``proposal.mask``."""
        return torch.cat(list(self.batches(proposal)))

    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Yield the logits (batch, classes) of the masked network, one batch of images at a time, in order."""
        yield from self.parts(proposal, self._whole)

    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the logits (images, classes) of the masked network for each tensor of image indices in ``places``."""
        with self._refreshed_on_error():
            if places is not self._places:
                self._places = places
                self._inputs = [self._images[place].T.contiguous() for place in places]
                self.refresh()
            self._prepare(proposal)
        for part in range(len(places)):
            with self._refreshed_on_error():
                logits = self._part_logits(part)
            yield logits

    def refresh(self) -> None:
        """Drop all cached activations; the next logits are computed from scratch."""
        self._mask: Mask | None = None  # the mask of the layers' weights
        self._computed = 0  # number of parts with pre-activations of this mask
        self._scale = 0.0  # largest pre-activation when they were last computed from scratch
        self._pending: _Pending | None = None
        self._missed: Mask | None = None  # the last base without pre-activations

    @contextmanager
    def _refreshed_on_error(self) -> Iterator[None]:
        """Refresh after an exception, which may leave some layers changed and others not."""
        try:
            yield
        except BaseException:
            self.refresh()
            raise

    def _prepare(self, proposal: Proposal) -> None:
        """Set the weights to the proposal's mask, and make sure that the pre-activations are those of its base.

        Pre-activations of a new base cost as much as a scoring from scratch, and pay only if the base is used again. So
        the first proposal from a new base is scored from scratch under its own mask, and the pre-activations of the
        base are computed when a second proposal in a row has the same base.
        """
        base, move = proposal.base, proposal.move
        self._resolve(base)
        if len(move) and not same_mask(self._mask, base) and not same_mask(self._missed, base):
            self._missed = base
            base, move = proposal.mask, Move.nowhere()
        if not same_mask(self._mask, base):
            self._load(base)
        if len(move):
            for part in range(self._computed, len(self._inputs)):
                self._compute(part)
            moves = _layer_moves(self._layers, move)
            for layer, moved in zip(self._layers, moves, strict=True):
                if moved is not None:
                    layer.write(moved.places, moved.after)
            self._pending = _Pending(proposal.mask, moves, [None] * len(moves), [])

    def _resolve(self, base: Mask) -> None:
        """Keep the changes of the pending proposal if ``base`` is its mask, else write its weights back.

        A scoring that stopped early has changes of some parts only. If its mask is the base nevertheless, nothing is
        known of the other parts, and the base counts as new.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if not same_mask(pending.mask, base):
            for layer, moved in zip(self._layers, pending.moves, strict=True):
                if moved is not None:
                    layer.write(moved.places, moved.before)
        elif len(pending.changes) < len(self._inputs):
            self._mask = None
        else:
            for part, changes in enumerate(pending.changes):
                for layer, change in zip(self._layers, changes, strict=True):
                    if change is not None:
                        _accept(layer, part, change)
            self._mask = pending.mask

    def _load(self, mask: Mask) -> None:
        """Set the weights to ``mask``, without pre-activations."""
        for layer in self._layers:
            if layer.start < 0:
                layer.weights = layer.dense.clone()
            else:
                keep = mask.bits[layer.start : layer.start + layer.dense.numel()].view_as(layer.dense)
                layer.weights = layer.dense.where(keep, 0)
        self._mask, self._computed, self._scale = mask, 0, 0.0

    def _compute(self, part: int) -> None:
        """Compute the pre-activations of one part from scratch; parts are computed in order."""
        for layer, z in zip(self._layers, self._from_scratch(part), strict=True):
            layer.z[part:] = [z]
            if not part:
                self._scale = max(self._scale, float(z.abs().max()))
        self._computed = part + 1

    def _from_scratch(self, part: int) -> Iterator[Tensor]:
        """Pre-activations (out, b) of one part, layer by layer, under the present weights."""
        inputs = self._inputs[part]
        for layer in self._layers:
            z = _product(layer, inputs)
            yield z
            inputs = layer.activation(z)

    def _part_logits(self, part: int) -> Tensor:
        """Logits (b, classes) of one part; a pending proposal gets the changes of all layers.

        Logits that are all equal up to rounding are a sign that the mask cuts all paths to the outputs: then all layers
        are computed from scratch, so that zeros are exact zeros, as in the reference path.
        """
        pending, last = self._pending, self._layers[-1]
        if pending is None:
            if part >= self._computed:
                self._compute(part)
            return last.activation(last.z[part]).T
        changes: list[_Change | None] = []
        change: _Change | None = None
        for number in range(len(self._layers)):
            change = self._change(pending, number, part, change)
            changes.append(change)
        z = _preactivations(last, part, change)
        if change is not None and _spread(z) <= _RESIDUE * self._scale:
            scratch = list(self._from_scratch(part))
            changes = [_Change(None, new, layer.z[part]) for layer, new in zip(self._layers, scratch, strict=True)]
            z = scratch[-1]
        pending.changes.append(changes)
        return last.activation(z).T

    def _change(self, pending: _Pending, number: int, part: int, before: _Change | None) -> _Change | None:
        """The change of a layer; ``before`` is the change of the layer before, None if nothing has changed there.

        There are three cases. If the inputs are unchanged, only the rows of dW change: Z + dW A. If all inputs, or most
        of them, have changed, the whole product is computed. Else (W + dW) dA is added, for which ``columns`` has the
        weights of the changed inputs only, and then dW A.
        """
        layer, moved = self._layers[number], pending.moves[number]
        if before is None:
            if moved is None:
                return None
            update = moved.update
            old = layer.z[part].index_select(0, update.rows)
            return _Change(update.rows, torch.addmm(old, update.matrix, self._inputs_of(update, number, part)), old)
        activation = self._layers[number - 1].activation
        if before.rows is None:
            return _Change(None, _product(layer, activation(before.z)), layer.z[part])
        if len(before.rows) > _FROM_SCRATCH * layer.dense.shape[1]:
            values = self._layers[number - 1].z[part].index_copy(0, before.rows, before.z)
            return _Change(None, _product(layer, activation(values)), layer.z[part])
        columns = pending.columns[number]
        if columns is None:
            columns = pending.columns[number] = layer.weights.index_select(1, before.rows)
        difference = activation(before.old)
        torch.sub(activation(before.z), difference, out=difference)  # overwrites before.old, which is not read again
        z = torch.addmm(layer.z[part], columns, difference)
        if moved is not None:
            update = moved.update
            z.index_add_(0, update.rows, update.matrix @ self._inputs_of(update, number, part))
        return _Change(None, z, layer.z[part])

    def _inputs_of(self, update: _Update, number: int, part: int) -> Tensor:
        """The inputs A of a layer before the move (columns, b), by which dW is multiplied."""
        if update.columns is None:
            return self._inputs[part]
        before = self._layers[number - 1]
        return before.activation(before.z[part].index_select(0, update.columns))


def _spread(values: Tensor) -> float:
    lowest, highest = values.aminmax()
    return float(highest - lowest)


def _product(layer: _Layer, inputs: Tensor) -> Tensor:
    return layer.weights @ inputs if layer.bias is None else torch.addmm(layer.bias, layer.weights, inputs)


def _accept(layer: _Layer, part: int, change: _Change) -> None:
    if change.rows is None:
        layer.z[part] = change.z
    else:
        layer.z[part].index_copy_(0, change.rows, change.z)


def _preactivations(layer: _Layer, part: int, change: _Change | None) -> Tensor:
    """All pre-activations of a layer on one part of the images."""
    if change is None:
        return layer.z[part]
    return change.z if change.rows is None else layer.z[part].index_copy(0, change.rows, change.z)


def _activation(modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The modules in sequence, in eval mode and not in place."""
    if not modules:
        return lambda values: values
    if [type(module) for module in modules] == [nn.ReLU]:
        return torch.relu  # calling a module takes longer than the ReLU itself
    activation = copy.deepcopy(nn.Sequential(*modules)).eval()
    for module in activation:
        if "inplace" in vars(module):
            vars(module)["inplace"] = False  # setattr of nn.Module is typed for tensors and modules
    return activation


def _layer_moves(layers: Sequence[_Layer], move: Move) -> list[_LayerMove | None]:
    """The weights of every layer that ``move`` changes; None for layers that it doesn't change."""
    units = np.concatenate([move.dropped, move.regrown])
    order = units.argsort()
    units, is_regrown = units[order], order >= len(move.dropped)
    moves: list[_LayerMove | None] = []
    for number, layer in enumerate(layers):
        first, last = units.searchsorted((layer.start, layer.start + layer.dense.numel()))
        if layer.start < 0 or first == last:
            moves.append(None)
            continue
        places = units[first:last] - layer.start
        values = layer.dense.view(-1).numpy()[places]
        after = values * is_regrown[first:last]
        moves.append(_LayerMove(places, values - after, after, layer.dense.shape[1], number > 0))
    return moves
