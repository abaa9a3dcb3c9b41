"""Building blocks of the networks: named chains of layers, and initial weights as published."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

__all__ = ["Named", "Shape", "chain", "flat_size", "glorot_normal", "he_normal", "scaled"]


Shape = tuple[int, int, int]  # channels, height, width of an image
Named = tuple[str, nn.Module]


def chain(layers: Iterable[Named]) -> nn.Sequential:
    """The layers one after another, under their names."""
    return nn.Sequential(OrderedDict(layers))


def flat_size(layers: Iterable[Named], shape: Shape) -> int:
    """Number of outputs of new layers for one image of ``shape``, in eval mode, so that no statistics change."""
    body = chain(layers).eval()
    with torch.no_grad():
        count = body(torch.zeros(1, *shape)).numel()
    body.train()
    return count


def scaled(channels: int, width: float) -> int:
    """A layer's size times the width multiplier, rounded, at least 1."""
    return max(1, round(channels * width))


_WEIGHTED = (nn.Conv2d, nn.Linear)


def glorot_normal(model: nn.Module) -> nn.Module:
    """Weights from N(0, 2 / (fan_in + fan_out)), biases 0 (Glorot & Bengio 2010, equation 12, in its normal form)."""
    for layer in model.modules():
        if isinstance(layer, _WEIGHTED):
            nn.init.xavier_normal_(layer.weight)
            _zero_bias(layer)
    return model


def he_normal(model: nn.Module) -> nn.Module:
    """Convolutions from N(0, 2 / fan_out), linear layers from N(0, 2 / fan_in), biases 0 (He et al. 2015, section 2.2).

    Both fans keep the variance constant over layers; ``fan_out`` of a linear classifier would be its few classes.
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
