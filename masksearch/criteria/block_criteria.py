"""Pruning criterion for residual blocks: how much a block changes the direction of its input."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from masksearch.core.mask import Mask
from masksearch.criteria.batches_and_loss import Batches, loss_batches
from masksearch.spaces import BlockSpace
from masksearch.spaces.base_space import on_inner_network
from masksearch.spaces.block_mask_space import ADDITIONS, Addition
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import call_model, n_examples, to_device


@on_inner_network
def block_cosine(
    model: nn.Module,
    space: BlockSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return each residual block's saliency: 1 - mean cosine similarity of the block's input and output.

    The result is float64 (n_blocks,). With a branch f, the input is x and the output x + f(x). Men et al. 2024
    (ShortGPT, block influence). x is what the branch f is added to, after a projection if there is one. Vectors are the
    tokens of (n, tokens, width); of other tensors, all entries of an example. Targets are not used.

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
    additions = space.additions()
    sums, count, device = torch.zeros(space.n_units, dtype=torch.float64), 0, device_of(network)
    for inputs, _ in loss_batches(batches, None, "block_cosine"):
        # Without gradients, attention would take fused paths without additions.
        with torch.enable_grad(), _Cosines(network, additions) as run:
            call_model(network, to_device(inputs, device))
        sums += n_examples(inputs) * torch.tensor([run.mean(each) for each in additions], dtype=torch.float64)
        count += n_examples(inputs)
    return 1 - sums / count


class _Cosines(TorchDispatchMode):
    """Compute cosine similarities of shortcut and sum at additions of blocks, while the network runs once."""

    def __init__(self, network: nn.Module, additions: Sequence[Addition]) -> None:
        super().__init__()
        self._shortcuts = {(each.module, each.number): each.shortcut for each in additions}
        self._means: dict[tuple[str, int], float] = {}
        self._seen = dict.fromkeys((each.module for each in additions), 0)  # additions that a module's code has run
        self._running: list[str] = []
        self._network = network

    def __enter__(self) -> Self:
        self._hooks = ExitStack()
        for name, module in self._network.named_modules():
            enter = module.register_forward_pre_hook(lambda module, args, name=name: self._running.append(name))
            self._hooks.enter_context(enter)
            self._hooks.enter_context(module.register_forward_hook(lambda module, args, output: self._leave()))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.close()

    def _leave(self) -> None:
        self._running.pop()

    def mean(self, addition: Addition) -> float:
        """Return the mean cosine similarity of a residual block's input x and its output x + f(x)."""
        seen = self._seen[addition.module]
        if seen != addition.total:
            raise InputError(
                f"batches: the network runs {seen} additions in {addition.module or 'its forward'!r} for the examples, "
                f"and {addition.total} for the example of the block space; make the space with an example that takes "
                "the same branches"
            )
        return self._means[addition.module, addition.number]

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        module = self._running[-1] if self._running else ""
        if func._overloadpacket.__name__ in ADDITIONS and module in self._seen:
            place = (module, self._seen[module])
            if place in self._shortcuts:
                shortcut = args[self._shortcuts[place]].detach()
                self._means[place] = _cosine(shortcut, args[0].detach() + args[1].detach())
            self._seen[module] += 1
        return func(*args, **(kwargs or {}))


def _cosine(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine similarity over tokens (n, tokens, width), or over examples (n, ...)."""
    a, b = (x.double().flatten(0, 1) if x.ndim == 3 else x.double().flatten(1) for x in (one, other))
    return float(F.cosine_similarity(a, b, dim=1).mean())
