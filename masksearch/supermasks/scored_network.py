"""Networks with frozen weights and one trainable score per weight, from which every forward pass draws a mask."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from masksearch.spaces import NetworkSpace
from masksearch.supermasks.methods import top
from masksearch.utils.errors import InputError


class ScoredNetwork(nn.Module):
    """Frozen copy of a network with one trainable score per weight; each forward pass masks the weights by the scores.

    In train mode ``draw`` makes the mask; in eval mode the mask keeps the weights with the highest ``rank``.

    Parameters
    ----------
    scores : sequence of Tensor
        Initial scores, of the shapes of the space's weights.
    kept : sequence of int
        Number of kept weights of every layer, or a single number for all layers ranked together.
    draw : callable
        (scores (n,), number of ones) -> mask (n,) with gradients for the scores.
    rank : callable
        Scores -> saliency of the same shape, higher = keep.
    power : float
        Exponent of the rescaling: a layer's weights are multiplied by (all / kept) ** power; 0: no rescaling.

    Raises
    ------
    InputError
        If the network is not of this space.
    """

    def __init__(
        self,
        network: nn.Module,
        space: NetworkSpace,
        scores: Sequence[Tensor],
        kept: Sequence[int],
        draw: Callable[[Tensor, int], Tensor],
        rank: Callable[[Tensor], Tensor],
        power: float,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.scores = nn.ParameterList(
            torch.empty_like(weight).copy_(start)  # with the weight's strides and device, for fast products
            for weight, start in zip(frozen_weights(self.network, space), scores, strict=True)
        )
        self._names = space.layer_weights()
        self._kept = list(kept)
        self._draw, self._rank, self._power = draw, rank, power
        # Buffers, so that a checkpoint of another density or rescaling has another state and is refused.
        self.register_buffer("kept", torch.tensor(self._kept))
        self.register_buffer("power", torch.tensor(float(power)))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the outputs of the network with its weights masked by their scores."""
        weights = {}
        for name, mask in zip(self._names, self.masks(), strict=True):
            weight: Tensor = self.network.get_parameter(name)
            if self._power:
                weight = weight * _factor(mask.detach(), self._power)
            weights[name] = weight * mask
        return functional_call(self.network, weights, inputs, named)

    def masks(self) -> list[Tensor]:
        """Return the 0/1 masks that the scores give, in the shapes of the weights, in order of the layers."""
        scores = list(self.scores)
        if len(self._kept) == len(scores):
            return [self._mask(s.flatten(), kept).view_as(s) for s, kept in zip(scores, self._kept, strict=True)]
        together = self._mask(torch.cat([s.flatten() for s in scores]), self._kept[0])
        runs = together.split([s.numel() for s in scores])
        return [run.view_as(s) for run, s in zip(runs, scores, strict=True)]

    def _mask(self, scores: Tensor, kept: int) -> Tensor:
        if not kept:  # a layer of density 0 has no scores to learn
            return torch.zeros_like(scores)
        return self._draw(scores, kept) if self.training else top(self._rank(scores), kept)

    def saliency(self) -> Tensor:
        """Return the saliency of every weight (higher = keep), computed from its score: (n_units,), on the CPU."""
        return torch.cat([self._rank(s.detach()).flatten().cpu() for s in self.scores])


def frozen_weights(network: nn.Module, space: NetworkSpace) -> list[nn.Parameter]:
    """Return the weights of a network that can be masked, in order of the layers of ``space``.

    Raises
    ------
    InputError
        If a weight is missing or has another shape.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    weights = []
    for layer, name in zip(space.layers, space.layer_weights(), strict=True):
        weight = parameters.get(name)
        if weight is None or weight.shape != layer.shape:
            has = "nothing" if weight is None else f"shape {tuple(weight.shape)}"
            raise InputError(
                f"model: {type(network).__name__} has {has} for {name} {layer.shape} of this {space.describe()}"
            )
        weights.append(weight)
    return weights


def _factor(mask: Tensor, power: float) -> Tensor:
    return (mask.numel() / mask.sum().clamp(min=1)) ** power
