"""Paths from a proposal to logits. The reference says what they are; faster ones must lead to the same decisions."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from masksearch.spaces import NetworkSpace
from masksearch.trial import Proposal

__all__ = ["Path", "ReferencePath"]


class Path(Protocol):
    """A way to the logits of a masked network on fixed images."""

    refresh_every: int
    """Scorings after which :meth:`refresh` is due; 1 for a path that carries nothing from one to the next."""

    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""

    def refresh(self) -> None:
        """Forget everything carried over, so that what follows doesn't depend on what was scored before."""


class ReferencePath:
    """Apply the mask, run the network, batch by batch."""

    refresh_every = 1

    def __init__(self, model: nn.Module, space: NetworkSpace, batches: Sequence[Tensor]) -> None:
        self._model, self._space, self._batches = model, space, batches

    @torch.no_grad()
    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""
        with self._space.applied(self._model, proposal.mask):
            return torch.cat([self._model(images) for images in self._batches])

    def refresh(self) -> None:
        """Nothing is carried over."""
