"""Peak memory of a network's forward pass."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from masksearch.utils.forward_passes import batch_of, check_batch, device_of, evaluated, forward
from masksearch.utils.nested import Nested, tensors_of


def peak_memory(model: nn.Module, example_input: Nested) -> int:
    """Return the peak bytes of inputs and activations in a network's forward pass, in eval mode without gradients.

    On CUDA the bytes come from the allocator (increase of
    ``max_memory_allocated``, plus the input), workspaces of kernels included. Elsewhere they are the sum of the live
    tensors that torch's operators made, without workspaces.

    Parameters
    ----------
    model : nn.Module
        It does not change.
    example_input : Tensor (n, ...), or a tuple or dict of such tensors
        The batch of the forward pass.

    Raises
    ------
    InputError
        If the network can't process ``example_input``.
    """
    check_batch(model, example_input)
    device = device_of(model)
    batch = batch_of(example_input, None, device)
    if device.type != "cuda":
        with evaluated(model), torch.no_grad(), _LiveStorages(batch) as live:
            forward(model, batch)
        return live.peak
    with evaluated(model), torch.no_grad():
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        forward(model, batch)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before + sum(tensor.nbytes for tensor in tensors_of(batch))


class _LiveStorages(TorchDispatchMode):
    """Count the bytes of storages that operators made and that are not freed; ``peak`` is the maximum."""

    def __init__(self, batch: Nested) -> None:
        super().__init__()
        self.counted = weakref.WeakSet(tensor.untyped_storage() for tensor in tensors_of(batch))
        self.bytes = sum(storage.nbytes() for storage in self.counted)
        self.peak = self.bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        inputs = {leaf.untyped_storage() for leaf in _dense(args, kwargs)}
        result = func(*args, **(kwargs or {}))
        for tensor in _dense(result):
            storage = tensor.untyped_storage()
            if storage not in inputs and storage not in self.counted:
                self.counted.add(storage)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.bytes)
        return result

    def _freed(self, size: int) -> None:
        self.bytes -= size


def _dense(*trees: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
