"""Copies, examples and comparisons in float64, by which spaces test that masked and pruned networks are equal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.spaces.masked_norms import remove_norm_hooks
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError, named_first_line
from masksearch.utils.nested import Nested, as_nested, call_model, describe, map_tensors, tensors_of

_TOLERANCE = 1e-9  # of the outputs' standard deviation


@contextmanager
def float64_defaults() -> Iterator[None]:
    """Context manager in which new tensors are float64; at its end, the global random state is as before."""
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # for tensors that a forward pass makes
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(default)


def first_example(example_input: Nested) -> Nested:
    """Return the first example of a batch, as a batch of one; floating-point tensors become float64.

    Raises
    ------
    InputError
        If the batch is no tensor, tuple or dict of tensors, or has sizes of 0.
    """

    def first(tensor: Tensor) -> Tensor:
        one = tensor[:1].clone()
        return one.double() if one.is_floating_point() else one

    inputs = map_tensors(first, as_nested(example_input, "example_input"))
    if any(not tensor.numel() for tensor in tensors_of(inputs)):
        raise InputError(
            f"example_input: {describe(inputs)} has sizes of 0; a batch (n, ...) with n at least 1 is needed"
        )
    return inputs


def refused_example(model: nn.Module, inputs: Nested, error: Exception) -> InputError:
    """Return the InputError that says why a network fails on the example ``inputs``, which is given in float64."""
    return InputError(
        f"example_input: {type(model).__name__} doesn't take one example of {describe(inputs)} "
        f"({named_first_line(error)}); floating-point inputs are converted to float64 for the proof"
    )


def random_inputs(example: Nested, most: int, generator: torch.Generator) -> Nested:
    """Return a batch of normally distributed inputs, shaped like one example; its integers are repeated, not drawn.

    It has at most ``most`` examples and fewer of large ones, since small networks have dead outputs for some inputs.
    Without floating-point inputs it has one example: repeated, the outputs of a network of one output would not vary.
    """
    tensors = tensors_of(example)
    drawn = any(tensor.is_floating_point() for tensor in tensors)
    n = max(1, min(most, 30_000 // sum(tensor.numel() for tensor in tensors))) if drawn else 1

    def batch(tensor: Tensor) -> Tensor:
        shape = (n, *tensor.shape[1:])
        if tensor.is_floating_point():
            return torch.randn(shape, dtype=tensor.dtype, generator=generator)
        return _repeated(tensor, n)

    return map_tensors(batch, example)


def scratch_copy(model: nn.Module) -> nn.Module:
    """Return a float64 copy of a network on the CPU, in eval mode, with all parameters zero.

    Raises
    ------
    InputError
        If the model can't be copied.
    """
    zeros: dict[int, Any] = {}  # as deepcopy's memo: these replace the parameters, whose values are not needed
    for parameter in model.parameters():
        if parameter.is_floating_point():
            zeros[id(parameter)] = nn.Parameter(torch.zeros(parameter.shape, dtype=torch.float64))
    try:
        copied = copy_network(model, zeros).cpu().double().eval()
    except Exception as error:
        raise InputError(f"model: {type(model).__name__} can't be copied: {named_first_line(error)}") from None
    remove_norm_hooks(copied)
    return copied


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Set all parameters and normalisation statistics of a network to random values that are not close to zero.

    A zero-initialised head, a layer scale of 1e-6 or a fresh BatchNorm would hide errors in wrong channels.
    Matrices and kernels get a variance of 2 / fan-in (He et al. 2015, eq. 10), scales and biases lie in +-[0.5, 1.5].
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > max(parameter.shape, default=1):
                fan_in = parameter[0].numel()
                bound = (6 / fan_in) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.uniform_(-0.5, 0.5, generator=generator)
                parameter.add_(parameter.sign())
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.5, 0.5, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)


def unequal(masked: Sequence[Tensor], pruned: Sequence[Tensor]) -> str:
    """Return how two lists of outputs differ, in words; "" if they are equal and not constant."""
    if len(masked) != len(pruned):
        return f"there are {len(pruned)} output tensors and not {len(masked)}"
    varies, widest = False, 0.0
    for full, small in zip(masked, pruned, strict=True):
        if full.shape != small.shape:
            return f"outputs have shape {tuple(small.shape)} and not {tuple(full.shape)}"
        if not full.numel():
            continue
        if not (full.is_floating_point() and small.is_floating_point()):
            if not torch.equal(full, small):
                return "integer outputs differ"
            continue
        spread = float(full.std() if full.numel() > 1 else full.abs())
        gap = float((full - small).abs().max())
        if not gap <= _TOLERANCE * spread:
            return f"outputs differ by {gap:.2g} at a standard deviation of {spread:.2g}"
        varies, widest = varies or spread > 0, max(widest, gap)
    return "" if varies else f"outputs differ by {widest:.2g} at a standard deviation of 0"


def training_error(model: nn.Module, pruned: nn.Module, images: Nested) -> str:
    """Return the error of a pruned network in training mode; "" if there is none or the unpruned network fails, too."""
    images = map_tensors(lambda tensor: _repeated(tensor[:1], 2), images)  # batch statistics need two inputs
    with torch.no_grad():
        try:
            call_model(pruned.train(), images)
        except Exception as error:
            try:
                call_model(model.train(), images)
            except Exception:  # the full network fails, too: the error has nothing to do with pruning
                return ""
            finally:
                model.eval()
            return f"in training it stops with {named_first_line(error)!r}"
    return ""


def _repeated(tensor: Tensor, n: int) -> Tensor:
    return tensor.repeat(n, *[1] * (tensor.ndim - 1))
