"""Bytes that a forward pass needs at its worst moment."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from masksearch.cost.forward import batch_of, check_batch, device_of, evaluated, forward

__all__ = ["peak_memory"]


def peak_memory(model: nn.Module, example_input: Tensor) -> int:
    """Bytes alive at once in a forward pass in eval mode without gradients: input and activations, not parameters.

    On CUDA it is what the allocator says (``max_memory_allocated`` over what was allocated before, plus the input), the
    kernels' workspaces included. Elsewhere it is the sum of the tensors that torch's operators made and that were
    still alive; what a kernel needs inside itself is not seen.

    Parameters
    ----------
    model : nn.Module
        Left as it was found.
    example_input : Tensor (n, ...)
        The batch that is run.

    Raises
    ------
    InputError
        If the network doesn't take ``example_input``.
    """
    check_batch(model, example_input)
    device = device_of(model)
    batch = batch_of(example_input, len(example_input), device)
    if device.type != "cuda":
        with evaluated(model), torch.no_grad(), _Live(batch) as live:
            forward(model, batch)
        return live.peak
    with evaluated(model), torch.no_grad():
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        forward(model, batch)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before + batch.nbytes


class _Live(TorchDispatchMode):
    """Sums the bytes of storages that operators make and that are not freed yet; ``peak`` is the largest sum."""

    def __init__(self, batch: Tensor) -> None:
        super().__init__()
        self.bytes = batch.untyped_storage().nbytes()
        self.known = weakref.WeakSet([batch.untyped_storage()])
        self.peak = self.bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {leaf.untyped_storage() for leaf in _dense(args, kwargs)}  # parameters, and what is known
        result = func(*args, **(kwargs or {}))
        for tensor in _dense(result):
            storage = tensor.untyped_storage()
            if storage not in given and storage not in self.known:
                self.known.add(storage)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.bytes)
        return result

    def _freed(self, size: int) -> None:
        self.bytes -= size


def _dense(*trees: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
