"""A masked MLP without its dead inputs and hidden units: a smaller network with the same training."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from masksearch.data import Split
from masksearch.scoring.example_batches import HeldSplit
from masksearch.scoring.paths.mlp_layers import linear_chain

_WORTHWHILE = 0.75  # share of the weights; above it the whole network is trained, since selecting inputs takes time


@dataclass(frozen=True)
class EffectiveNetwork:
    """Smaller form of a masked MLP, without inputs and hidden units from which no kept weights lead to an output.

    Dead units change neither the outputs nor the gradients of other weights, so that both networks learn the same, up
    to rounding. The sparser the mask, the more units are dead, and the faster the steps of the smaller network are.
    (The "effective" sparsity of Vysogorets & Kempe 2023 also removes units that no input reaches.)
    """

    network: nn.Module  # the smaller network; it takes images (b, k, 1, 1)
    masks: dict[str, Tensor]  # parameter name of the smaller network -> bool tensor, True = kept
    inputs: Tensor  # int64 (k,): indices of the kept inputs in a flattened image

    def seen(self, split: Split) -> Split:
        """Return a copy of a data split with only the input values that the smaller MLP reads: (n, values, 1, 1)."""
        inputs = split.inputs.flatten(1).index_select(1, self.inputs)[:, :, None, None]
        return HeldSplit(inputs, split.targets, split.task)


def effective_network(model: nn.Module, masks: Mapping[str, Tensor]) -> EffectiveNetwork | None:
    """Return a smaller MLP without the masked one's dead inputs and hidden units; None if too few are dead.

    Both networks learn the same, but the smaller one is faster. Dead: no kept weights lead to an output.

    Parameters
    ----------
    model : nn.Module
        The masked network, with its pruned weights at zero. It stays unchanged.
    masks : mapping
        Parameter name -> bool tensor of its shape, True = kept.

    Returns
    -------
    EffectiveNetwork or None
        None if the network isn't a chain of linear layers and activations without dropout (a smaller network would draw
        other random numbers), if no path is left, or if too few units are dead.
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
    return EffectiveNetwork(smaller, own, places[0])


def _part_of(layer: nn.Linear, units: Tensor, inputs: Tensor) -> nn.Linear:
    weight, has_bias = layer.weight.detach(), layer.bias is not None
    # skip_init: an initialisation would draw from torch's generator.
    sizes = {"in_features": len(inputs), "out_features": len(units), "bias": has_bias}
    part = nn.utils.skip_init(nn.Linear, **sizes, device=weight.device, dtype=weight.dtype)
    part.weight = nn.Parameter(weight[units][:, inputs], layer.weight.requires_grad)
    if has_bias:
        part.bias = nn.Parameter(layer.bias.detach()[units], layer.bias.requires_grad)
    return part
