"""Attributes of modules that hold a number of channels, as ``self.c`` in ``x.split((self.c, self.c))``.

A pruned network that calls ``view`` or ``split`` with the old number stops. While the network runs once, every number
in an attribute of the running modules that equals the size of a result's dimension is a candidate. The proof of the
filter space sets candidates in the pruned copy, where a family of units fails without, and keeps those that make it run
with the outputs of the masked network.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from typing import Any

import numpy as np
from torch import nn

from masksearch.spaces.aten_call import Call
from masksearch.spaces.coupling_labels import FIXED, Coupling, UnitPositions

_SIZED = frozenset(
    ["expand", "new_empty", "reshape_alias", "split", "split_with_sizes", "unsafe_split", "unsafe_view", "view"]
)
_MOST_SUBSETS = 40  # that are tried for one family of units


@dataclass(frozen=True, eq=False)
class SizeAttribute(UnitPositions):
    """Attribute of a module that holds a number of channels, with the units to which these channels belong."""

    module: str
    attribute: str
    index: int | None  # in the attribute, if it is a tuple or list
    units: np.ndarray  # int64 (old number,); FIXED: a position that always stays

    @property
    def place(self) -> tuple[str, str, int | None]:
        """Return where the number of channels is stored: (module, attribute, index in a tuple or list or None)."""
        return self.module, self.attribute, self.index


def note_sizes(coupling: Coupling, call: Call) -> None:
    """Record the modules' attributes that equal a size of an operation's result: the size may come from them."""
    if call.name not in _SIZED:
        return
    numbers = [(name, *found) for name, module in call.running for found in _numbers(module)]
    for result in call.outputs:
        for size, labels in zip(result.shape, coupling.labels(result), strict=True):
            if labels is not None and (labels != FIXED).any():
                for module, attribute, index, value in numbers:
                    if value == size:
                        coupling.sizes.append((module, attribute, index, labels))


def holds_sizes(call: Call, sizes: Sequence[int]) -> bool:
    """Return whether each of these sizes is the value of an attribute of a module that runs the operation."""
    values = {value for _, module in call.running for *_, value in _numbers(module)}
    return all(size in values for size in sizes)


def _numbers(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    """(attribute, index, value) of every int in attributes of a module, and in tuples and lists that they hold."""
    for name, value in vars(module).items():
        if _is_number(value):
            yield name, None, value
        elif isinstance(value, tuple | list):
            yield from ((name, index, item) for index, item in enumerate(value) if _is_number(item))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def attribute_subsets(candidates: Sequence[SizeAttribute], family: slice) -> Iterator[tuple[SizeAttribute, ...]]:
    """Yield sets of attributes, small ones first, whose change could make the channels of a layer removable."""
    own: dict[tuple[object, ...], SizeAttribute] = {}
    for candidate in candidates:
        if candidate.within(family).any():
            own.setdefault((*candidate.place, candidate.units.tobytes()), candidate)
    subsets = chain.from_iterable(combinations(own.values(), size) for size in range(1, len(own) + 1))
    several = (subset for subset in subsets if len({candidate.place for candidate in subset}) == len(subset))
    yield from islice(several, _MOST_SUBSETS)


def set_attributes(model: nn.Module, numbers: Iterable[tuple[str, str, int | None, int]]) -> None:
    """Set sizes in attributes of modules, in place, given as (module, attribute, index or None, new number).

    Raises a ValueError for an attribute that has no whole number, or no whole numbers, and for another new number.
    """
    for name, attribute, index, number in numbers:
        module = model.get_submodule(name)
        old: Any = getattr(module, attribute)
        kinds: Any = int if index is None else (list, tuple)
        if type(number) is not int or not isinstance(old, kinds):
            raise ValueError(f"{name}.{attribute}: {number!r}; it has {old!r}")
        value: Any = number
        if index is not None:
            value = type(old)([*old[:index], number, *old[index + 1 :]])
        setattr(module, attribute, value)
