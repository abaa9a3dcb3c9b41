"""One-shot pruning of trained networks from a few inputs without labels, block after block."""

from masksearch.pruning.one_shot.pruned_layer_cache import LayerLevels
from masksearch.pruning.one_shot.pruning_by_block import (
    LayerReport,
    OneShot,
    block_weights,
    one_shot,
    outlier_densities,
)

__all__ = ["LayerLevels", "LayerReport", "OneShot", "block_weights", "one_shot", "outlier_densities"]
