"""A faster path for chains of linear layers: recompute what a move changes, keep the rest.

A move of radius r touches at most 2 r weights, most of them in the first layer, and so at most 2 r rows of the first
layer's pre-activations. Per layer, with inputs A (in, n), masked weights W (out, in) and outputs Z = W A + b (out, n),

    Z' = (W + dW) (A + dA) + b = Z + dW A + (W + dW) dA,

where dW is sparse and dA is zero outside the rows that the layer before has changed. If those are many, the product is
done afresh instead.

Logits are those of the reference but for rounding. Where its two largest are exactly equal, which takes neurons that
are cut off and have no bias (all zero), another of them may be the largest here.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.mask import Mask
from masksearch.move import Move
from masksearch.spaces import WeightSpace
from masksearch.trial import Proposal

__all__ = ["IncrementalPath", "linear_chain"]

_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout)
_AFRESH = 0.4  # share of a layer's inputs that have changed from which on a whole product is faster (measured)
_REFRESH_EVERY = 256  # scorings; rounding errors of that many updates stay below 1e-5 of the logits' deviation


@dataclass
class _Layer:
    """A linear layer and the activation after it, on all images; a neuron's values are one row."""

    dense: Tensor  # weights without mask (out, in)
    weights: Tensor  # under the current mask (out, in)
    bias: Tensor | None  # (out, 1)
    activation: Callable[[Tensor], Tensor]
    start: int  # of its units in the space; -1 if it has none
    z: Tensor  # pre-activations (out, n)
    a: Tensor  # activations (out, n)


@dataclass
class _Change:
    """What a move makes of one layer's outputs."""

    rows: Tensor | None  # indices of changed rows; None: all
    z: Tensor  # their new pre-activations
    a: Tensor  # and activations


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
        All images.
    """

    refresh_every = _REFRESH_EVERY

    def __init__(
        self, chain: Sequence[tuple[str, nn.Linear, list[nn.Module]]], space: WeightSpace, images: Tensor
    ) -> None:
        self._inputs = images.flatten(1).T.contiguous()  # (in, n)
        starts = {layer.name: layer.start for layer in space.layers}
        empty = images.new_empty(0)
        self._layers = [
            _Layer(
                linear.weight.detach().clone(),
                linear.weight.detach().clone(),
                None if linear.bias is None else linear.bias.detach()[:, None].clone(),
                _pure(after),
                starts.get(name, -1),
                empty,
                empty,
            )
            for name, linear, after in chain
        ]
        with warnings.catch_warnings():  # torch calls its CSR tensors beta, once a process
            warnings.simplefilter("ignore")
            torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1))
        self._mask: Mask | None = None  # whose activations the layers hold
        self._tried: tuple[Mask, Move, list[_Change | None]] | None = None  # the last proposal, its fate unknown

    @torch.no_grad()
    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""
        try:
            return self._logits(proposal)
        except BaseException:  # an interruption leaves some layers changed and others not
            self.refresh()
            raise

    def _logits(self, proposal: Proposal) -> Tensor:
        self._settle(proposal.base)
        if self._mask is not proposal.base:
            self._compute(proposal.base)
        changes = self._try(proposal.move)
        self._tried = (proposal.mask, proposal.move, changes)
        last = changes[-1]
        if last is None:
            return self._layers[-1].a.T
        if last.rows is None:
            return last.a.T
        return self._layers[-1].a.index_copy(0, last.rows, last.a).T

    def refresh(self) -> None:
        """Forget the activations; the next proposal's are computed from its base's bits."""
        self._mask = self._tried = None

    def _settle(self, base: Mask) -> None:
        """Keep the last proposal's changes if ``base`` is its mask, else take them back."""
        if self._tried is None:
            return
        mask, move, changes = self._tried
        self._tried = None
        if mask is not base:
            self._write(move.undone())
            return
        for layer, change in zip(self._layers, changes, strict=True):
            if change is None:
                continue
            if change.rows is None:
                layer.z, layer.a = change.z, change.a
            else:
                layer.z.index_copy_(0, change.rows, change.z)
                layer.a.index_copy_(0, change.rows, change.a)
        self._mask = mask

    def _compute(self, mask: Mask) -> None:
        """Everything from scratch."""
        inputs = self._inputs
        for layer in self._layers:
            layer.weights = layer.dense.clone()
            if layer.start >= 0:
                keep = mask.bits[layer.start : layer.start + layer.dense.numel()].view_as(layer.dense)
                layer.weights.masked_fill_(~keep.to(inputs.device), 0)
            layer.z = layer.weights @ inputs
            if layer.bias is not None:
                layer.z += layer.bias
            inputs = layer.a = layer.activation(layer.z)
        self._mask = mask

    def _write(self, move: Move) -> None:
        """Set the weights that ``move`` drops to zero and those that it regrows to their values."""
        for layer in self._layers:
            flat, dense = layer.weights.view(-1), layer.dense.view(-1)
            for units, kept in ((move.dropped, False), (move.regrown, True)):
                places = _within(units, layer)
                if len(places):
                    index = torch.from_numpy(places)
                    flat[index] = dense[index] if kept else 0.0

    def _try(self, move: Move) -> list[_Change | None]:
        """What ``move`` makes of every layer. Afterwards the weights are those of the moved mask."""
        self._write(move)
        changes: list[_Change | None] = []
        inputs, before = self._inputs, None
        for layer in self._layers:
            change = self._change(layer, move, inputs, before)
            changes.append(change)
            inputs, before = layer.a, change
        return changes

    def _change(self, layer: _Layer, move: Move, inputs: Tensor, before: _Change | None) -> _Change | None:
        """``inputs`` are the layer's inputs before the move, ``before`` what the move has made of them."""
        rows, update = _weight_update(layer, move, inputs)
        if before is None:
            if rows is None or update is None:
                return None
            z = layer.z.index_select(0, rows).add_(update)
            return _Change(rows, z, layer.activation(z))
        changed = len(inputs) if before.rows is None else len(before.rows)
        if changed > _AFRESH * len(inputs):
            now = before.a if before.rows is None else inputs.index_copy(0, before.rows, before.a)
            z = layer.weights @ now
            if layer.bias is not None:
                z += layer.bias
        else:
            assert before.rows is not None
            difference = before.a - inputs.index_select(0, before.rows)
            z = torch.addmm(layer.z, layer.weights.index_select(1, before.rows), difference)
            if rows is not None and update is not None:
                z.index_add_(0, rows, update)
        return _Change(None, z, layer.activation(z))


def _pure(modules: Sequence[nn.Module]) -> nn.Module:
    """The modules one after another, in eval mode, leaving what they are given as it is."""
    activation = copy.deepcopy(nn.Sequential(*modules)).eval()
    for module in activation:
        if "inplace" in vars(module):
            vars(module)["inplace"] = False  # nn.Module's own setattr is typed for tensors and modules
    return activation


def _within(units: np.ndarray, layer: _Layer) -> np.ndarray:
    """Places in the layer's flat weight of those ``units`` that are its own."""
    if layer.start < 0:
        return units[:0]
    own = units[(units >= layer.start) & (units < layer.start + layer.dense.numel())]
    return own - layer.start


def _weight_update(layer: _Layer, move: Move, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """DW A as (changed rows, their values (rows, n)); None, None if the move leaves this layer's weights alone."""
    dropped, regrown = _within(move.dropped, layer), _within(move.regrown, layer)
    places = np.concatenate([dropped, regrown])
    if not len(places):
        return None, None
    values = layer.dense.view(-1)[torch.from_numpy(places)]
    values[: len(dropped)].neg_()
    row, column = np.divmod(places, layer.dense.shape[1])
    order = np.argsort(row, kind="stable")
    rows, firsts = np.unique(row[order], return_index=True)
    crow = torch.from_numpy(np.append(firsts, len(places)))
    sparse = torch.sparse_csr_tensor(
        crow,
        torch.from_numpy(column[order]),
        values[torch.from_numpy(order)],
        size=(len(rows), layer.dense.shape[1]),
        check_invariants=False,
    )
    return torch.from_numpy(rows), sparse @ inputs
