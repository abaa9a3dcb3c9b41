"""A faster path for filter masks: run the network without the channels that the mask removes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from masksearch.pruning import prune
from masksearch.scoring.paths import ReferencePath
from masksearch.spaces import FilterSpace
from masksearch.trial import Proposal

__all__ = ["CompactPath"]


class CompactPath:
    """Prune a copy of the network physically, run that: a scoring costs what the kept channels cost, and the copy.

    A mask that empties a layer has no pruned network; it takes the plain path.
    """

    refresh_every = 1

    def __init__(self, model: nn.Module, space: FilterSpace, batches: Sequence[Tensor]) -> None:
        self._model, self._space, self._batches = model, space, batches
        self._plain = ReferencePath(model, space, batches)

    @torch.no_grad()
    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""
        if proposal.mask.empty_layers():
            return self._plain.logits(proposal)
        small = prune(self._model, self._space, proposal.mask)
        return torch.cat([small(images) for images in self._batches])

    def refresh(self) -> None:
        """Nothing is carried over."""
