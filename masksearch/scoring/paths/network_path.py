"""Paths, ways to compute the outputs of a masked network: their base classes, and the slow, exact reference path."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from masksearch.core.problem_and_trials import Proposal
from masksearch.spaces import NetworkSpace
from masksearch.training.batch_feed import forward_batch
from masksearch.utils.nested import Nested, call_model, n_examples, take, tensors_of

_ELEMENTS = 1 << 26  # numbers in the largest output of a layer: 256 MiB in float32
_MAX_IMAGES = 10_000  # per pass: a limit for outputs that no module returns, and that are therefore not measured


class Path(ABC):
    """Base class of the ways (paths) to compute a masked network's logits on a fixed set of images."""

    name: str
    """Name of this way to compute a masked network's logits, such as "compact"; see ``Scorer.path_name``."""

    refresh_every: int
    """Number of scored masks between two calls of :meth:`refresh`, which drops cached results; 1 if none are cached."""

    part: int
    """Preferred maximum number of images per forward pass of the masked network."""

    def logits(self, proposal: Proposal) -> Tensor:
        """Return the logits (images, classes) that the network computes under ``proposal.mask`` for all images."""
        return torch.cat(list(self.batches(proposal)))

    @abstractmethod
    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Yield the masked network's logits (batch, classes), one batch of images at a time, in order.

        They equal those of :meth:`logits` bit for bit. Close the iterator to stop early.
        """

    @abstractmethod
    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the masked network's logits (images, classes) for each tensor of image indices in ``places``.

        Indices are int64 (b,); all tensors together have every image once. A path may prepare for ``places``: passing
        the same object again is cheap. Close the iterator to stop early.
        """

    def refresh(self) -> None:
        """Drop all cached results, so that logits don't depend on earlier masks. By default, nothing is cached."""
        return


class NetworkPath(Path):
    """Base class of ways to compute logits by running a network on batches; subclasses supply the masked network."""

    refresh_every = 1

    def __init__(self, model: nn.Module, space: NetworkSpace, images: Tensor, batch_size: int) -> None:
        self._model, self._space, self._images = model, space, images
        self._batches = images.split(batch_size)
        self.part = batch_size

    @abstractmethod
    def _masked(self, proposal: Proposal) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """Return a context manager of the network under the mask ``proposal.mask``."""

    @torch.no_grad()
    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Yield the masked network's logits (batch, classes), one batch of images at a time, in order."""
        with self._masked(proposal) as network:
            for images in self._batches:
                yield network(images)

    @torch.no_grad()
    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the masked network's logits (images, classes) for each tensor of image indices in ``places``."""
        with self._masked(proposal) as network:
            for place in places:
                yield network(laid_out_like(self._images, self._images[place]))


class ReferencePath(NetworkPath):
    """Slow, exact way to compute a masked network's outputs: set pruned weights to zero, and run all batches."""

    name = "reference"

    def _masked(self, proposal: Proposal) -> AbstractContextManager[nn.Module]:
        return self._space.applied(self._model, proposal.mask)

    @torch.no_grad()
    def batch_logits(self, proposal: Proposal, numbers: Sequence[int]) -> Tensor:
        """Return the masked network's logits (images, classes) for the batches ``numbers``, counted from 0."""
        with self._masked(proposal) as network:
            return torch.cat([network(self._batches[number]) for number in numbers])


def laid_out_like(images: Tensor, chosen: Tensor) -> Tensor:
    """Return the images ``chosen`` (b, c, h, w) in the memory format of ``images``, such as channels last."""
    last = images.ndim == 4 and not images.is_contiguous()
    return chosen.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@torch.no_grad()
def images_per_pass(model: nn.Module, inputs: Nested) -> int:
    """Return a suitable number of images per forward pass of a network: 250 on a CPU, up to 10,000 on a GPU.

    On a GPU, the largest output of a layer has at most 2**26 numbers, 256 MiB in float32.
    """
    device = tensors_of(inputs)[0].device
    if device.type == "cpu":
        return forward_batch(device)
    probe = take(inputs, slice(2))
    sizes = [1]

    def note(module: nn.Module, given: object, output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        sizes.extend(tensor.numel() // n_examples(probe) for tensor in tensors)

    with ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(note))
        call_model(model, probe)
    return max(1, min(_MAX_IMAGES, _ELEMENTS // max(sizes)))
