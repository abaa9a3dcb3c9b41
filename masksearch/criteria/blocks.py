"""Pruning criterion for blocks: how little a residual branch changes the direction of what it is added to."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from masksearch.core.mask import Mask
from masksearch.cost.forward_pass import device_of
from masksearch.criteria.batches import Batches, loss_batches
from masksearch.spaces import BlockSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.nested import call_model, n_examples, to_device

__all__ = ["block_cosine"]

_ADDITIONS = ("add", "add_")


def block_cosine(
    model: nn.Module,
    space: BlockSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return 1 - mean cosine similarity of each block's input x and output x + f(x) as saliency: float64 (n_blocks,).

    Men et al. 2024 (ShortGPT, block influence). x is what the branch f is added to, after a projection if there is one.
    Vectors are the tokens of (n, tokens, width); of other tensors, all entries of an example. Targets are not used.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        Examples, for the network in eval mode.
    alive : Mask, optional
        Mask of the network during the evaluation; removed blocks have saliency 0.

    Raises
    ------
    InputError
        If there is no batch, or the network runs other additions for the examples than for the example of the space.
    """
    network = copy_network(model).eval().requires_grad_(True)
    if alive is not None:
        space.apply(network, alive)
    places, total = space.additions()
    sums, count, device = torch.zeros(space.n_units, dtype=torch.float64), 0, device_of(network)
    for inputs, _ in loss_batches(batches, None, "block_cosine"):
        # Without gradients, attention would take fused paths without additions.
        with torch.enable_grad(), _Cosines(places) as run:
            call_model(network, to_device(inputs, device))
        if run.seen != total or set(run.means) != set(places):
            raise InputError(
                f"batches: the network runs {run.seen} additions for the examples, and {total} for the example of the "
                "block space; make the space with an example that takes the same branches"
            )
        sums += n_examples(inputs) * torch.tensor([run.means[place] for place in places], dtype=torch.float64)
        count += n_examples(inputs)
    return 1 - sums / count


class _Cosines(TorchDispatchMode):
    """Compute cosine similarities of shortcut and sum at some additions, numbered in the order in which they run.

    Parameters
    ----------
    places : mapping
        Number of an addition -> which of its two operands (0 or 1) is the shortcut.
    """

    def __init__(self, places: Mapping[int, int]) -> None:
        super().__init__()
        self._places, self.means, self.seen = places, dict[int, float](), 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        if func._overloadpacket.__name__ in _ADDITIONS:
            if self.seen in self._places:
                shortcut = args[self._places[self.seen]].detach()
                total = args[0].detach() + args[1].detach()
                self.means[self.seen] = _cosine(shortcut, total)
            self.seen += 1
        return func(*args, **(kwargs or {}))


def _cosine(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine similarity over tokens (n, tokens, width), or over examples (n, ...)."""
    a, b = (x.double().flatten(0, 1) if x.ndim == 3 else x.double().flatten(1) for x in (one, other))
    return float(F.cosine_similarity(a, b, dim=1).mean())
