"""Kinds of units (what one mask bit switches) by name, and the mask space of a network for each."""

from typing import Literal

from torch import nn

from masksearch.spaces.base_space import NetworkSpace
from masksearch.spaces.block_mask_space import block_space
from masksearch.spaces.filter_mask_space import filter_space
from masksearch.spaces.nm_mask_space import nm_space
from masksearch.spaces.union_construction import union_space
from masksearch.spaces.weight_mask_space import LayerKind, weight_space
from masksearch.utils.nested import Nested

Granularity = Literal["weight", "filter", "block", "union", "nm"]
"""What a mask bit switches; "union": a block or a filter; "nm": a weight, with 2 of every 4 weights kept."""

UNITS: dict[Granularity, str] = {
    "weight": "weights",
    "filter": "filters",
    "block": "blocks",
    "union": "blocks and filters",
    "nm": "2:4 weights",
}
"""Plural word for the units of each granularity, for texts."""

REMOVED: tuple[Granularity, ...] = ("filter", "block", "union")
"""Granularities whose pruning makes a network smaller; pruned weights stay in place as zeros."""


def ranked_units(granularity: str) -> str:
    """Return the granularity of the units that criteria rank: "weight" for the granularity "nm", else the same name."""
    return "weight" if granularity == "nm" else granularity


def space_of(granularity: Granularity, model: nn.Module, example: Nested, layers: LayerKind = "all") -> NetworkSpace:
    """Return the mask space of a network for a granularity: one mask bit per weight, filter or residual block, say.

    Parameters
    ----------
    example : Tensor (n, ...), or a tuple or dict of such tensors
        Inputs, for the granularities whose units are removed.
    layers : {"all", "conv", "linear"}
        Layers whose weights have units.

    Raises
    ------
    InputError
        If the network has no units of this granularity.
    """
    if granularity == "weight":
        return weight_space(model, layers)
    if granularity == "nm":
        return nm_space(model, kinds=layers)
    if granularity == "filter":
        return filter_space(model, example)
    blocks = block_space(model, example)
    if granularity == "block":
        return blocks
    return union_space(blocks, filter_space(model, example), model=model, example_input=example)
