"""Numerical proof of a filter space: masked and pruned networks give equal outputs, or a family is left out.

The coupling rules describe operations, not the Python code of ``forward``, which may use sizes as constants or keep
tensors of its own. So every family is tested on a float64 copy of the network with random weights. The copy's weights
are drawn anew for every comparison, and the masked network overwrites them: one copy is enough for large networks.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.spaces.filter_cut import cut
from masksearch.spaces.filter_groups import Groups
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import torch_generator

__all__ = ["prove", "scratch_copy"]

_TOLERANCE = 1e-9  # of the outputs' standard deviation, in float64


def scratch_copy(model: nn.Module) -> nn.Module:
    """A float64 copy of ``model`` on the CPU, in eval mode, with zeros for weights.

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
        return copy.deepcopy(model, zeros).cpu().double().eval()
    except Exception as error:
        raise InputError(f"model: {type(model).__name__} can't be copied: {_first_line(error)}") from None


def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter and every normalisation statistic at random, away from zero.

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


def prove(model: nn.Module, groups: Groups, image: Tensor) -> Groups:
    """Compare masked and pruned outputs of ``model``, and leave out the families that make them differ.

    A random mask and its complement remove every unit once. If one fails, bisection finds the families that fail alone;
    they are left out, and the remaining families are tested again.

    Parameters
    ----------
    model : nn.Module
        A :func:`scratch_copy`: its weights are drawn anew for every comparison.
    image : float64 tensor
        A batch of one.

    Returns
    -------
    Groups
        ``groups``, without the families that fail.

    Raises
    ------
    InputError
        If the remaining families fail together.
    """
    generator = torch_generator(0, "filter proof")
    n = max(1, min(8, 30_000 // image.numel()))  # several small images: small networks have dead outputs
    images = image.repeat(n, *[1] * (image.ndim - 1))
    if image.is_floating_point():
        images = torch.randn(images.shape, dtype=images.dtype, generator=generator)
    failing, reason = _failing(model, groups, range(len(groups.families)), images, generator)
    if failing:
        groups = groups.without(failing, f"their pruned network is not equal to the masked one ({reason})")
        if groups.families and (again := _difference(model, groups, range(len(groups.families)), images, generator)):
            raise InputError(f"model: {type(model).__name__} can't be pruned: {again}, whatever layers are left out")
    return groups


def _failing(
    model: nn.Module, groups: Groups, families: Sequence[int], images: Tensor, generator: torch.Generator
) -> tuple[list[int], str]:
    """The families that fail alone, found by bisection, and the reason of the first; no families and "" if none."""
    reason = _difference(model, groups, families, images, generator) if families else ""
    if not reason:
        return [], ""
    if len(families) == 1:
        return list(families), reason
    middle = len(families) // 2
    halves = [_failing(model, groups, half, images, generator) for half in (families[:middle], families[middle:])]
    return [*halves[0][0], *halves[1][0]], halves[0][1] or halves[1][1] or reason


def _difference(
    model: nn.Module, groups: Groups, families: Sequence[int], images: Tensor, generator: torch.Generator
) -> str:
    """How the masked and the pruned network differ under masks of ``families``; "" if they are equal."""
    for number, bits in enumerate(_masks(groups, families, generator)):
        _randomise(model, generator)
        try:
            with torch.no_grad():
                small = cut(model, groups, bits)
                pruned = small(images)
        except Exception as error:  # a user's forward may raise anything if it can't run at this size
            return f"it stops with {_first_line(error)!r}"
        masked = _masked_output(model, groups, bits, images)
        if pruned.shape != masked.shape:
            return f"outputs have shape {tuple(pruned.shape)} and not {tuple(masked.shape)}"
        spread = float(masked.std() if masked.numel() > 1 else masked.abs())
        gap = float((masked - pruned).abs().max())
        if not gap <= _TOLERANCE * spread or spread == 0:  # constant outputs prove nothing
            return f"outputs differ by {gap:.2g} at a standard deviation of {spread:.2g}"
        if number == 0 and (stops := _training_error(model, small, images)):
            return stops
    return ""


def _masks(groups: Groups, families: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
    """A random mask and its complement; families of one unit keep it in both, and lose it in a mask each."""
    mask = _random_mask(groups, families, generator)
    complement = mask.clone()
    for number in families:
        if groups.families[number].size > 1:
            complement[groups.slices[number]] ^= True
    yield from (mask, complement)
    for number in families:
        if groups.families[number].size == 1:
            without = torch.ones(groups.n_units, dtype=torch.bool)
            without[groups.slices[number]] = False
            if all(run.kept(without).any() for run in groups.runs):
                yield without


def _random_mask(groups: Groups, families: Sequence[int], generator: torch.Generator) -> Tensor:
    """A third to two thirds of every family; shares differ, because equal ones could hide swapped families."""
    bits = torch.ones(groups.n_units, dtype=torch.bool)
    for number in families:
        size = groups.families[number].size
        share = 1 / 3 + float(torch.rand((), generator=generator)) / 3
        kept = min(max(round(share * size), 1), max(size - 1, 1))
        bits[groups.slices[number]] = torch.randperm(size, generator=generator) < kept
    return bits


def _masked_output(model: nn.Module, groups: Groups, bits: Tensor, images: Tensor) -> Tensor:
    """The outputs after zeroing in place what ``bits`` removes."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for run in groups.runs:
            if run.tensor in parameters:
                parameters[run.tensor].index_fill_(run.dim, (~run.kept(bits)).nonzero().flatten(), 0)
        return model(images)


def _training_error(model: nn.Module, pruned: nn.Module, images: Tensor) -> str:
    """The error of ``pruned`` in training mode (in an auxiliary head, say) if ``model`` has none there; else ""."""
    images = images[:1].repeat(2, *[1] * (images.ndim - 1))  # batch statistics need two images
    with torch.no_grad():
        try:
            pruned.train()(images)
        except Exception as error:
            try:
                model.train()(images)
            except Exception:  # the full network fails, too: the error has nothing to do with pruning
                return ""
            finally:
                model.eval()
            return f"in training it stops with {_first_line(error)!r}"
    return ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0][:160]
