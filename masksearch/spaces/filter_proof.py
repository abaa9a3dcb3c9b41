"""Numerical test of a filter space: masked and physically pruned networks must give equal outputs.

The coupling rules describe operations, not the Python code of ``forward``, which may use sizes as constants or keep
tensors of its own. So every family (layer of the space) is tested on a float64 copy of the network with random weights;
families that fail are left out. The copy's weights are drawn anew for every comparison, and the masked network
overwrites them: one copy is enough for large networks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.spaces.filter_cut import cut
from masksearch.spaces.filter_groups import Groups
from masksearch.spaces.head_sizes import ViewSize, find_sizes
from masksearch.spaces.kept_norms import norms_over, remove_norm_hooks
from masksearch.spaces.size_attributes import SizeAttribute, attribute_subsets
from masksearch.utils.copies import copy_network, empty_caches
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model, map_tensors, output_tensors, tensors_of
from masksearch.utils.seeds import torch_generator

__all__ = ["prove", "scratch_copy"]

_HINT = "; where forward has a number of channels as a constant, write -1, flatten(1) or the size of a tensor"
_TOLERANCE = 1e-9  # of the outputs' standard deviation, in float64


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
        raise InputError(f"model: {type(model).__name__} can't be copied: {_first_line(error)}") from None
    remove_norm_hooks(copied)
    return copied


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


def prove(model: nn.Module, groups: Groups, branches: Sequence[Nested]) -> Groups:
    """Test that masked and pruned networks give equal outputs; return the channel groups that pass the test.

    A family is a layer of the filter space. A random mask and its complement remove every unit once. If one fails,
    bisection finds the families that fail alone; they are left out, and the remaining families are tested again.

    Parameters
    ----------
    model : nn.Module
        A :func:`scratch_copy`: its weights are drawn anew for every comparison.
    branches : sequence of float64 or integer tensors, or of tuples or dicts of such tensors
        Batches of one. The first is the example, of which the shapes count; each of the others takes another branch.

    Raises
    ------
    InputError
        If the remaining families fail together.
    """
    generator = torch_generator(0, "filter proof")
    inputs = branches[0]
    # Several small inputs: small networks have dead outputs.
    n = max(1, min(8, 30_000 // sum(tensor.numel() for tensor in tensors_of(inputs))))

    def batch(tensor: Tensor) -> Tensor:
        tensor = _repeated(tensor, n)
        return (
            torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator) if tensor.is_floating_point() else tensor
        )

    images = [map_tensors(batch, inputs), *branches[1:]]

    def differs(groups: Groups, families: Sequence[int] | None = None) -> str:
        return _difference(model, groups, families or range(len(groups.families)), images, generator)

    groups, without_sizes = find_sizes(model, groups, differs)
    for number, why in sorted(without_sizes.items(), reverse=True):
        groups = groups.without([number], why)
    failing, reason = _failing(model, groups, range(len(groups.families)), images, generator)
    if not failing:
        return groups
    found = {family: sizes for family in failing if (sizes := _sizes_for(groups, family, differs))}
    left_out = f"their pruned network is not equal to the masked one ({reason})"
    for rescued in (found, {}) if found else ({},):
        every = [size for sizes in rescued.values() for size in sizes]
        attributes = {size.place: size for size in every if isinstance(size, SizeAttribute)}
        views = {(size.module, size.attribute): size for size in every if isinstance(size, ViewSize)}
        head_sizes = (*groups.head_sizes, *views.values())
        rest = replace(groups, sizes=tuple(attributes.values()), head_sizes=head_sizes)
        rest = rest.without(set(failing) - set(rescued), left_out)
        again = differs(rest) if rest.families else ""
        if not again:
            return rest
    raise InputError(
        f"model: {type(model).__name__} can't be pruned exactly: {again}, even without layers that fail alone"
    )


def _sizes_for(
    groups: Groups, family: int, differs: Callable[[Groups, Sequence[int]], str]
) -> tuple[SizeAttribute | ViewSize, ...]:
    """Return the numbers in attributes or views with which the pruned network of a family runs; () if none do."""
    for sizes in attribute_subsets(groups.size_candidates, groups.slices[family]):
        if not differs(replace(groups, sizes=sizes), [family]):
            return sizes
    part = groups.slices[family]
    views = [size for size in groups.view_sizes if size.maps]
    maps = tuple(size for size in views if ((size.units >= part.start) & (size.units < part.stop)).any())
    if maps and not differs(replace(groups, head_sizes=(*groups.head_sizes, *maps)), [family]):
        return maps
    return ()


def _failing(
    model: nn.Module, groups: Groups, families: Sequence[int], images: Sequence[Nested], generator: torch.Generator
) -> tuple[list[int], str]:
    """Return the families that fail alone, found by bisection, and the reason of the first; [] and "" if none."""
    reason = _difference(model, groups, families, images, generator) if families else ""
    if not reason:
        return [], ""
    if len(families) == 1:
        return list(families), reason
    middle = len(families) // 2
    halves = [_failing(model, groups, half, images, generator) for half in (families[:middle], families[middle:])]
    return [*halves[0][0], *halves[1][0]], halves[0][1] or halves[1][1] or reason


def _difference(
    model: nn.Module, groups: Groups, families: Sequence[int], images: Sequence[Nested], generator: torch.Generator
) -> str:
    """Return how masked and pruned networks differ under masks of these families; "" if they are equal."""
    for number, bits in enumerate(_masks(groups, families, generator)):
        _randomise(model, generator)
        empty_caches(model)
        try:
            with torch.no_grad():
                small = cut(model, groups, bits)
                pruned = [output for each in images for output in output_tensors(call_model(small, each))]
        except Exception as error:  # a user's forward may raise anything if it can't run at this size
            hint = _HINT if isinstance(error, RuntimeError) else ""
            return f"it stops with {_first_line(error)!r}{hint}"
        if differs := _unequal(_masked_outputs(model, groups, bits, images), pruned):
            return differs
        if number == 0 and (stops := _training_error(model, small, images[0])):
            return stops
        del small  # before the next copy is made
    return ""


def _unequal(masked: Sequence[Tensor], pruned: Sequence[Tensor]) -> str:
    """How two lists of outputs differ; "" if they are equal. Constant outputs prove nothing, so one must vary."""
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


def _repeated(tensor: Tensor, n: int) -> Tensor:
    return tensor.repeat(n, *[1] * (tensor.ndim - 1))


def _masks(groups: Groups, families: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
    """Yield a random mask and its complement, then, for each family of one unit, a mask without that unit.

    The first two masks keep the units of families of one unit.
    """
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
    """Return a mask that keeps a random third to two thirds of every family.

    Shares differ between families, because equal shares could hide swapped families.
    """
    bits = torch.ones(groups.n_units, dtype=torch.bool)
    for number in families:
        size = groups.families[number].size
        share = 1 / 3 + float(torch.rand((), generator=generator)) / 3
        kept = min(max(round(share * size), 1), max(size - 1, 1))
        bits[groups.slices[number]] = torch.randperm(size, generator=generator) < kept
    return bits


def _masked_outputs(model: nn.Module, groups: Groups, bits: Tensor, images: Sequence[Nested]) -> list[Tensor]:
    """The outputs after zeroing in place what ``bits`` removes."""
    parameters = dict(model.named_parameters())
    with torch.no_grad(), norms_over(model, groups.kept_in_norms(bits)):
        for run in groups.runs:
            if run.tensor in parameters:
                parameters[run.tensor].index_fill_(run.dim, (~run.kept(bits)).nonzero().flatten(), 0)
        return [output for each in images for output in output_tensors(call_model(model, each))]


def _training_error(model: nn.Module, pruned: nn.Module, images: Nested) -> str:
    """The error of ``pruned`` in training mode (in an auxiliary head, say) if ``model`` has none there; else ""."""
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
            return f"in training it stops with {_first_line(error)!r}"
    return ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0][:160]
