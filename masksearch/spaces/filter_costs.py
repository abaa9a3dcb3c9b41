"""Parameters and MACs of physically pruned networks, from the numbers of kept channels, without pruning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from masksearch.spaces.coupling_labels import FIXED
from masksearch.spaces.filter_groups import Groups


@dataclass(frozen=True)
class Part:
    """Cost of a part of a network, such as a block: indices of what masks shrink in it, and the constant rest."""

    cut: np.ndarray  # indices of its parameters among those that masks shrink, int64
    products: tuple[int, ...]  # indices of its products of activations
    constant: dict[str, int]  # "params" and "macs" that no mask of units changes


class Costs:
    """Calculator of parameters, MACs and layer widths of pruned networks from the numbers of kept channels.

    A unit is a group of coupled channels, a family the units of one layer of the filter space. The entries that a
    weight keeps are the product of the positions that its dimensions keep; its MACs are in proportion to its entries. A
    dimension keeps its fixed positions plus, for every family, the kept units times the positions that one unit takes.
    """

    def __init__(self, groups: Groups) -> None:
        names = list(groups.parameters & groups.by_tensor.keys())
        names.sort()
        self._groups, self._names = groups, names
        runs = [run for name in names for run in groups.by_tensor[name]]
        sizes = [family.size for family in groups.families]
        self._sizes = np.array(sizes, dtype=np.int64)
        self._fixed = np.array([(run.units == FIXED).sum() for run in runs], dtype=np.int64)
        self._per_unit = np.zeros((len(runs), len(sizes)), dtype=np.int64)  # positions of a run that one unit takes
        family_of = np.repeat(np.arange(len(sizes)), sizes)
        for row, run in enumerate(runs):
            self._per_unit[row] = self._per_family(run.units, family_of)
        self._products = [  # (MACs per combination of positions, [(positions that stay, positions per kept unit)])
            (
                macs // int(np.prod([len(units) for units in along], dtype=np.int64)),
                [((units == FIXED).sum(), self._per_family(units, family_of)) for units in along],
            )
            for along, macs in groups.products
        ]
        made = set(groups.filters)
        self._makes = np.array([(run.tensor, run.dim) in made for run in runs], dtype=bool)
        self._parameter = np.repeat(np.arange(len(names)), [len(groups.by_tensor[name]) for name in names])
        full = np.array([np.prod(groups.shapes[name], dtype=np.int64) for name in names], dtype=np.int64)
        macs = np.array([groups.macs.get(name, 0) for name in names], dtype=np.int64)
        uncut = full // self._entries(self._sizes, np.ones_like(full))  # entries per combination of cut positions
        self._weights = {"params": uncut, "macs": macs * (uncut / full)}
        others = sum(int(np.prod(groups.shapes[name])) for name in groups.parameters - set(names))
        self._base = {
            "params": others,
            "macs": groups.other_macs + sum(macs for name, macs in groups.macs.items() if name not in names),
        }

    def part(self, parameters: Sequence[str], products: Sequence[int], macs: int) -> Part:
        """Return the cost of a part of the network, such as a residual branch, that a mask removes as a whole.

        Parameters
        ----------
        parameters : sequence of str
            Names of the part's parameters.
        products : sequence of int
            Numbers of the part's products of two activations, as in attention.
        macs : int
            All MACs of the part.
        """
        known = {name: place for place, name in enumerate(self._names)}
        others = [name for name in parameters if name not in known]
        counted = sum(self._groups.macs.get(name, 0) for name in parameters if name in known)
        counted += sum(self._groups.products[place][1] for place in products)
        constant = {"params": sum(int(np.prod(self._groups.shapes[name])) for name in others), "macs": macs - counted}
        cut = np.array([known[name] for name in parameters if name in known], dtype=np.int64)
        return Part(cut, tuple(products), constant)

    def of(self, hold: str, kept: np.ndarray, removed: Sequence[Part] = ()) -> int:
        """Return the units, parameters or MACs (chosen by ``hold``) of a network with ``kept[i]`` units in layer i.

        Parameters
        ----------
        kept : int64 (n_families,)
            Kept units of every family.
        removed : sequence of Part
            Parts of the network that are removed as a whole.
        """
        if hold == "units":
            return int(kept.sum())
        entries = self._entries(kept, self._weights[hold])
        gone = sum(float(entries[part.cut].sum()) for part in removed)
        total = self._base[hold] + round(float(entries.sum()) - gone) - sum(part.constant[hold] for part in removed)
        if hold == "macs":
            without = {place for part in removed for place in part.products}
            for place, (each, dimensions) in enumerate(self._products):
                if place not in without:
                    total += each * int(
                        np.prod([fixed + per_unit @ kept for fixed, per_unit in dimensions], dtype=np.int64)
                    )
        return total

    def _per_family(self, units: np.ndarray, family_of: np.ndarray) -> np.ndarray:
        """Return how many of the positions with these unit numbers one unit of each family takes."""
        counts = np.bincount(family_of[units[units != FIXED]], minlength=len(self._sizes))
        return counts // self._sizes

    def widths(self, kept: np.ndarray) -> np.ndarray:
        """Return how many output channels each prunable layer has if the layers keep ``kept`` units."""
        return (self._fixed + self._per_unit @ kept)[self._makes]

    def _entries(self, kept: np.ndarray, weights: np.ndarray) -> np.ndarray:
        entries = weights.copy()
        np.multiply.at(entries, self._parameter, self._fixed + self._per_unit @ kept)
        return entries
