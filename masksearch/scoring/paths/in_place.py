"""A fast path for weight masks: the network's own weights are masked, and only those that change are overwritten."""

import copy
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.mask import Move, same_mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.scoring.paths.network_path import NetworkPath
from masksearch.spaces import WeightSpace


def fits_in_one_tensor(model: nn.Module, space: WeightSpace) -> bool:
    """Return whether all maskable weights can be views of one tensor: they have one dtype and are contiguous."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = [parameters[name] for name in space.layer_weights()]
    return len({weight.dtype for weight in weights}) == 1 and all(weight.is_contiguous() for weight in weights)


class InPlacePath(NetworkPath):
    """Fast way to compute outputs under weight masks: overwrite only the weights that change from mask to mask.

    One tensor holds all weights with units, in the order of the units, and the network's parameters are views of the
    tensor. Kept weights have their original bits and pruned weights are zero, whatever was scored before. The logits
    therefore equal those of the reference path, bit for bit.
    """

    name = "in place"

    def __init__(self, model: nn.Module, space: WeightSpace, images: Tensor, batch_size: int) -> None:
        super().__init__(copy.deepcopy(model), space, images, batch_size)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        self._dense = space.unit_sums(parameters)
        self._weights = self._dense.clone()
        for name, layer in zip(space.layer_weights(), space.layers, strict=True):
            parameters[name].data = self._weights[layer.slice].view(layer.shape)
        self._last: Proposal | None = None  # the proposal whose mask the weights have

    def _masked(self, proposal: Proposal) -> AbstractContextManager[nn.Module]:
        self._apply(proposal)
        return nullcontext(self._model)

    def _apply(self, proposal: Proposal) -> None:
        self._space.check_mask(proposal.mask)
        last = self._last
        if last is not None and same_mask(proposal.base, last.mask):
            self._write(proposal.move)
        elif last is not None and same_mask(proposal.base, last.base):  # the last move was not accepted
            self._write(last.move.undone())
            self._write(proposal.move)
        else:
            self._weights.copy_(self._dense).masked_fill_(~proposal.mask.bits.to(self._dense.device), 0)
        self._last = proposal

    def _write(self, move: Move) -> None:
        regrown = self._units(move.regrown)
        self._weights.index_fill_(0, self._units(move.dropped), 0)
        self._weights.index_copy_(0, regrown, self._dense[regrown])

    def _units(self, units: np.ndarray) -> Tensor:
        return torch.from_numpy(units).to(self._dense.device)
