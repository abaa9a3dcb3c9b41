"""Kinds of the units of a filter space: attention heads, neurons, channels, groups of channels and RNN units."""

import numpy as np
from torch import nn

import masksearch as ms

__all__ = ["KINDS", "unit_kinds"]

KINDS = ("channels", "heads", "neurons", "RNN units", "groups", "trunk channels")


def unit_kinds(model: nn.Module, space: ms.FilterSpace) -> dict[str, int]:
    """Return {kind: number of units} of a filter space; the kinds are :data:`KINDS`."""
    counts = dict.fromkeys(KINDS, 0)
    groups = space.groups
    filters = set(groups.filters)
    axes = [axis.units for axis in groups.head_axes]
    heads = set(np.concatenate(axes).tolist()) if axes else set()
    normed = space.norm_units
    for family, part in zip(space.layers, groups.slices, strict=True):
        made = next(run for run in groups.runs if (run.tensor, run.dim) in filters and part.start in run.units)
        several = int((made.units == part.start).sum()) > 1
        layer = model.get_submodule(made.tensor.rpartition(".")[0])
        if isinstance(layer, nn.RNNBase):
            kind = "RNN units"
        elif part.start in heads or (several and isinstance(layer, nn.MultiheadAttention)):
            kind = "heads"
        elif bool(normed[part.start]):
            kind = "trunk channels"
        elif isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D":
            kind = "neurons"
        elif several:
            kind = "groups"
        else:
            kind = "channels"
        counts[kind] += family.size
    return counts
