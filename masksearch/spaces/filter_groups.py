"""Groups of channels that are removed together: which positions of which tensors each unit takes with it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from masksearch.spaces.coupling import FIXED, Coupling, Leaf

__all__ = ["Family", "Groups", "Run", "groups_of"]


@dataclass(frozen=True, eq=False)
class Run:
    """One dimension of a parameter or buffer, and the unit that takes each of its positions away."""

    tensor: str
    dim: int
    units: np.ndarray  # int64 (size of the dimension,); FIXED: nothing takes it away

    @cached_property
    def index(self) -> Tensor:
        """``units`` as a tensor, FIXED as the index one past the last unit would be in a padded mask: -1."""
        return torch.from_numpy(self.units)

    def kept(self, bits: Tensor) -> Tensor:
        """Bool (size of the dimension,): the positions that a mask (n_units,) leaves."""
        return torch.cat([bits, bits.new_ones(1)])[self.index]  # -1 reads the one at the end


@dataclass(frozen=True)
class Family:
    """A layer of the space: units that take positions of the very same dimensions, equally many of each."""

    name: str  # of the first layer that makes these channels
    shape: tuple[int, ...]  # of that layer's weight
    size: int  # units


@dataclass(frozen=True, eq=False)
class Groups:
    """All units of a network, numbered family by family.

    Because units of a family take equally many positions of each dimension, sizes of a pruned network, and so its
    parameters and MACs, follow from the number of units that each family keeps.
    """

    families: tuple[Family, ...]
    runs: tuple[Run, ...]
    filters: tuple[tuple[str, int], ...]  # (weight, dimension) of every layer that makes removable channels
    left_out: tuple[tuple[str, str], ...]  # (layer, why some or all of the channels it makes are no units)
    shapes: dict[str, tuple[int, ...]]  # of every parameter and buffer of the network
    parameters: frozenset[str]
    macs: dict[str, int]  # per image, by the weight that they shrink with
    other_macs: int  # per image, the same under every mask

    @property
    def n_units(self) -> int:
        """Number of units."""
        return sum(family.size for family in self.families)

    @cached_property
    def slices(self) -> list[slice]:
        """The units of every family."""
        stops = np.cumsum([family.size for family in self.families]).tolist()
        return [slice(stop - family.size, stop) for family, stop in zip(self.families, stops, strict=True)]

    @cached_property
    def by_tensor(self) -> dict[str, list[Run]]:
        """The runs of every tensor that has some."""
        tensors: dict[str, list[Run]] = {}
        for run in self.runs:
            tensors.setdefault(run.tensor, []).append(run)
        return tensors

    def kept_entries(self, bits: Tensor) -> dict[str, Tensor]:
        """By parameter name, bool of its shape: the entries that stay."""
        masks: dict[str, Tensor] = {}
        for name, runs in self.by_tensor.items():
            if name in self.parameters:
                mask = torch.ones(self.shapes[name], dtype=torch.bool)
                for run in runs:
                    mask &= run.kept(bits).view([-1 if dim == run.dim else 1 for dim in range(mask.ndim)])
                masks[name] = mask
        return masks

    def without(self, families: Iterable[int], reason: str) -> "Groups":
        """The same groups less some families, which are listed as left out for ``reason``."""
        gone = set(families)
        number = np.full(self.n_units + 1, FIXED)  # the last entry: FIXED stays FIXED
        stays = [unit for i, part in enumerate(self.slices) if i not in gone for unit in range(part.start, part.stop)]
        number[stays] = np.arange(len(stays))
        runs = [replace(run, units=number[run.units]) for run in self.runs]
        return replace(
            self,
            families=tuple(family for i, family in enumerate(self.families) if i not in gone),
            runs=tuple(run for run in runs if (run.units != FIXED).any()),
            left_out=(*self.left_out, *((self.families[i].name, reason) for i in sorted(gone))),
        )


def groups_of(model: nn.Module, coupling: Coupling) -> Groups:
    """Classes of tied labels as groups of channels."""
    classes, reasons = coupling.classes()
    for leaf in coupling.leaves:
        mine = classes[leaf.labels]
        if (mine == mine[0]).all():
            reasons.setdefault(int(mine[0]), f"all channels of {_layer(leaf.tensor)} depend on one another")
    home: dict[int, tuple[int, int]] = {}  # class -> (its first producer, its position there)
    for number, producer in enumerate(coupling.producers):
        for position, one in enumerate(classes[producer.labels].tolist()):
            if one not in reasons:
                home.setdefault(one, (number, position))
    takes = _taken(coupling.leaves, classes)
    by_family: dict[tuple[int, bytes], list[int]] = {}
    for one, (number, _) in sorted(home.items(), key=lambda item: item[1]):
        by_family.setdefault((number, takes[one]), []).append(one)
    unit = np.full(classes.max(initial=-1) + 1, FIXED)
    unit[[one for members in by_family.values() for one in members]] = np.arange(len(home))
    runs = [Run(leaf.tensor, leaf.dim, unit[classes[leaf.labels]]) for leaf in coupling.leaves]
    tensors = (*model.named_parameters(), *model.named_buffers())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors}
    made = [(producer.tensor, producer.dim) for producer in coupling.producers]
    return Groups(
        families=tuple(_families([(made[number][0], len(m)) for (number, _), m in by_family.items()], shapes)),
        runs=tuple(run for run in runs if (run.units != FIXED).any()),
        filters=tuple(made),
        left_out=(*_left_out(coupling.producers, classes, reasons), *coupling.unfollowed),
        shapes=shapes,
        parameters=frozenset(name for name, _ in model.named_parameters()),
        macs=dict(coupling.macs),
        other_macs=coupling.other_macs,
    )


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _taken(leaves: list[Leaf], classes: np.ndarray) -> list[bytes]:
    """Per class, how many positions of which dimensions it holds, as bytes that are equal exactly for equal counts."""
    rows = np.concatenate([classes[leaf.labels] for leaf in leaves])
    columns = np.repeat(np.arange(len(leaves)), [len(leaf.labels) for leaf in leaves])
    counts = csr_array((np.ones(len(rows), int), (rows, columns)), shape=(classes.max() + 1, len(leaves)))
    counts.sum_duplicates()
    return [counts.indices[a:b].tobytes() + b"|" + counts.data[a:b].tobytes() for a, b in pairwise(counts.indptr)]


def _families(members: list[tuple[str, int]], shapes: dict[str, tuple[int, ...]]) -> list[Family]:
    """Families by their first layer; a layer that starts several gets numbers, from the second on."""
    seen: dict[str, int] = {}
    families = []
    for weight, size in members:
        seen[weight] = seen.get(weight, 0) + 1
        name = _layer(weight) if seen[weight] == 1 else f"{_layer(weight)}#{seen[weight]}"
        families.append(Family(name, shapes[weight], size))
    return families


def _left_out(producers: list[Leaf], classes: np.ndarray, reasons: dict[int, str]) -> list[tuple[str, str]]:
    left_out = []
    for producer in producers:
        mine = classes[producer.labels].tolist()
        why = [reasons[one] for one in mine if one in reasons]
        if why:
            share = "" if len(why) == len(mine) else f"{len(why)} of {len(mine)} channels: "
            left_out.append((_layer(producer.tensor), share + why[0]))
    return left_out
