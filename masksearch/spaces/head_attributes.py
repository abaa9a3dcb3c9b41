"""Integers in a network's modules that shrink with attention heads: ``num_heads``, ``all_head_size``, ``split_size``.

A forward pass may take its number of heads from an attribute. Candidates are the attributes of the module that splits
the heads, and of its ``config``, that equal a number of heads or of heads times positions. The numbers that make the
pruned network run and equal to the masked one are kept in the space; each pruned copy gets its own. Where no such
numbers exist, the sizes in calls of views are changed, see :mod:`masksearch.spaces.view_sizes`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from masksearch.spaces.coupling_labels import UnitPositions
from masksearch.spaces.view_sizes import Shares, fit_calls

if TYPE_CHECKING:
    from masksearch.spaces.filter_groups import Groups

_TRIES = 40  # sets of attributes per kind of module, of which each is proved by running
_WIDTHS = ("embed_dim", "d_model", "dim", "hidden_size")  # mostly the width of the residual stream, which stays
_VIEW = "view "
_RECORD = "_pruned_sizes"  # attribute of a pruned network: {module: {attribute: number}}
Sizes = Mapping[
    str, Mapping[str, Any]
]  # {module: {attribute: value, or "view reshape3#1.2": [size that stays, full size]}}


@dataclass(frozen=True, eq=False)
class HeadAxis(UnitPositions):
    """Axis of attention heads in the result of a module's ``view``, such as the first of (heads, head_dim)."""

    owner: str  # name of the module
    sizes: tuple[int, ...]  # of all axes of the view
    axis: int  # which of them is that of the heads
    units: np.ndarray  # int64 (heads,), unit number of every head; FIXED: no unit

    @property
    def amounts(self) -> set[int]:
        """Return sizes that shrink if heads are pruned: products of neighbouring axes that include the heads' axis."""
        amounts: set[int] = set()
        for start in range(len(self.sizes)):
            for stop, amount in enumerate(accumulate(self.sizes[start:], mul), start + 1):
                if start <= self.axis < stop:
                    amounts.add(amount)
        return amounts - {1}


@dataclass(frozen=True, eq=False)
class HeadAttribute(UnitPositions):
    """Integer attribute of a module, such as ``num_heads``, that is proportional to the number of kept heads."""

    module: str
    attribute: str  # "num_heads", or "config.num_heads"
    units: np.ndarray  # int64 (heads,), as those of a HeadAxis


@dataclass(frozen=True, eq=False)
class ViewSize(UnitPositions):
    """Size in a call of ``view`` or ``reshape`` that is proportional to the number of kept attention heads."""

    module: str
    call: str  # name of the call, see :class:`~masksearch.spaces.view_sizes.ViewCall`
    dim: int
    units: np.ndarray  # int64 (size of the dimension,)
    maps: bool = False  # as in ViewCall

    @property
    def attribute(self) -> str:
        """Key of the size, such as ``"view reshape3#1.2"``: dimension 2 of the second ``reshape`` to 3 dimensions."""
        return f"{_VIEW}{self.call}.{self.dim}"


def pruned_sizes(model: nn.Module, groups: "Groups", bits: Tensor) -> Sizes:
    """Return {module: {attribute: value}} for the sizes that change if the mask ``bits`` prunes attention heads."""
    sizes: dict[str, dict[str, Any]] = copy.deepcopy(getattr(model, _RECORD, {}))
    for size in groups.head_sizes:
        values, kept = sizes.setdefault(size.module, {}), size.n_kept(bits)
        if isinstance(size, ViewSize):
            _, full = values.get(size.attribute, (0, len(size.units)))
            values[size.attribute] = [kept, full]
        else:
            values[size.attribute] = _get(model.get_submodule(size.module), size.attribute) * kept // len(size.units)
    return sizes


def set_sizes(model: nn.Module, sizes: Sizes) -> None:
    """Set sizes in modules, given as {module: {attribute: value}}; a config object is copied before it changes."""
    for name, values in sizes.items():
        module = model.get_submodule(name)
        shares: Shares = {}
        for attribute, value in values.items():
            if attribute.startswith(_VIEW):
                call, _, dim = attribute.removeprefix(_VIEW).rpartition(".")
                shares.setdefault(call, {})[int(dim)] = tuple(value)
                continue
            owner: Any = module
            if attribute.startswith("config."):
                module.config = owner = copy.copy(module.config)
            setattr(owner, attribute.rpartition(".")[2], value)
        if shares:
            fit_calls(module, shares)
    if sizes:
        vars(model)[_RECORD] = {name: dict(values) for name, values in sizes.items()}


def _get(module: nn.Module, attribute: str) -> Any:
    owner: Any = module
    for part in attribute.split("."):
        owner = getattr(owner, part)
    return owner


def find_sizes(
    model: nn.Module, groups: "Groups", difference: Callable[["Groups", Sequence[int]], str]
) -> tuple["Groups", dict[int, str]]:
    """Find sizes that shrink with attention heads; return ``groups`` with these sizes, and {layer number: failure}.

    Parameters
    ----------
    difference : callable
        ``difference(groups, families)`` says how masked and pruned networks differ; "" if they are equal.
    """
    axes = {number: _head_axes(model, groups, number) for number in range(len(groups.families))}
    numbers = [number for number, found in axes.items() if found]
    if not numbers:
        return groups, {}
    candidates = {number: list(_candidates(model, axes[number])) for number in numbers}
    every = [size for number in numbers for size in candidates[number]]
    for sizes in ([size for size in every if size.attribute not in _WIDTHS], every):
        if not difference(fitted := replace(groups, head_sizes=tuple(sizes)), numbers):
            return fitted, {}
    # Families of the same kinds of modules shrink the same attributes.
    chosen: dict[frozenset[Kind], frozenset[Kind] | None] = {}
    taken: list[HeadAttribute | ViewSize] = []
    failed: dict[int, str] = {}

    def kind(size: HeadAttribute | ViewSize) -> Kind:
        return type(model.get_submodule(size.module)), size.attribute

    for number in numbers:
        calls = _calls(groups, number, {axis.owner for axis in axes[number]})
        attributes, views = frozenset(map(kind, candidates[number])), frozenset(map(kind, calls))
        kinds = attributes | views
        if kinds not in chosen:
            chosen[kinds] = next(
                (
                    tried
                    for tried in (*_subsets(attributes), views)
                    if not difference(
                        replace(groups, head_sizes=_of_kinds([*candidates[number], *calls], tried, kind)), [number]
                    )
                ),
                None,
            )
        if (found := chosen[kinds]) is None:
            names = ", ".join(sorted({attribute for _, attribute in attributes})) or "an attribute"
            failed[number] = (
                f"no change of {names} makes the network without some heads run and equal to the masked one"
            )
        else:
            taken += _of_kinds([*candidates[number], *calls], found, kind)
    return replace(groups, head_sizes=tuple(taken)), failed


Kind = tuple[type, str]  # class of a module, name of a number


def _of_kinds(
    sizes: Sequence[HeadAttribute | ViewSize],
    kinds: frozenset[Kind],
    kind: Callable[[HeadAttribute | ViewSize], Kind],
) -> tuple[HeadAttribute | ViewSize, ...]:
    return tuple(size for size in sizes if kind(size) in kinds)


def _subsets(kinds: frozenset[Kind]) -> Iterator[frozenset[Kind]]:
    """Yield all sets of attributes, the largest first, at most ``_TRIES`` and the empty one."""
    ordered = sorted(kinds, key=lambda kind: (kind[1], kind[0].__name__))
    sets = [frozenset(each) for size in range(len(ordered), 0, -1) for each in combinations(ordered, size)]
    without = [each for each in sets if not any(attribute in _WIDTHS for _, attribute in each)]
    yield from dict.fromkeys([*without, *sets][:_TRIES])
    yield frozenset()


def _head_axes(model: nn.Module, groups: "Groups", family: int) -> list[HeadAxis]:
    """Return the axes of a family's heads, without those of ``nn.MultiheadAttention``, whose copy needs no numbers."""
    part = groups.slices[family]
    return [
        axis
        for axis in groups.head_axes
        if axis.within(part).any() and not isinstance(model.get_submodule(axis.owner), nn.MultiheadAttention)
    ]


def _calls(groups: "Groups", family: int, owners: set[str]) -> list[ViewSize]:
    part = groups.slices[family]
    return [size for size in groups.view_sizes if size.module in owners and size.within(part).any()]


def _candidates(model: nn.Module, axes: Sequence[HeadAxis]) -> Iterator[HeadAttribute]:
    found: set[tuple[str, str]] = set()
    for axis in axes:
        module = model.get_submodule(axis.owner)
        owned = dict(vars(module))
        config = owned.get("config")
        names = [name for name in vars(config) if "head" in name] if hasattr(config, "__dict__") else []
        owned |= {f"config.{name}": getattr(config, name) for name in names}
        for name, value in owned.items():
            of_one_head = "head" in name and ("dim" in name or "size" in name) and "all" not in name
            new = type(value) is int and value in axis.amounts and (axis.owner, name) not in found
            if new and not of_one_head:
                found.add((axis.owner, name))
                yield HeadAttribute(axis.owner, name, axis.units)
