"""Permutations of channels before N:M pruning: exact on the network, and less energy is lost."""

from masksearch.pruning.nm_permutation.permuted_network import PermutedLayer, PermutedNetwork, permute_channels

__all__ = ["PermutedLayer", "PermutedNetwork", "permute_channels"]
