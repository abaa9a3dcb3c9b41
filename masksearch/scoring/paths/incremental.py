"""A faster path for chains of linear layers: recompute what a move changes, keep the rest.

A move of radius r touches at most 2 r weights, most of them in the first layer, and so at most 2 r rows of the first
layer's pre-activations. Per layer, with inputs A (in, n), masked weights W (out, in) and outputs Z = W A + b (out, n),

    Z' = (W + dW) (A + dA) + b = Z + dW A + (W + dW) dA,

where dW is sparse and dA is zero outside the rows that the layer before has changed. If those are many, the product is
done afresh instead.

Logits are those of the reference but for rounding. Where its two largest are exactly equal, which takes neurons that
are cut off and have no bias (all zero), another of them may be the largest here. Of a network that is cut off whole,
updates leave nothing but rounding errors where there should be zeros: it is computed afresh.
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
_AFRESH = 0.75  # share of a layer's inputs that have changed from which on a whole product is faster (measured)
_REFRESH_EVERY = 512  # scorings; rounding errors of that many updates stay below 1e-5 of the logits' deviation
_PART = 2000
_RESIDUE = 1e-5  # of the largest pre-activation: logits within so little of one another may be rounding errors alone


@dataclass
class _Layer:
    """A linear layer and the activation after it; a neuron's values on one part of the images are one row."""

    dense: Tensor  # weights without mask (out, in)
    weights: Tensor  # under the current mask (out, in)
    bias: Tensor | None  # (out, 1)
    activation: Callable[[Tensor], Tensor]
    start: int  # of its units in the space; -1 if it has none
    z: list[Tensor]  # pre-activations (out, b) of every part; activations are worked out again, to spare memory's time

    def write(self, places: np.ndarray, values: np.ndarray) -> None:
        """Set weights, by their places in the flat tensor."""
        self.weights.view(-1).numpy()[places] = values


@dataclass
class _LayerMove:
    """What a move does to one layer's weights (out, in)."""

    places: np.ndarray  # in the flat weight, ascending
    before: np.ndarray  # their values under the base
    after: np.ndarray  # and under the moved mask
    inputs: int  # of the layer
    hidden: bool  # whether these are the outputs of another layer

    @cached_property
    def update(self) -> "_Update":
        """DW, without its zero rows."""
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
    """A change of weights, DW."""

    rows: Tensor  # that aren't zero
    columns: Tensor | None  # that aren't zero; None: all, zero or not
    matrix: Tensor  # sparse (rows, columns)


@dataclass
class _Change:
    """What a move makes of one layer's pre-activations on one part of the images."""

    rows: Tensor | None  # indices of changed rows; None: all
    z: Tensor  # what they are now
    old: Tensor  # and were


@dataclass
class _Tried:
    """A proposal before its outcome is known. The weights are those of its mask, the activations those of its base."""

    mask: Mask
    moves: list[_LayerMove | None]
    columns: list[Tensor | None]  # of every layer's weights: those that meet the rows that the layer before changes
    changes: list[list[_Change | None]]  # of every part so far, of every layer


def linear_chain(model: nn.Module) -> list[tuple[str, nn.Linear, list[nn.Module]]] | None:
    """(name, layer, elementwise modules after it) of a plain chain of linear layers; None for any other network.

    A chain has no hooks, no classes derived from torch's, and no weight that serves twice. An activation may.
    """
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    shared = len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters()))
    if type(model) is not nn.Sequential or hooked or shared:
        return None
    chain: list[tuple[str, nn.Linear, list[nn.Module]]] = []
    for name, module in zip(model._modules, model, strict=True):  # named_children() leaves repeated modules out
        if type(module) is nn.Linear:
            chain.append((name, module, []))
        elif chain and type(module) in _ELEMENTWISE:
            chain[-1][2].append(module)
        elif chain or not (type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)):
            return None
    return chain or None


class IncrementalPath:
    """Logits of a chain of linear layers under masks that differ little from one proposal to the next.

    Parameters
    ----------
    chain : list
        Of :func:`linear_chain`; weights are copied.
    space : WeightSpace
        The masks' space.
    images : float tensor (n, c, h, w)
        All images, float32 or float64, on the CPU.
    """

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
                _pure(after),
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
        """Logits (n, classes) of all images under ``proposal.mask``."""
        return torch.cat(list(self.batches(proposal)))

    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Logits (b, classes) batch by batch."""
        yield from self.parts(proposal, self._whole)

    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (b, classes) part by part."""
        with self._forgetting():
            if places is not self._places:
                self._places = places
                self._inputs = [self._images[place].T.contiguous() for place in places]
                self.refresh()
            self._prepare(proposal)
        for part in range(len(places)):
            with self._forgetting():
                logits = self._part_logits(part)
            yield logits

    def refresh(self) -> None:
        """Forget the activations; what comes next is computed from bits."""
        self._mask: Mask | None = None  # whose weights the layers have
        self._held = 0  # parts of which they have its activations
        self._scale = 0.0  # of the pre-activations when they were last computed from bits, their largest
        self._tried: _Tried | None = None
        self._missed: Mask | None = None  # the last base whose activations weren't there

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """An interruption leaves some layers changed and others not."""
        try:
            yield
        except BaseException:
            self.refresh()
            raise

    def _prepare(self, proposal: Proposal) -> None:
        """Make the weights those of the proposal's mask, with its base's activations or without any."""
        base, move = proposal.base, proposal.move
        self._settle(base)
        if len(move) and not same_mask(self._mask, base) and not same_mask(self._missed, base):
            # The base's activations are computed only when two proposals in a row have this base.
            self._missed = base
            base, move = proposal.mask, Move.nowhere()
        if not same_mask(self._mask, base):
            self._load(base)
        if len(move):
            for part in range(self._held, len(self._inputs)):
                self._compute(part)
            moves = _layer_moves(self._layers, move)
            for layer, moved in zip(self._layers, moves, strict=True):
                if moved is not None:
                    layer.write(moved.places, moved.after)
            self._tried = _Tried(proposal.mask, moves, [None] * len(moves), [])

    def _settle(self, base: Mask) -> None:
        """Keep the last proposal's changes if ``base`` is its mask, else take them back."""
        tried, self._tried = self._tried, None
        if tried is None:
            return
        if not same_mask(tried.mask, base):
            for layer, moved in zip(self._layers, tried.moves, strict=True):
                if moved is not None:
                    layer.write(moved.places, moved.before)
        elif len(tried.changes) < len(self._inputs):
            self._mask = None  # stopped, and taken nevertheless
        else:
            for part, changes in enumerate(tried.changes):
                for layer, change in zip(self._layers, changes, strict=True):
                    if change is not None:
                        _keep(layer, part, change)
            self._mask = tried.mask

    def _load(self, mask: Mask) -> None:
        """Weights under ``mask``, and no activations yet."""
        for layer in self._layers:
            if layer.start < 0:
                layer.weights = layer.dense.clone()
            else:
                keep = mask.bits[layer.start : layer.start + layer.dense.numel()].view_as(layer.dense)
                layer.weights = layer.dense.where(keep, 0)
        self._mask, self._held, self._scale = mask, 0, 0.0

    def _compute(self, part: int) -> None:
        """One part's activations from scratch; parts come in order."""
        for layer, z in zip(self._layers, self._from_scratch(part), strict=True):
            layer.z[part:] = [z]
            if not part:
                self._scale = max(self._scale, float(z.abs().max()))
        self._held = part + 1

    def _from_scratch(self, part: int) -> Iterator[Tensor]:
        """Pre-activations (out, b) of one part, layer by layer, under the weights as they are."""
        inputs = self._inputs[part]
        for layer in self._layers:
            z = _product(layer, inputs)
            yield z
            inputs = layer.activation(z)

    def _part_logits(self, part: int) -> Tensor:
        tried, last = self._tried, self._layers[-1]
        if tried is None:
            if part >= self._held:
                self._compute(part)
            return last.activation(last.z[part]).T
        changes: list[_Change | None] = []
        change: _Change | None = None
        for number in range(len(self._layers)):
            change = self._change(tried, number, part, change)
            changes.append(change)
        z = _whole(last, part, change)
        if change is not None and _spread(z) <= _RESIDUE * self._scale:
            afresh = list(self._from_scratch(part))
            changes = [_Change(None, new, layer.z[part]) for layer, new in zip(self._layers, afresh, strict=True)]
            z = afresh[-1]
        tried.changes.append(changes)
        return last.activation(z).T

    def _change(self, tried: _Tried, number: int, part: int, before: _Change | None) -> _Change | None:
        """What the move makes of a layer; ``before`` is what it makes of the layer before."""
        layer, moved = self._layers[number], tried.moves[number]
        if before is None:
            if moved is None:
                return None
            update = moved.update
            old = layer.z[part].index_select(0, update.rows)
            return _Change(update.rows, torch.addmm(old, update.matrix, self._inputs_of(update, number, part)), old)
        activation = self._layers[number - 1].activation
        if before.rows is None:
            return _Change(None, _product(layer, activation(before.z)), layer.z[part])
        if len(before.rows) > _AFRESH * layer.dense.shape[1]:
            values = self._layers[number - 1].z[part].index_copy(0, before.rows, before.z)
            return _Change(None, _product(layer, activation(values)), layer.z[part])
        columns = tried.columns[number]
        if columns is None:
            columns = tried.columns[number] = layer.weights.index_select(1, before.rows)
        difference = activation(before.old)
        torch.sub(activation(before.z), difference, out=difference)  # before.old isn't read again
        z = torch.addmm(layer.z[part], columns, difference)
        if moved is not None:
            update = moved.update
            z.index_add_(0, update.rows, update.matrix @ self._inputs_of(update, number, part))
        return _Change(None, z, layer.z[part])

    def _inputs_of(self, update: _Update, number: int, part: int) -> Tensor:
        """What an update of a layer's weights is multiplied by: its inputs before the move (columns, b)."""
        if update.columns is None:
            return self._inputs[part]
        before = self._layers[number - 1]
        return before.activation(before.z[part].index_select(0, update.columns))


def _spread(values: Tensor) -> float:
    lowest, highest = values.aminmax()
    return float(highest - lowest)


def _product(layer: _Layer, inputs: Tensor) -> Tensor:
    return layer.weights @ inputs if layer.bias is None else torch.addmm(layer.bias, layer.weights, inputs)


def _keep(layer: _Layer, part: int, change: _Change) -> None:
    if change.rows is None:
        layer.z[part] = change.z
    else:
        layer.z[part].index_copy_(0, change.rows, change.z)


def _whole(layer: _Layer, part: int, change: _Change | None) -> Tensor:
    """All pre-activations of a layer on one part of the images."""
    if change is None:
        return layer.z[part]
    return change.z if change.rows is None else layer.z[part].index_copy(0, change.rows, change.z)


def _pure(modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The modules one after another, in eval mode, leaving what they are given as it is."""
    if not modules:
        return lambda values: values
    if [type(module) for module in modules] == [nn.ReLU]:
        return torch.relu  # a module's call costs more than its work
    activation = copy.deepcopy(nn.Sequential(*modules)).eval()
    for module in activation:
        if "inplace" in vars(module):
            vars(module)["inplace"] = False  # nn.Module's own setattr is typed for tensors and modules
    return activation


def _layer_moves(layers: Sequence[_Layer], move: Move) -> list[_LayerMove | None]:
    """What ``move`` does to every layer's weights; None where it leaves them alone."""
    units = np.concatenate([move.dropped, move.regrown])
    order = units.argsort()
    units, comes = units[order], order >= len(move.dropped)
    moves: list[_LayerMove | None] = []
    for number, layer in enumerate(layers):
        first, last = units.searchsorted((layer.start, layer.start + layer.dense.numel()))
        if layer.start < 0 or first == last:
            moves.append(None)
            continue
        places = units[first:last] - layer.start
        values = layer.dense.view(-1).numpy()[places]
        after = values * comes[first:last]
        moves.append(_LayerMove(places, values - after, after, layer.dense.shape[1], number > 0))
    return moves
