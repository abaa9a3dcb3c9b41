"""Groups of channels that are removed together, the units of a filter space, and where tensors have them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from masksearch.spaces.channel_attributes import SizeAttribute
from masksearch.spaces.coupling_labels import FIXED, Coupling, Leaf, UnitPositions
from masksearch.spaces.head_attributes import HeadAttribute, HeadAxis, ViewSize


@dataclass(frozen=True, eq=False)
class Run(UnitPositions):
    """Positions along one dimension of a tensor, with the unit (group of channels removed together) of each.

    A unit is a group of channels that are removed together.
    """

    tensor: str
    dim: int
    units: np.ndarray  # int64 (size of the dimension,); FIXED: no unit, the position always stays


@dataclass(frozen=True)
class Family:
    """One layer of a filter mask space: its name, the shape of its weight, and its number of units.

    A unit is a group of channels that are removed together; units of a layer have equally many channels in the same
    tensors.
    """

    name: str  # of the first layer that makes these channels
    shape: tuple[int, ...]  # of that layer's weight
    size: int  # units


@dataclass(frozen=True, eq=False)
class Groups:
    """All units of a network (groups of channels that are removed together), with their positions in tensors.

    Units are numbered family by family. Because those of a family have equally many positions along each dimension, the
    parameters and MACs of a pruned network follow from the number of units that each family keeps.
    """

    families: tuple[Family, ...]
    runs: tuple[Run, ...]
    filters: tuple[tuple[str, int], ...]  # (weight, dimension) of every layer that makes removable channels
    left_out: tuple[tuple[str, str], ...]  # (layer, reason why some or all of its channels can't be removed)
    shapes: dict[str, tuple[int, ...]]  # of every parameter and buffer of the network
    parameters: frozenset[str]  # names; the other tensors are buffers
    macs: dict[str, int]  # weight -> MACs per input, which are in proportion to its kept entries
    other_macs: int  # per input, the same under every mask
    norms: tuple[tuple[str, int], ...] = ()  # (module that normalises over kept channels, their dimension, negative)
    sizes: tuple[SizeAttribute, ...] = ()  # numbers of channels in attributes, which a pruned copy gets anew
    size_candidates: tuple[SizeAttribute, ...] = ()  # numbers in attributes that equal a number of channels
    # (unit numbers along dimensions, heads for example; MACs in proportion to what each dimension keeps)
    products: tuple[tuple[tuple[np.ndarray, ...], int], ...] = ()
    head_axes: tuple[HeadAxis, ...] = ()  # of views in forward passes
    view_sizes: tuple[ViewSize, ...] = ()  # sizes in calls of forward passes
    head_sizes: tuple[HeadAttribute | ViewSize, ...] = ()  # numbers of heads that a pruned network changes

    @property
    def n_units(self) -> int:
        """Return the number of units (groups of channels removed together) of all layers."""
        return sum(family.size for family in self.families)

    @cached_property
    def slices(self) -> list[slice]:
        """Return a slice for each layer, in order, that selects the layer's units."""
        stops = np.cumsum([family.size for family in self.families]).tolist()
        return [slice(stop - family.size, stop) for family, stop in zip(self.families, stops, strict=True)]

    @cached_property
    def by_tensor(self) -> dict[str, list[Run]]:
        """Return {tensor name: unit numbers along each prunable dimension}, for tensors that masks make smaller."""
        tensors: dict[str, list[Run]] = {}
        for run in self.runs:
            tensors.setdefault(run.tensor, []).append(run)
        return tensors

    def kept_entries(self, bits: Tensor) -> dict[str, Tensor]:
        """Return {parameter name: bool tensor, True = kept} under the mask ``bits``, a bool tensor (n_units,)."""
        masks: dict[str, Tensor] = {}
        for name, runs in self.by_tensor.items():
            if name in self.parameters:
                mask = torch.ones(self.shapes[name], dtype=torch.bool)
                for run in runs:
                    mask &= run.kept(bits).view([-1 if dim == run.dim else 1 for dim in range(mask.ndim)])
                masks[name] = mask
        return masks

    def norm_runs(self) -> dict[str, tuple[Run, int]]:
        """Return {norm: (unit numbers of its channels, channel dimension)}, for norms with removable channels."""
        runs = {_layer(run.tensor): run for run in self.runs}
        return {module: (runs[module], dim) for module, dim in self.norms if module in runs}

    def kept_in_norms(self, bits: Tensor) -> dict[str, tuple[Tensor, int]]:
        """Return {norm: (indices of kept channels, channel dimension)}, for the norms that a mask makes smaller."""
        kept = {module: (run.kept(bits), dim) for module, (run, dim) in self.norm_runs().items()}
        return {module: (bits.nonzero().flatten(), dim) for module, (bits, dim) in kept.items() if not bits.all()}

    def without(self, families: Iterable[int], reason: str) -> "Groups":
        """Return a copy of these groups without some layers; its ``left_out`` lists these layers with ``reason``."""
        removed = set(families)
        number = np.full(self.n_units + 1, FIXED)  # new numbers of units; the last entry maps FIXED to FIXED
        stays = [
            unit for i, part in enumerate(self.slices) if i not in removed for unit in range(part.start, part.stop)
        ]
        number[stays] = np.arange(len(stays))
        runs = [replace(run, units=number[run.units]) for run in self.runs]

        def renumbered(sizes: tuple[SizeAttribute, ...]) -> tuple[SizeAttribute, ...]:
            new = [replace(size, units=number[size.units]) for size in sizes]
            return tuple(size for size in new if (size.units != FIXED).any())

        return replace(
            self,
            sizes=renumbered(self.sizes),
            size_candidates=renumbered(self.size_candidates),
            families=tuple(family for i, family in enumerate(self.families) if i not in removed),
            runs=tuple(run for run in runs if (run.units != FIXED).any()),
            products=tuple((tuple(number[units] for units in along), macs) for along, macs in self.products),
            head_axes=tuple(replace(axis, units=number[axis.units]) for axis in self.head_axes),
            view_sizes=tuple(replace(size, units=number[size.units]) for size in self.view_sizes),
            head_sizes=tuple(
                replace(size, units=units) for size in self.head_sizes if ((units := number[size.units]) != FIXED).any()
            ),
            left_out=(*self.left_out, *((self.families[i].name, reason) for i in sorted(removed))),
        )


def groups_of(model: nn.Module, coupling: Coupling) -> Groups:
    """Return the groups of channels that must be removed together, from the trace of a network.

    Parameters
    ----------
    model : nn.Module
        The traced network; names and shapes of its tensors are read.
    coupling : Coupling
        The trace of :func:`~masksearch.spaces.coupling_trace.trace`.
    """
    # A class that holds a whole dimension can't be removed: the layer would be empty.
    classes, reasons = coupling.classes()
    for leaf in coupling.leaves:
        leaf_classes = classes[leaf.labels]
        if (leaf_classes == leaf_classes[0]).all():
            reasons.setdefault(int(leaf_classes[0]), f"all channels of {_layer(leaf.tensor)} depend on one another")

    # A class that no layer makes (of image channels, for example) is no unit: no zero weights could mask it. The
    # first layer that makes a class gives it its number and its family's name, so that units follow the layers' order.
    origin: dict[int, tuple[int, int]] = {}  # class -> (its first producer, its position there)
    for number, producer in enumerate(coupling.producers):
        for position, label_class in enumerate(classes[producer.labels].tolist()):
            if label_class not in reasons:
                origin.setdefault(label_class, (number, position))

    # Classes of one producer form one family only if they hold equally many positions of the same dimensions.
    signatures = _signatures(coupling.leaves, classes)
    by_family: dict[tuple[int, bytes], list[int]] = {}
    for label_class, (number, _) in sorted(origin.items(), key=lambda item: item[1]):
        by_family.setdefault((number, signatures[label_class]), []).append(label_class)
    unit = np.full(classes.max(initial=-1) + 1, FIXED)
    unit[[label_class for members in by_family.values() for label_class in members]] = np.arange(len(origin))
    runs = [Run(leaf.tensor, leaf.dim, unit[classes[leaf.labels]]) for leaf in coupling.leaves]
    candidates = [
        SizeAttribute(module, attribute, index, np.where(labels == FIXED, FIXED, unit[classes[labels]]))
        for module, attribute, index, labels in coupling.sizes
    ]
    tensors = (*model.named_parameters(), *model.named_buffers())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors}
    unit = np.append(unit, FIXED)  # the last entry is the unit of the label FIXED
    classes = np.append(classes, len(unit) - 1)
    made = [(producer.tensor, producer.dim) for producer in coupling.producers]
    return Groups(
        families=tuple(_families([(made[number][0], len(m)) for (number, _), m in by_family.items()], shapes)),
        runs=tuple(run for run in runs if (run.units != FIXED).any()),
        filters=tuple(made),
        left_out=(*_left_out(coupling, classes, reasons), *coupling.unmaskable),
        shapes=shapes,
        parameters=frozenset(name for name, _ in model.named_parameters()),
        macs=dict(coupling.macs),
        other_macs=coupling.other_macs,
        norms=tuple(dict.fromkeys(coupling.norms)),
        size_candidates=tuple(candidate for candidate in candidates if (candidate.units != FIXED).any()),
        products=tuple((tuple(unit[classes[labels]] for labels in along), macs) for along, macs in coupling.products),
        head_axes=tuple(
            HeadAxis(split.owner, split.sizes, split.axis, units)
            for split in coupling.splits
            if split.axis < len(split.sizes) - 1 and ((units := unit[classes[split.labels]]) != FIXED).any()
        ),
        view_sizes=tuple(
            ViewSize(call.owner, call.call, call.dim, units, call.maps)
            for call in coupling.calls
            if ((units := unit[classes[call.labels]]) != FIXED).any()
        ),
    )


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _signatures(leaves: list[Leaf], classes: np.ndarray) -> list[bytes]:
    """Return, for every class, the numbers of its positions in every dimension as bytes, for comparison."""
    rows = np.concatenate([classes[leaf.labels] for leaf in leaves])
    columns = np.repeat(np.arange(len(leaves)), [len(leaf.labels) for leaf in leaves])
    counts = csr_array((np.ones(len(rows), int), (rows, columns)), shape=(classes.max() + 1, len(leaves)))
    counts.sum_duplicates()
    return [counts.indices[a:b].tobytes() + b"|" + counts.data[a:b].tobytes() for a, b in pairwise(counts.indptr)]


def _families(members: list[tuple[str, int]], shapes: dict[str, tuple[int, ...]]) -> list[Family]:
    """Return families named after their first layer; further families of a layer get numbers, ``name#2``."""
    counts: dict[str, int] = {}
    families = []
    for weight, size in members:
        layer = _layer(weight)
        counts[layer] = counts.get(layer, 0) + 1
        name = layer if counts[layer] == 1 else f"{layer}#{counts[layer]}"
        families.append(Family(name, shapes[weight], size))
    return families


def _left_out(coupling: Coupling, classes: np.ndarray, reasons: dict[int, str]) -> list[tuple[str, str]]:
    left_out = []
    for producer in coupling.producers:
        made = classes[producer.labels].tolist()
        fixed = [reasons[label_class] for label_class in made if label_class in reasons]
        if fixed:
            share = "" if len(fixed) == len(made) else f"{len(fixed)} of {len(made)} channels: "
            note = f"{coupling.notes[producer.tensor]}; " if producer.tensor in coupling.notes else ""
            left_out.append((_layer(producer.tensor), share + note + fixed[0]))
    return list(dict.fromkeys(left_out))  # gates and directions of a recurrent layer have the same reason
