"""Fully connected networks: flatten, then linear layers with ReLU between them."""

from itertools import pairwise
from math import prod

from torch import nn

from masksearch.models.chain import Named, Shape, chain, scaled
from masksearch.models.initial import glorot_normal

__all__ = ["fc", "lenet_300_100", "mlp", "thesis_mlp"]


def mlp(inputs: int, hidden: list[int], classes: int, bias: bool = True) -> nn.Sequential:
    """``fc1`` ... ``fcN``, with torch's own initial weights: uniform in +- 1 / sqrt(fan_in)."""
    sizes = [inputs, *hidden, classes]
    layers: list[Named] = [("flatten", nn.Flatten())]
    for number, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        layers.append((f"fc{number}", nn.Linear(n_in, n_out, bias=bias)))
        if number <= len(hidden):
            layers.append((f"relu{number}", nn.ReLU()))
    return chain(layers)


def lenet_300_100(shape: Shape, classes: int, width: float) -> nn.Module:
    """784-300-100-10 with biases (LeCun et al. 1998), Glorot normal as in Frankle & Carbin 2019, figure 2."""
    return glorot_normal(mlp(prod(shape), [scaled(300, width), scaled(100, width)], classes))


def thesis_mlp(shape: Shape, classes: int, width: float) -> nn.Module:
    """784-300-100-10 without biases, torch's initial weights.

    The network of "Heuristic Approach Towards Early Pruning of Neural Networks" (2020).
    """
    return mlp(prod(shape), [scaled(300, width), scaled(100, width)], classes, bias=False)


def fc(shape: Shape, classes: int, width: float) -> nn.Module:
    """784-100-100-100-100-100-10 (Tanaka et al. 2020, MNIST), torch's initial weights."""
    return mlp(prod(shape), [scaled(100, width)] * 5, classes)
