"""Chains of linear layers: layers under a mask, and what a move between two masks changes in them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.mask import Move
from masksearch.spaces import WeightSpace

Chain = Sequence[tuple[str, nn.Linear, list[nn.Module]]]
"""(name, linear layer, elementwise modules after it) for each layer of an MLP."""

_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout)


@dataclass
class ChainLayer:
    """A linear layer of an MLP, with its weights under the current mask, activation function and pre-activations."""

    dense: Tensor  # weights without mask (out, in)
    weights: Tensor  # under the current mask (out, in)
    bias: Tensor | None  # (out, 1)
    activation: Callable[[Tensor], Tensor]
    start: int  # first unit of the layer in the space; -1 if the layer has no units
    z: list[Tensor]  # pre-activations (out, b) of every part; activations are recomputed: faster than reading them

    def write(self, places: np.ndarray, values: np.ndarray) -> None:
        """Overwrite a linear layer's weights at indices ``places`` of the flat weight tensor with ``values``."""
        self.weights.view(-1).numpy()[places] = values

    def product(self, inputs: Tensor) -> Tensor:
        """Return a linear layer's outputs before its activation function, (out, images), for inputs (in, images)."""
        return self.weights @ inputs if self.bias is None else torch.addmm(self.bias, self.weights, inputs)

    def preactivations(self, part: int, change: "LayerChange | None") -> Tensor:
        """Return a linear layer's pre-activations (out, images) after a change of the mask, without storing them."""
        if change is None:
            return self.z[part]
        return change.z if change.rows is None else self.z[part].index_copy(0, change.rows, change.z)

    def accept(self, part: int, change: "LayerChange") -> None:
        """Store a linear layer's pre-activations after a change of the mask, for batch ``part`` of the images."""
        if change.rows is None:
            self.z[part] = change.z
        else:
            self.z[part].index_copy_(0, change.rows, change.z)


@dataclass
class LayerMove:
    """Weights of one layer that change from one mask to the next: their indices, and their values under both masks."""

    places: np.ndarray  # indices in the flat weight, ascending
    before: np.ndarray  # values under the base mask
    after: np.ndarray  # values under the proposal's mask
    inputs: int  # number of inputs of the layer
    hidden: bool  # whether the inputs are the outputs of another layer

    @cached_property
    def update(self) -> "LayerUpdate":
        """New minus old weights of a linear layer when the mask changes, as a sparse matrix without zero rows."""
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
        return LayerUpdate(
            torch.from_numpy(row[firsts]), None if columns is None else torch.from_numpy(columns), matrix
        )


@dataclass
class LayerUpdate:
    """New minus old weights of a linear layer when the mask changes, as a sparse matrix without zero rows."""

    rows: Tensor  # indices of the non-zero rows
    columns: Tensor | None  # indices of the non-zero columns; None: the matrix has all columns
    matrix: Tensor  # sparse (rows, columns)


@dataclass
class LayerChange:
    """Pre-activations of a linear layer before and after a change of the mask, for one batch of images."""

    rows: Tensor | None  # indices of the changed rows; None: all rows
    z: Tensor  # their values after the move
    old: Tensor  # their values before the move


def linear_chain(model: nn.Module) -> Chain | None:
    """Return, for each layer of an MLP, (name, linear layer, activation modules after it); None for other networks.

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


def chain_layers(chain: Chain, space: WeightSpace) -> list[ChainLayer]:
    """Return a :class:`ChainLayer` for each linear layer of an MLP, with copied, unmasked weights."""
    starts = {layer.name: layer.start for layer in space.layers}
    return [
        ChainLayer(
            linear.weight.detach().clone(),
            linear.weight.detach().clone(),
            None if linear.bias is None else linear.bias.detach()[:, None].clone(),
            _activation(after),
            starts.get(name, -1),
            [],
        )
        for name, linear, after in chain
    ]


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


def layer_moves(layers: Sequence[ChainLayer], move: Move) -> list[LayerMove | None]:
    """Return, for each layer of an MLP, the weights that a change of the mask changes; None if there are none."""
    units = np.concatenate([move.dropped, move.regrown])
    order = units.argsort()
    units, is_regrown = units[order], order >= len(move.dropped)
    moves: list[LayerMove | None] = []
    for number, layer in enumerate(layers):
        first, last = units.searchsorted((layer.start, layer.start + layer.dense.numel()))
        if layer.start < 0 or first == last:
            moves.append(None)
            continue
        places = units[first:last] - layer.start
        values = layer.dense.view(-1).numpy()[places]
        after = values * is_regrown[first:last]
        moves.append(LayerMove(places, values - after, after, layer.dense.shape[1], number > 0))
    return moves
