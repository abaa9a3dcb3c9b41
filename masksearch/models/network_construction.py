"""Building blocks of the networks: sequences of named layers, layer sizes, and published initialisations."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

__all__ = ["Named", "Shape", "chain", "flat_size", "glorot_normal", "he_normal", "scaled"]

Shape = tuple[int, int, int]  # channels, height, width of an image
Named = tuple[str, nn.Module]


def chain(layers: Iterable[Named]) -> nn.Sequential:
    """Return an ``nn.Sequential`` of named layers, built from pairs (name, layer)."""
    return nn.Sequential(OrderedDict(layers))


def flat_size(layers: Iterable[Named], shape: Shape) -> int:
    """Return how many numbers a sequence of layers outputs for one image of shape ``shape`` (channels, height, width).

    The layers run once in eval mode, so that no statistics change.
    """
    body = chain(layers).eval()
    with torch.no_grad():
        count = body(torch.zeros(1, *shape)).numel()
    body.train()
    return count


def scaled(channels: int, width: float) -> int:
    """Return a number of channels multiplied by a network's width multiplier, rounded, at least 1."""
    return max(1, round(channels * width))


_WEIGHTED = (nn.Conv2d, nn.Linear)


def glorot_normal(model: nn.Module) -> nn.Module:
    """Initialise a network in place: weights from N(0, 2 / (fan_in + fan_out)), biases 0; return the network.

    Glorot & Bengio 2010, equation 12, in its normal form. 2 / (fan_in + fan_out) is the variance.
    """
    for layer in model.modules():
        if isinstance(layer, _WEIGHTED):
            nn.init.xavier_normal_(layer.weight)
            _zero_bias(layer)
    return model


def he_normal(model: nn.Module) -> nn.Module:
    """Initialise a network in place with He normal weights and zero biases; return the network.

    He et al. 2015, section 2.2: variance 2 / fan_out for convolutions, 2 / fan_in for linear layers. Both fans keep the
    variance constant over layers; ``fan_out`` of a linear classifier would be its few classes.
    """
    for layer in model.modules():
        if isinstance(layer, _WEIGHTED):
            fan: Literal["fan_out", "fan_in"] = "fan_out" if isinstance(layer, nn.Conv2d) else "fan_in"
            nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu")
            _zero_bias(layer)
    return model


def _zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
