"""The part of a masked chain of linear layers that its outputs depend on: a smaller network that learns the same."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from masksearch.data import Split
from masksearch.scoring.paths.incremental import linear_chain

__all__ = ["Effective", "effective"]

_WORTHWHILE = 0.75  # share of the weights from which on the whole network is trained: choosing its inputs costs, too


@dataclass(frozen=True)
class Effective:
    """A chain without the inputs and hidden units from which no kept weights lead to an output.

    Nothing that is left out has a part in the outputs or in the gradients of what is left, so that both networks learn
    the same, up to rounding. The sparser the mask, the more there is to leave out (Vysogorets & Kempe 2023, "effective"
    sparsity, who also count what no input leads to), and the less time the smaller network's steps take.
    """

    network: nn.Module  # takes images (b, k, 1, 1)
    masks: dict[str, Tensor]
    inputs: Tensor  # int64 (k,): the places of its inputs in a flattened image

    def seen(self, split: Split) -> Split:
        """The images as the network takes them, (n, k, 1, 1)."""
        return Split(split.inputs.flatten(1).index_select(1, self.inputs)[:, :, None, None], split.targets)


def effective(model: nn.Module, masks: Mapping[str, Tensor]) -> Effective | None:
    """The effective part of a network whose pruned weights are zero already.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    masks : mapping
        Parameter name -> bool tensor of its shape, True = kept.

    Returns
    -------
    Effective or None
        None for any network but a chain of linear layers and activations without dropout, whose random numbers would be
        others; where no path is left; and where there is too little to leave out.
    """
    chain = linear_chain(model)
    if chain is None or any(type(module) is nn.Dropout for _, _, after in chain for module in after):
        return None
    device = chain[0][1].weight.device
    kept = [masks.get(f"{name}.weight", torch.ones_like(layer.weight, dtype=torch.bool)) for name, layer, _ in chain]
    needed = [torch.ones(chain[-1][1].out_features, dtype=torch.bool, device=device)]  # of every layer's units, last on
    for keep in reversed(kept):
        needed.append(keep.to(device)[needed[-1]].any(0))
    places = [units.nonzero().flatten() for units in reversed(needed)]  # of the inputs, then of every layer's units
    sizes = list(map(len, places))
    weights = sum(one * other for one, other in pairwise(sizes))
    if not all(sizes) or weights > _WORTHWHILE * sum(layer.weight.numel() for _, layer, _ in chain):
        return None
    smaller, own = nn.Sequential(nn.Flatten()), {}
    for number, (name, layer, after) in enumerate(chain):
        inputs, units = places[number], places[number + 1]
        smaller.append(_part_of(layer, units, inputs))
        if f"{name}.weight" in masks:
            own[f"{len(smaller) - 1}.weight"] = kept[number].to(device)[units][:, inputs]
        smaller.extend(copy.deepcopy(after))
    return Effective(smaller, own, places[0])


def _part_of(layer: nn.Linear, units: Tensor, inputs: Tensor) -> nn.Linear:
    weight, has_bias = layer.weight.detach(), layer.bias is not None
    # Not initialised: that would draw from torch's generator.
    sizes = {"in_features": len(inputs), "out_features": len(units), "bias": has_bias}
    part = nn.utils.skip_init(nn.Linear, **sizes, device=weight.device, dtype=weight.dtype)
    part.weight = nn.Parameter(weight[units][:, inputs], layer.weight.requires_grad)
    if has_bias:
        part.bias = nn.Parameter(layer.bias.detach()[units], layer.bias.requires_grad)
    return part
