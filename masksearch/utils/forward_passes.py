"""Forward passes without side effects on the network: checks of inputs, eval mode, copies, temporary hooks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError, first_line
from masksearch.utils.nested import Nested, as_nested, call_model, describe, n_examples, take, tensors_of, to_device


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer; the CPU if there is none."""
    tensors = (tensor for group in (model.parameters(), model.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def check_batch(model: nn.Module, example_input: object) -> None:
    """Raise an :class:`InputError` for an empty example batch, or for a network with uninitialised (lazy) parameters.

    Raises
    ------
    InputError
        Unless ``example_input`` is a tensor (n, ...), or a tuple or dict of such tensors, with n at least 1, and the
        parameters of ``model`` have shapes.
    """
    name = type(model).__name__
    for tensor in tensors_of(as_nested(example_input, "example_input")):
        if not tensor.numel():
            raise InputError(f"example_input: shape {tuple(tensor.shape)}; a batch (n, ...) is needed, n at least 1")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(f"model: {name} has lazy layers without sizes; run it once on a batch first")


def batch_of(example_input: Nested, size: int | None, device: torch.device) -> Any:
    """Return a batch of ``size`` inputs on ``device``, made by repeating the inputs of an example batch.

    None: as many inputs as the example batch has.
    """
    example = as_nested(example_input, "example_input")
    n = n_examples(example)
    return to_device(take(example, torch.arange(n if size is None else size) % n), device)


@contextmanager
def evaluated(model: nn.Module) -> Iterator[nn.Module]:
    """Context manager that sets a network to eval mode, and at its end restores modes, buffers and the random state.

    Attributes are restored, too, because ``torch.nn.utils.prune`` sets the masked weight at every forward pass.
    """
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    registered = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    values = {buffer: buffer.clone() for _, buffers in registered for buffer in buffers.values() if buffer is not None}
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
    """Return a copy of a network in which each module that is a key of ``instead`` is replaced by the key's value.

    Computed weights (by a parametrization or a hook), which deepcopy refuses, are detached.
    """
    return copy_network(model, {id(module): replacement for module, replacement in (instead or {}).items()})


def forward(model: nn.Module, batch: Nested) -> Any:
    """Run a network on a batch of inputs and return the outputs; if the network fails, raise an InputError.

    Raises
    ------
    InputError
        If the network can't process the batch; the message quotes the error.
    """
    try:
        return call_model(model, batch)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError) as error:
        raise InputError(
            f"example_input: {type(model).__name__} doesn't take a batch of {n_examples(batch)} inputs "
            f"{describe(batch)} ({first_line(error)})"
        ) from error


@contextmanager
def with_hooks(model: nn.Module, enter: Callable[[str], None], leave: Callable[[str], None]) -> Iterator[None]:
    """Context manager that calls ``enter(name)`` before, and ``leave(name)`` after, each module's forward pass.

    The name of the network itself is "".
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda *_, name=name: enter(name), prepend=True)
            after = module.register_forward_hook(lambda *_, name=name: leave(name))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield
