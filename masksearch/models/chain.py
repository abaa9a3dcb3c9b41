"""Networks that are one chain of layers: named modules in a :class:`torch.nn.Sequential`."""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["Named", "Shape", "chain", "flat_size", "scaled"]

Shape = tuple[int, int, int]  # channels, height, width of an image
Named = tuple[str, nn.Module]


def chain(layers: Iterable[Named]) -> nn.Sequential:
    """The layers one after another, under their names."""
    return nn.Sequential(OrderedDict(layers))


def flat_size(layers: Iterable[Named], shape: Shape) -> int:
    """How many numbers new layers make of one image of ``shape``; evaluation mode, so that nothing is updated."""
    body = chain(layers).eval()
    with torch.no_grad():
        count = body(torch.zeros(1, *shape)).numel()
    body.train()
    return count


def scaled(channels: int, width: float) -> int:
    """A layer's size times the width multiplier, rounded, at least 1."""
    return max(1, round(channels * width))
