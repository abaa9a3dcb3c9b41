"""Mask spaces of networks: masks of single weights or of groups of channels, and masks applied to networks."""

from masksearch.spaces.block_mask_space import Block, BlockSpace, block_space
from masksearch.spaces.filter_mask_space import FilterSpace, filter_space
from masksearch.spaces.network_space import NetworkSpace
from masksearch.spaces.nm_mask_space import NMSpace, nm_space
from masksearch.spaces.weight_mask_space import LayerKind, WeightSpace, weight_space

__all__ = [
    "Block",
    "BlockSpace",
    "FilterSpace",
    "LayerKind",
    "NMSpace",
    "NetworkSpace",
    "WeightSpace",
    "block_space",
    "filter_space",
    "nm_space",
    "weight_space",
]
