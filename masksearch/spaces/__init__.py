"""Mask spaces of networks: masks of single weights or of groups of channels, and masks applied to networks."""

from masksearch.spaces.base_space import NetworkSpace
from masksearch.spaces.block_mask_space import Block, BlockSpace, block_space
from masksearch.spaces.filter_mask_space import FilterSpace, filter_space
from masksearch.spaces.granularities import REMOVED, UNITS, Granularity, ranked_units, space_of
from masksearch.spaces.nm_mask_space import NMSpace, nm_space
from masksearch.spaces.union_construction import union_space
from masksearch.spaces.union_mask_space import UnionSpace
from masksearch.spaces.weight_mask_space import LayerKind, WeightSpace, weight_space

__all__ = [
    "REMOVED",
    "UNITS",
    "Block",
    "BlockSpace",
    "FilterSpace",
    "Granularity",
    "LayerKind",
    "NMSpace",
    "NetworkSpace",
    "UnionSpace",
    "WeightSpace",
    "block_space",
    "filter_space",
    "nm_space",
    "ranked_units",
    "space_of",
    "union_space",
    "weight_space",
]
