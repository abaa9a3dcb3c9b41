"""What a filter mask costs in measured time."""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.cost import time_runs
from masksearch.pruning.physical import prune
from masksearch.spaces import FilterSpace
from masksearch.utils.errors import InputError

__all__ = ["LatencyShare"]


class LatencyShare:
    """Latency of a mask's pruned network / that of the dense one, medians of runs in turn: a cost for searches.

    A measurement, so no search that goes by it can be repeated to the last bit. Where latencies hardly differ, as those
    of small networks and small batches, what is measured is chance.

    Parameters
    ----------
    model : nn.Module
        Of the space; a copy of it is kept, on its device.
    example : Tensor (n, ...)
        Its first image is what a batch is filled with.
    batch_size : int
        Images of a forward pass.
    seconds : float
        Of one measurement, of both networks; at least 11 runs of each are timed whatever that takes.
    """

    def __init__(
        self, model: nn.Module, space: FilterSpace, example: Tensor, batch_size: int = 64, seconds: float = 0.1
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: {batch_size}; at least 1 image is needed")
        self._dense, self._space, self._seconds = copy.deepcopy(model).eval(), space, seconds
        self._device = next(model.parameters()).device
        self._batch = example[:1].expand(batch_size, *example.shape[1:]).contiguous().to(self._device)

    @torch.no_grad()
    def __call__(self, mask: Mask) -> float:
        """1 for a mask that empties a layer: no smaller network can be made of it."""
        if mask.empty_layers():
            return 1.0
        runs = {"pruned": prune(self._dense, self._space, mask), "dense": self._dense}
        timed = time_runs({name: partial(run, self._batch) for name, run in runs.items()}, self._device, self._seconds)
        return timed["pruned"].median / timed["dense"].median
