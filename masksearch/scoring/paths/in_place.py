"""A faster path for weight masks: the network's weights stay masked, and follow the moves from mask to mask."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.mask import Move, same_mask
from masksearch.core.protocol import Proposal
from masksearch.scoring.paths.reference import laid_out_like
from masksearch.spaces import WeightSpace

__all__ = ["MovedPath", "can_lie_in_one"]


def can_lie_in_one(model: nn.Module, space: WeightSpace) -> bool:
    """Whether one tensor can hold all weights that have units, each laid out as it is."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = [parameters[name] for name in space.layer_weights()]
    return len({weight.dtype for weight in weights}) == 1 and all(weight.is_contiguous() for weight in weights)


class MovedPath:
    """Run the network on weights that are masked already: between two scorings, only what a move touches is written.

    All weights that have units lie in one tensor, in the units' order, and the network's parameters are views of it.
    What is kept has its own bits and what is pruned is zero, whatever was scored before: logits are those of the plain
    path, bit for bit.
    """

    refresh_every = 1

    def __init__(self, model: nn.Module, space: WeightSpace, images: Tensor, batch_size: int) -> None:
        self._model, self._space, self._images = copy.deepcopy(model), space, images
        self._batches = images.split(batch_size)
        self.part = batch_size
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        self._own = space.unit_sums(parameters)
        self._weights = self._own.clone()
        for name, layer in zip(space.layer_weights(), space.layers, strict=True):
            parameters[name].data = self._weights[layer.slice].view(layer.shape)
        self._last: Proposal | None = None  # the proposal whose mask the weights have

    def logits(self, proposal: Proposal) -> Tensor:
        """Logits (n, classes) of all images under ``proposal.mask``."""
        return torch.cat(list(self.batches(proposal)))

    @torch.no_grad()
    def batches(self, proposal: Proposal) -> Iterator[Tensor]:
        """Logits (b, classes) batch by batch."""
        self._go_to(proposal)
        for images in self._batches:
            yield self._model(images)

    @torch.no_grad()
    def parts(self, proposal: Proposal, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (b, classes) part by part."""
        self._go_to(proposal)
        for place in places:
            yield self._model(laid_out_like(self._images, self._images[place]))

    def refresh(self) -> None:
        """Nothing is carried over that a result depends on."""

    def _go_to(self, proposal: Proposal) -> None:
        self._space.check_mask(proposal.mask)
        last = self._last
        if last is not None and same_mask(proposal.base, last.mask):
            self._make(proposal.move)
        elif last is not None and same_mask(proposal.base, last.base):
            self._make(last.move.undone())
            self._make(proposal.move)
        else:
            self._weights.copy_(self._own).masked_fill_(~proposal.mask.bits.to(self._own.device), 0)
        self._last = proposal

    def _make(self, move: Move) -> None:
        regrown = self._units(move.regrown)
        self._weights.index_fill_(0, self._units(move.dropped), 0)
        self._weights.index_copy_(0, regrown, self._own[regrown])

    def _units(self, units: np.ndarray) -> Tensor:
        return torch.from_numpy(units).to(self._own.device)
