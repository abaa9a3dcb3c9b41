"""Batch normalisation folded into the convolutions before it, for networks that are only evaluated."""

import copy
from dataclasses import replace

from torch import nn
from torch.fx.experimental.optimization import fuse

from masksearch.spaces.filter_groups import Groups, Run

__all__ = ["folded"]


def folded(model: nn.Module, groups: Groups) -> tuple[nn.Module, Groups]:
    """A copy in eval mode without the normalisations that convolutions can take over, and its groups.

    A folded convolution has a bias, which goes with its filters. Units are the same, in the same order. A network that
    ``torch.fx`` can't trace comes back as it is.
    """
    plain = copy.deepcopy(model).eval()
    try:
        small = fuse(plain)
    except Exception:  # tracing runs the network's own code on symbols, which may raise whatever it likes
        return plain, groups
    tensors = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    runs = [run for run in groups.runs if run.tensor in tensors]
    for run in groups.runs:
        layer, _, kind = run.tensor.rpartition(".")
        bias = f"{layer}.bias"
        if kind == "weight" and run.dim == 0 and bias in tensors and bias not in groups.shapes:
            runs.append(Run(bias, 0, run.units))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    parameters = frozenset(name for name, _ in small.named_parameters())
    return small, replace(groups, runs=tuple(runs), shapes=shapes, parameters=parameters)
