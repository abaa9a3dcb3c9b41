"""Paths from a proposal to logits. The reference says what they are; faster ones must lead to the same decisions."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from masksearch.core.protocol import Proposal
from masksearch.spaces import NetworkSpace

__all__ = ["Path", "ReferencePath", "laid_out_like"]


class Path(Protocol):
    """A way to the logits of a masked network on fixed images."""

    refresh_every: int
    """Scorings after which :meth:`refresh` is due; 1 for a path that carries nothing from one to the next."""

    part: int
    """Preferred maximum number of examples per pass."""

    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""

    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Those logits (b, classes) batch by batch, in their order, bit for bit. Close it to stop in between."""

    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (b, classes) of the images that each of ``places``, int64 (b,), names. Close it to stop in between.

        All places together name every image once. A path may prepare for them: to give the same object again is cheap.
        """

    def refresh(self) -> None:
        """Forget everything carried over, so that what follows doesn't depend on what was scored before."""


class ReferencePath:
    """Apply the mask, run the network, batch by batch."""

    refresh_every = 1

    def __init__(self, model: nn.Module, space: NetworkSpace, images: Tensor, batch_size: int) -> None:
        self._model, self._space, self._images = model, space, images
        self._batches = images.split(batch_size)
        self.part = batch_size

    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""
        return torch.cat(list(self.batches(proposal)))

    @torch.no_grad()
    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Logits (b, classes) batch by batch. The mask stays applied until the last one, or until it is closed."""
        with self._space.applied(self._model, proposal.mask):
            for images in self._batches:
                yield self._model(images)

    @torch.no_grad()
    def batch_logits(self, proposal: Proposal, numbers: Sequence[int]) -> Tensor:
        """Logits (b, classes) of the images in the batches of these numbers, bit for bit those of :meth:`logits`."""
        with self._space.applied(self._model, proposal.mask):
            return torch.cat([self._model(self._batches[number]) for number in numbers])

    @torch.no_grad()
    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (b, classes) part by part. The mask stays applied until the last one, or until it is closed."""
        with self._space.applied(self._model, proposal.mask):
            for place in places:
                yield self._model(laid_out_like(self._images, self._images[place]))

    def refresh(self) -> None:
        """Nothing is carried over."""


def laid_out_like(images: Tensor, chosen: Tensor) -> Tensor:
    """``chosen`` (b, c, h, w) with the channels where ``images`` has them in memory."""
    last = images.ndim == 4 and not images.is_contiguous()
    return chosen.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
