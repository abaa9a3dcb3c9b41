"""Spaces over networks: what a unit is, and how a mask is applied."""

from masksearch.spaces.base import NetworkSpace
from masksearch.spaces.weight_space import LayerKind, WeightSpace, weight_space

__all__ = ["LayerKind", "NetworkSpace", "WeightSpace", "weight_space"]
