"""Permutations of channels before N:M pruning: equal outputs, and pruning removes less important weights."""

from masksearch.pruning.nm_permutation.permuted_network import PermutedLayer, PermutedNetwork, permute_channels

__all__ = ["PermutedLayer", "PermutedNetwork", "permute_channels"]
