"""Numerical test of residual branches: which parameters make them zero, and whether removal equals zeroing.

Weights are random and float64, as in the proof of filter spaces. A branch whose own last parameters don't make it zero,
or without which the network stops or has other outputs, is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from masksearch.spaces.block_branches import Branch
from masksearch.spaces.block_removal import replacements_of, with_replacements
from masksearch.spaces.block_trace import Graph
from masksearch.spaces.filter_proof import _first_line, _randomise, _training_error, _unequal
from masksearch.utils.nested import Nested, call_model, map_tensors, output_tensors, tensors_of
from masksearch.utils.seeds import torch_generator

__all__ = ["prove_blocks", "zeroed_parameters"]

_LAST = 3  # layers of a branch that may have to be zero for its output to be zero


class _ZeroProbe(TorchDispatchMode):
    """Record which of some operations, by number, have a result that is zero everywhere."""

    def __init__(self, places: set[int]) -> None:
        super().__init__()
        self.places, self.number, self.zero = places, 0, set[int]()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.number in self.places:
            tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if tensors and not tensors[0].detach().count_nonzero():
                self.zero.add(self.number)
        self.number += 1
        return result


def zeroed_parameters(
    model: nn.Module, graph: Graph, branches: Sequence[Branch], inputs: Nested
) -> dict[str, tuple[str, ...]]:
    """Return {branch: its last parameters, which make its output zero when they are zero}, for branches that have some.

    Parameters
    ----------
    model : nn.Module
        A scratch copy; its weights are drawn anew.
    inputs : float64 or integer tensor, or a tuple or dict of such tensors
        The batch of the trace.
    """
    generator = torch_generator(0, "block proof")
    inputs = map_tensors(lambda x: torch.randn(x.shape, dtype=x.dtype) if x.is_floating_point() else x, inputs)
    zeroed: dict[str, tuple[str, ...]] = {}
    open_ = list(branches)
    for n_layers in range(1, _LAST + 1):
        names = {branch.name: _last(branch, n_layers) for branch in open_}
        _randomise(model, generator)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name in {name for chosen in names.values() for name in chosen}:
                parameters[name].zero_()
        probe = _ZeroProbe({branch.end for branch in open_})
        with torch.enable_grad(), probe:
            call_model(model, inputs)
        zeroed |= {branch.name: names[branch.name] for branch in open_ if branch.end in probe.zero}
        open_ = [branch for branch in open_ if branch.end not in probe.zero]
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
    """Test that networks without branches equal those with zeroed branches.

    Returns
    -------
    dict, dict
        {branch: whether its zeros need the shape of their input} for branches that pass, {branch: reason} for others.
    """
    generator = torch_generator(0, "block proof", "masks")
    n = max(1, min(4, 30_000 // sum(tensor.numel() for tensor in tensors_of(inputs))))

    def batch(x: Tensor) -> Tensor:
        x = x.repeat(n, *[1] * (x.ndim - 1))
        return torch.randn(x.shape, dtype=x.dtype, generator=generator) if x.is_floating_point() else x

    images = map_tensors(batch, inputs)

    def difference(removed: Sequence[Branch], full: Mapping[str, bool]) -> str:
        _randomise(model, generator)
        replacements = replacements_of(graph, removed, full)
        if replacements is None:
            return "code outside of modules computes with its parameters"
        try:
            with torch.no_grad():
                small = with_replacements(model, replacements)
                pruned = output_tensors(call_model(small, images))
        except Exception as error:  # a user's forward may raise anything on zeros of another shape
            return f"without it the network stops with {_first_line(error)!r}"
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for branch in removed:
                for name in zeroed[branch.name]:
                    parameters[name].zero_()
            masked = output_tensors(call_model(model, images))
        return _unequal(masked, pruned) or _training_error(model, small, images)

    passing: dict[str, bool] = {}
    reasons: dict[str, str] = {}

    def settle(group: Sequence[Branch]) -> None:
        """Find the form of zeros of every branch of a group, by bisection."""
        if not group:
            return
        for full in (False, True):
            if not (reason := difference(group, dict.fromkeys((branch.name for branch in group), full))):
                passing.update(dict.fromkeys((branch.name for branch in group), full))
                return
            if len(group) == 1:
                reasons.setdefault(group[0].name, reason)
        if len(group) > 1:
            settle(group[: len(group) // 2])
            settle(group[len(group) // 2 :])

    # Branches of one block must also be removable without each other.
    settle(branches[::2])
    settle(branches[1::2])
    good = [branch for branch in branches if branch.name in passing]
    if good and (reason := difference(good, passing)):
        for branch in good:
            reasons[branch.name] = f"with all other branches removed, {reason}"
        return {}, reasons
    for number in range(3):  # random sets of branches
        some = [branch for branch in good if torch.rand((), generator=generator) < (0.5, 0.3, 0.7)[number]]
        if some and (reason := difference(some, passing)):
            for branch in good:
                reasons[branch.name] = f"with other branches removed, {reason}"
            return {}, reasons
    return passing, {name: reason for name, reason in reasons.items() if name not in passing}
