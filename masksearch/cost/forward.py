"""A forward pass that leaves the network as it was found, and says in one line why an input doesn't fit."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.utils.errors import InputError

__all__ = ["batch_of", "check_batch", "copied", "device_of", "evaluated", "forward", "watched"]


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter or buffer is; the CPU if it has none."""
    tensors = (tensor for group in (model.parameters(), model.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def check_batch(model: nn.Module, example_input: object) -> None:
    """Refuse, before anything runs, what is no batch and networks whose sizes are not known yet.

    Raises
    ------
    InputError
        Unless ``example_input`` is a tensor (n, ...) with n at least 1 and the parameters of ``model`` have shapes.
    """
    name = type(model).__name__
    if not isinstance(example_input, Tensor):
        raise InputError(f"example_input: a {type(example_input).__name__}; {name} needs one tensor, a batch of inputs")
    if example_input.ndim < 1 or not example_input.numel():
        raise InputError(f"example_input: shape {tuple(example_input.shape)}; a batch (n, ...) is needed, n at least 1")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(f"model: {name} has lazy layers without sizes; run it once on a batch, then give it")


def batch_of(example_input: Tensor, size: int, device: torch.device) -> Tensor:
    """``size`` inputs (size, ...) on ``device``: those of the example, over and over."""
    rows = torch.arange(size, device=example_input.device) % len(example_input)
    return example_input.detach()[rows].to(device)


@contextmanager
def evaluated(model: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode; on leaving, modes, attributes, buffers and the global random state are the old ones.

    Attributes, because some are set at every forward pass: ``torch.nn.utils.prune`` leaves the masked weight there.
    """
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    registered = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    values = {buffer: buffer.clone() for _, own in registered for buffer in own.values() if buffer is not None}
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield model.eval()
        finally:
            for now, before in (*attributes, *registered):
                now.clear()
                now.update(before)
            with torch.no_grad():
                for buffer, value in values.items():
                    buffer.copy_(value)


def copied(model: nn.Module, instead: Mapping[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A copy with other modules ``instead`` of some, also where a hook computed a weight, which deepcopy refuses."""
    memo: dict[int, Any] = {id(module): other for module, other in (instead or {}).items()}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def forward(model: nn.Module, batch: Tensor) -> Any:
    """The network's outputs.

    Raises
    ------
    InputError
        If the network doesn't take this one tensor; the message quotes why.
    """
    try:
        return model(batch)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        dtype = str(batch.dtype).removeprefix("torch.")
        raise InputError(
            f"example_input: {type(model).__name__} doesn't take one {dtype} batch of shape {tuple(batch.shape)} "
            f"({reason})"
        ) from error


@contextmanager
def watched(model: nn.Module, enter: Callable[[str], None], leave: Callable[[str], None]) -> Iterator[None]:
    """Call ``enter`` and ``leave`` with the name of every module (the network's own is "") around its forward pass."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda *_, name=name: enter(name), prepend=True)
            after = module.register_forward_hook(lambda *_, name=name: leave(name))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield
