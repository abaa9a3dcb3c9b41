"""Numerical test of residual branches: which zero parameters switch them off, and whether removal does the same.

Weights are random and float64, as in the proof of filter spaces. A branch whose own last parameters don't make it zero,
or without which the network stops or has other outputs, is left out.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, count
from math import comb

import torch
from torch import nn

from masksearch.spaces.block_branches import Branch
from masksearch.spaces.block_removal import replacements_of, with_replacements
from masksearch.spaces.float64_comparison import random_inputs, randomise, training_error, unequal
from masksearch.spaces.operation_graph import Graph, operations_of
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import named_first_line
from masksearch.utils.nested import Nested, call_model, map_tensors, output_tensors
from masksearch.utils.seeds import torch_generator

NOT_IN_MODULES = (
    "other parts (an output, a cache) read its tensors, or code outside of modules computes with its weights"
)
_LAST = 3  # layers of a branch that may have to be zero for its output to be zero


def zeroed_parameters(
    model: nn.Module, graph: Graph, branches: Sequence[Branch], inputs: Nested
) -> dict[str, tuple[str, ...]]:
    """Return {branch: its last parameters} for those residual branches that zeros in these parameters switch off.

    Parameters
    ----------
    model : nn.Module
        A scratch copy; its weights are drawn anew.
    """
    generator = torch_generator(0, "block proof")
    inputs = map_tensors(lambda x: torch.randn(x.shape, dtype=x.dtype) if x.is_floating_point() else x, inputs)
    zeroed: dict[str, tuple[str, ...]] = {}
    open_ = list(branches)
    for n_layers in range(1, _LAST + 1):
        names = {branch.name: _last(branch, n_layers) for branch in open_}
        randomise(model, generator)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name in {name for chosen in names.values() for name in chosen}:
                parameters[name].zero_()
        zero = operations_of(copy_network(model), inputs, {branch.end for branch in open_}).zero
        zeroed |= {branch.name: names[branch.name] for branch in open_ if branch.end in zero}
        open_ = [branch for branch in open_ if branch.end not in zero]
        if not open_:
            break
    return zeroed


def _last(branch: Branch, n_layers: int) -> tuple[str, ...]:
    """Return the parameters of the last layers of a branch."""
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name in reversed(branch.parameters)))[:n_layers]
    return tuple(name for name in branch.parameters if name.rpartition(".")[0] in owners)


def prove_blocks(
    model: nn.Module, graph: Graph, branches: Sequence[Branch], zeroed: Mapping[str, tuple[str, ...]], inputs: Nested
) -> tuple[dict[str, bool], dict[str, str]]:
    """Check with random weights that removing residual branches gives the same outputs as zeroing their parameters.

    Returns
    -------
    dict, dict
        {branch: whether its zeros need the shape of their input} for branches that pass, {branch: reason} for others.
    """
    generator = torch_generator(0, "block proof", "masks")
    images = random_inputs(inputs, 4, generator)
    randomise(model, generator)

    def difference(removed: Sequence[Branch], full: Mapping[str, bool], training: bool = False) -> str:
        replacements = replacements_of(graph, removed, full)
        if replacements is None:
            return NOT_IN_MODULES
        try:
            with torch.no_grad():
                gone = [name for branch in removed for name in branch.parameters]
                small = with_replacements(model, replacements, gone)
                pruned = output_tensors(call_model(small, images))
        except Exception as error:  # a user's forward may raise anything on zeros of another shape
            return f"without it the network stops with {named_first_line(error)!r}"
        whole = copy_network(model)  # a run may leave tensors in its copy
        parameters = dict(whole.named_parameters())
        with torch.no_grad():
            for branch in removed:
                for name in zeroed[branch.name]:
                    parameters[name].zero_()
            masked = output_tensors(call_model(whole, images))
        return unequal(masked, pruned) or (training_error(whole, small, images) if training else "")

    passing: dict[str, bool] = {}
    reasons: dict[str, str] = {}

    def settle(group: Sequence[Branch]) -> None:
        """Test by bisection, and store per branch, whether removal gives the same outputs as zeroed parameters."""
        if not group:
            return
        for full in (False, True):
            if not (reason := difference(group, dict.fromkeys((branch.name for branch in group), full), True)):
                passing.update(dict.fromkeys((branch.name for branch in group), full))
                return
            if len(group) == 1:
                reasons.setdefault(group[0].name, reason)
        if len(group) > 1:
            settle(group[: len(group) // 2])
            settle(group[len(group) // 2 :])

    settle(branches[::2])  # attentions and MLPs of transformers apart
    settle(branches[1::2])
    good = [branch for branch in branches if branch.name in passing]
    # All together; then every branch is removed once while any other one stays.
    for some in (good, *_separating(good)):
        if some and (reason := difference(some, passing)):
            return {}, {branch.name: f"removed with others, {reason}" for branch in branches}
    return passing, {name: reason for name, reason in reasons.items() if name not in passing}


def _separating(branches: Sequence[Branch]) -> list[list[Branch]]:
    """Return few sets of branches such that, for every two branches, one set has the first and not the second.

    A Sperner family: each branch is a member of another choice of half of the sets.
    """
    n_sets = next(n for n in count(1) if comb(n, n // 2) >= len(branches))
    members: list[list[Branch]] = [[] for _ in range(n_sets)]
    for branch, places in zip(branches, combinations(range(n_sets), n_sets // 2), strict=False):
        for place in places:
            members[place].append(branch)
    return members
