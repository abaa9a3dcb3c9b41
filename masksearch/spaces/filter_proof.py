"""Numerical test of a filter space: masked and physically pruned networks must give equal outputs.

The coupling rules describe operations, not the Python code of ``forward``, which may use sizes as constants or keep
tensors of its own. So every family (layer of the space) is tested on a float64 copy of the network with random weights;
families that fail are left out. The copy's weights are drawn anew for every comparison, and the masked network
overwrites them: one copy is enough for large networks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from masksearch.spaces.channel_attributes import SizeAttribute, attribute_subsets
from masksearch.spaces.filter_cut import cut
from masksearch.spaces.filter_groups import Groups
from masksearch.spaces.float64_comparison import random_inputs, randomise, training_error, unequal
from masksearch.spaces.head_attributes import ViewSize, find_sizes
from masksearch.spaces.masked_norms import norms_over
from masksearch.utils.copies import empty_caches
from masksearch.utils.errors import InputError, named_first_line
from masksearch.utils.nested import Nested, call_model, output_tensors
from masksearch.utils.seeds import torch_generator

_HINT = "; where forward has a number of channels as a constant, write -1, flatten(1) or the size of a tensor"


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
    images = [random_inputs(branches[0], 8, generator), *branches[1:]]

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
        f"model: {type(model).__name__} can't be pruned: its pruned and masked networks give other outputs ({again})"
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
    maps = tuple(size for size in views if size.within(part).any())
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
        randomise(model, generator)
        empty_caches(model)
        try:
            with torch.no_grad():
                small = cut(model, groups, bits)
                pruned = [output for each in images for output in output_tensors(call_model(small, each))]
        except Exception as error:  # a user's forward may raise anything if it can't run at this size
            hint = _HINT if isinstance(error, RuntimeError) else ""
            return f"it stops with {named_first_line(error)!r}{hint}"
        if differs := unequal(_masked_outputs(model, groups, bits, images), pruned):
            return differs
        if number == 0 and (stops := training_error(model, small, images[0])):
            return stops
        del small  # before the next copy is made
    return ""


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
