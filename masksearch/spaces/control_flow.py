"""Inputs for which a network's forward pass takes other branches, such as ``if x.mean() > 0``."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from masksearch.utils.nested import Nested, call_model, map_tensors, tensors_of

_OF_TORCH = frozenset(vars(nn.Module()))


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Context manager that undoes what forward passes store in the attributes of modules, such as tensors.

    Parameters, buffers and modules stay as the block leaves them.
    """
    kept = {
        module: {
            name: copy.copy(value) if isinstance(value, dict | list) else value
            for name, value in vars(module).items()
            if name not in _OF_TORCH
        }
        for module in model.modules()
    }
    try:
        yield
    finally:
        for module, attributes in kept.items():
            vars(module).update(attributes)
            for name in vars(module).keys() - attributes.keys() - _OF_TORCH:
                del vars(module)[name]


class _Recorder(TorchDispatchMode):
    """List the operations of a forward pass, with the shapes of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[tuple[OpOverload, tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.path.append((func, tuple(result.shape) if isinstance(result, Tensor) else ()))
        return result


def with_branches(model: nn.Module, inputs: Nested) -> Sequence[Nested]:
    """Return the inputs, and also all-positive and all-negative ones if these make the network run other operations.

    Only floating-point inputs are varied. A network that stops with them has no such branch.
    """
    if not any(tensor.is_floating_point() for tensor in tensors_of(inputs)):
        return [inputs]
    generator = torch.Generator().manual_seed(0)

    def positive(tensor: Tensor) -> Tensor:
        drawn = torch.rand(tensor.shape, dtype=torch.float64, generator=generator) + 0.1
        return drawn.to(tensor.dtype) if tensor.is_floating_point() else tensor

    def negative(tensor: Tensor) -> Tensor:
        return -positive(tensor) if tensor.is_floating_point() else tensor

    found, paths = [], []
    for tried in (inputs, map_tensors(positive, inputs), map_tensors(negative, inputs)):
        recorder = _Recorder()
        try:
            with torch.no_grad(), attributes_restored(model), recorder:
                call_model(model, tried)
        except Exception:  # any exception of a user's forward; the trace reports that of the example itself
            continue
        if recorder.path not in paths:
            paths.append(recorder.path)
            found.append(tried)
    return found or [inputs]
