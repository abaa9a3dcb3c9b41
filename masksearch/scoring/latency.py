"""Latency of networks under masks of filters and blocks: measured, and limited by the share of MACs to keep."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.cost import time_runs
from masksearch.pruning.physical import Removable, prune
from masksearch.utils.errors import InputError, check_type, check_whole
from masksearch.utils.forward_passes import batch_of
from masksearch.utils.nested import Nested, call_model, take

_BISECTIONS = 7  # of the share of MACs, which is found to within 1 / 128


class LatencyShare:
    """Measured cost of a mask of filters or blocks: the pruned network's latency / the dense network's latency.

    Both are medians of alternating runs. Measurements vary, so a search with this cost can't be repeated exactly. For
    small networks and small batches, the differences between masks may be smaller than the measurement noise.

    Parameters
    ----------
    model : nn.Module
        The network of the space. It is copied, and measured on its device.
    example : Tensor (n, ...), or a tuple or dict of such tensors
        Inputs; the first example fills the batch.
    seconds : float
        Duration of one measurement of both networks; at least 11 runs of each are timed, even if they take longer.
    """

    def __init__(
        self, model: nn.Module, space: Removable, example: Nested, batch_size: int = 64, seconds: float = 0.1
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_type("space", space, Removable, "a space of filters or blocks, whose masks can be pruned")
        self._dense, self._space, self._seconds = copy.deepcopy(model).eval(), space, seconds
        self._device = next(model.parameters()).device
        self._batch = batch_of(take(example, slice(1)), batch_size, self._device)

    @torch.no_grad()
    def __call__(self, mask: Mask) -> float:
        """Return pruned / dense latency; 1 for a mask that empties a layer, since such a network can't be pruned."""
        if mask.empty_layers():
            return 1.0
        runs = {"pruned": prune(self._dense, self._space, mask), "dense": self._dense}
        timed = time_runs(
            {name: partial(call_model, run, self._batch) for name, run in runs.items()}, self._device, self._seconds
        )
        return timed["pruned"].median / timed["dense"].median


def macs_within_latency(share: float, measure: LatencyShare, mask_at: Callable[[float], Mask]) -> float:
    """Return the largest share of MACs, in [0, 1], with which a pruned network is fast enough.

    Fast enough: pruned latency / dense latency is at most ``share``. The result is exact to within 1 / 128.

    Parameters
    ----------
    mask_at : callable
        (share of MACs that is kept) -> mask; an InputError means that the share is too small for one unit per
        layer.

    Raises
    ------
    InputError
        If no mask is as fast.
    """
    found, low, high, least = 0.0, 0.0, 1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        try:
            mask = mask_at(middle)
        except InputError:
            low = middle
            continue
        measured = measure(mask)
        least = min(least, measured)
        if measured <= share:
            found = low = middle
        else:
            high = middle
    if not found:
        raise InputError(
            f"latency: {share} of the dense network's can't be reached; the smallest measured share is {least:.3g}"
        )
    return found
