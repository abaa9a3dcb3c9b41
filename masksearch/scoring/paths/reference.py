"""Paths from a proposal to logits. The reference path defines the logits; faster paths lead to the same decisions."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from masksearch.core.protocol import Proposal
from masksearch.spaces import NetworkSpace
from masksearch.training.batches import forward_batch
from masksearch.utils.nested import Nested, call_model, n_examples, take, tensors_of

__all__ = ["Path", "ReferencePath", "images_per_pass", "laid_out_like"]

_ELEMENTS = 1 << 26  # of the largest output of a layer: 256 MiB in float32
_MAX_IMAGES = 10_000  # per pass: a limit for outputs that no module returns, and that are therefore not measured


class Path(Protocol):
    """A way to the logits of a masked network on fixed images."""

    name: str
    """Name in ``Scorer.path_name``."""

    refresh_every: int
    """Scorings from one :meth:`refresh` to the next; 1 for a path without state between scorings."""

    part: int
    """Preferred maximum number of examples per pass."""

    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""

    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """The same logits (b, classes) batch by batch, in order, bit for bit. Close the iterator to stop early."""

    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (b, classes) of the images with the indices int64 (b,) in each item of ``places``.

        All items together have every image once. A path may prepare for ``places``: passing the same object again is
        cheap. Close the iterator to stop early.
        """

    def refresh(self) -> None:
        """Drop all state, so that later logits don't depend on earlier scorings."""


class ReferencePath:
    """Apply the mask, run the network, batch by batch."""

    name = "reference"
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
        """Logits (b, classes) batch by batch. The mask stays applied until the iterator ends or is closed."""
        with self._space.applied(self._model, proposal.mask):
            for images in self._batches:
                yield self._model(images)

    @torch.no_grad()
    def batch_logits(self, proposal: Proposal, numbers: Sequence[int]) -> Tensor:
        """Logits (b, classes) of the images in the batches with these numbers, bit for bit as in :meth:`logits`."""
        with self._space.applied(self._model, proposal.mask):
            return torch.cat([self._model(self._batches[number]) for number in numbers])

    @torch.no_grad()
    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (b, classes) part by part. The mask stays applied until the iterator ends or is closed."""
        with self._space.applied(self._model, proposal.mask):
            for place in places:
                yield self._model(laid_out_like(self._images, self._images[place]))

    def refresh(self) -> None:
        """Do nothing: the path has no state."""


def laid_out_like(images: Tensor, chosen: Tensor) -> Tensor:
    """``chosen`` (b, c, h, w) in the memory format of ``images``: channels first or channels last."""
    last = images.ndim == 4 and not images.is_contiguous()
    return chosen.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@torch.no_grad()
def images_per_pass(model: nn.Module, inputs: Nested) -> int:
    """Return the number of examples per forward pass: what suits a CPU, or fills a GPU without filling its memory."""
    device = tensors_of(inputs)[0].device
    if device.type == "cpu":
        return forward_batch(device)
    probe = take(inputs, slice(2))
    sizes = [1]

    def note(module: nn.Module, given: object, output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        sizes.extend(tensor.numel() // n_examples(probe) for tensor in tensors)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        call_model(model, probe)
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(_MAX_IMAGES, _ELEMENTS // max(sizes)))
