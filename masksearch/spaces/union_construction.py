"""Union of the block and filter spaces of a network, and the test that pruned networks equal masked ones."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from masksearch.spaces.base_space import NetworkSpace, unwrapped
from masksearch.spaces.block_mask_space import BlockSpace
from masksearch.spaces.filter_mask_space import FilterSpace
from masksearch.spaces.float64_comparison import (
    first_example,
    float64_defaults,
    random_inputs,
    randomise,
    scratch_copy,
    unequal,
)
from masksearch.spaces.union_mask_space import UnionSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError, named_first_line
from masksearch.utils.nested import Nested, call_model, output_tensors
from masksearch.utils.seeds import torch_generator

_DENSITIES = (0.8, 0.5, 0.3)  # of the random masks that are tested


def union_space(
    *spaces: NetworkSpace, model: nn.Module | None = None, example_input: Nested | None = None
) -> UnionSpace:
    """Return the space of masks that prune whole residual blocks and channels of one network.

    One density, in units, parameters or MACs, holds for all units together, so that a search decides what to give up.
    Channels, heads and neurons within a removed block count as removed.

    Parameters
    ----------
    spaces : BlockSpace, FilterSpace
        One of each, in any order, of the same network. All kinds of channels (filters, heads, neurons) are units of one
        filter space.
    model, example_input : nn.Module; Tensor, tuple or dict of tensors, optional
        The network and its example. With both, outputs of masked and pruned copies are compared in float64, with random
        weights, for random masks of blocks and channels; blocks that fail are left out (``space.left_out``). Without,
        only the comparisons of the two spaces hold.

    Raises
    ------
    InputError
        If the spaces are not one block space and one filter space of the same network, if only one of ``model`` and
        ``example_input`` is given, or if masked and pruned networks differ without any single block as the reason.
    """
    blocks, filters = _pair(spaces)
    space = UnionSpace(blocks, filters)
    if model is None and example_input is None:
        return space
    if model is None or example_input is None:
        given = "model" if example_input is None else "example_input"
        raise InputError(f"{given}: given alone; the comparison of masked and pruned needs model and example_input")
    inputs = first_example(example_input)
    with float64_defaults():
        return _proved(space, partial(_difference, scratch_copy(unwrapped(model)), inputs))


def _pair(spaces: tuple[NetworkSpace, ...]) -> tuple[BlockSpace, FilterSpace]:
    kinds = [type(space).__name__ for space in spaces]
    for space in spaces:
        if not isinstance(space, BlockSpace | FilterSpace):
            raise InputError(
                f"spaces: a {type(space).__name__}; a union has blocks and filters, whose removal saves MACs: give a "
                "block space and a filter space"
            )
    blocks = [space for space in spaces if isinstance(space, BlockSpace)]
    filters = [space for space in spaces if isinstance(space, FilterSpace)]
    if len(blocks) != 1 or len(filters) != 1:
        raise InputError(
            f"spaces: {', '.join(kinds) or 'none'}; give one block space and one filter space, whose include= and "
            "exclude= choose its layers"
        )
    if blocks[0].shapes != filters[0].shapes:
        raise InputError(
            f"spaces: {blocks[0].describe()} and {filters[0].describe()} are of networks with other parameters; give "
            "two spaces of one network"
        )
    return blocks[0], filters[0]


def _proved(space: UnionSpace, difference: Callable[[UnionSpace], str]) -> UnionSpace:
    """Return the space without the blocks whose removal beside that of channels changes outputs."""
    if not (reason := difference(space)):
        return space
    names = [block.name for block in space.blocks.blocks]
    failed = []
    for name in names:
        others = [other for other in names if other != name]
        if difference(UnionSpace(space.blocks.without(others, ""), space.filters)):
            failed.append(name)
    if failed and len(failed) < len(names):
        blocks = space.blocks.without(
            failed, "removed beside channels, outputs differ from those of the masked network"
        )
        if not difference(smaller := UnionSpace(blocks, space.filters)):
            return smaller
    raise InputError(f"spaces: removed together, blocks and channels give other outputs than masked ones ({reason})")


def _difference(model: nn.Module, inputs: Nested, space: UnionSpace) -> str:
    """Say how outputs of masked and pruned copies of a float64 network differ for random masks; "" if they don't."""
    generator = torch_generator(0, "union proof")
    examples = random_inputs(inputs, 4, generator)
    randomise(model, generator)
    for density in _DENSITIES:
        least = int(space.limits.lowest[space.needed].sum()) + 1
        mask = space.random(max(density, least / space.n_units), generator=generator)
        try:
            with torch.no_grad():
                pruned = output_tensors(call_model(space.without_units(model, mask), examples))
        except Exception as error:  # a user's forward may raise anything on tensors of other sizes
            return f"a pruned network stops with {named_first_line(error)!r}"
        with torch.no_grad(), space.applied(scratch := copy_network(model), mask):
            masked = output_tensors(call_model(scratch, examples))
        if reason := unequal(masked, pruned):
            return reason
    return ""
