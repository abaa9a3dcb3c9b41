"""Union of the block space and the filter space of a network: masks of whole branches and of channels."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount, Density, DensityTooLowError, Hold
from masksearch.core.limits import Limits
from masksearch.core.mask import Mask
from masksearch.core.width_levels import Levels
from masksearch.spaces.base_space import unwrapped
from masksearch.spaces.block_mask_space import BlockSpace
from masksearch.spaces.block_removal import Replacements, with_replacements
from masksearch.spaces.cost_knapsack import most_saliency
from masksearch.spaces.filter_costs import Part
from masksearch.spaces.filter_cut import cut
from masksearch.spaces.filter_mask_space import FilterSpace
from masksearch.spaces.removable_space import RemovableSpace
from masksearch.utils.errors import InputError


@dataclass(frozen=True)
class UnionLimits(Limits):
    """Limits of the kept units per layer in a space of blocks and filters: filters within removed blocks keep none.

    Parameters
    ----------
    owners : tuple of tuples of int
        For every layer, the layers of the blocks that contain it; () for blocks and for layers in no block.
    """

    owners: tuple[tuple[int, ...], ...]

    @cached_property
    def lowest(self) -> np.ndarray:
        """Return the smallest number of units that each layer may keep: 0 for residual blocks, which may go whole.

        A layer of filters in removed blocks keeps 0 units.
        """
        return np.minimum(-(-np.array(self.least) // self.steps) * self.steps, self.sizes)

    def alive(self, kept: np.ndarray) -> np.ndarray:
        """Return, for each layer, whether it may keep units: it is in no block, or in a block that is kept."""
        inside, contains = self._containment
        return ~inside | ((contains @ (kept > 0)) > 0)

    @cached_property
    def _containment(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each layer lies in blocks, bool (n_layers,); and in which, 0 or 1 of (n_layers, n_layers)."""
        contains = np.zeros((len(self.owners), len(self.owners)))
        for place, own in enumerate(self.owners):
            contains[place, list(own)] = 1
        return np.array([bool(own) for own in self.owners]), contains

    def allow(self, kept: np.ndarray) -> bool:
        """Return whether the layers may keep the numbers of units in ``kept``."""
        alive = self.alive(kept)
        return not kept[~alive].any() and bool((kept == self.floor(kept))[alive].all())

    def settled(self, kept: np.ndarray) -> np.ndarray:
        """Return the kept units per layer rounded down to allowed numbers; 0 for layers within removed blocks."""
        return np.where(self.alive(kept), self.floor(kept), 0)


class UnionSpace(RemovableSpace):
    """Masks of a network with a bit per residual branch and a bit per channel group, under one common density.

    Made by :func:`~masksearch.union_space`. Blocks come first, each a layer with one unit; the layers of filters
    follow. The units of layers that lie in removed blocks count as removed: :class:`~masksearch.core.mask.Mask` prunes
    their bits, so that masks of one pruned network are equal. Layers in a kept block keep at least one unit.

    Attributes
    ----------
    blocks : BlockSpace
        Space of the first ``blocks.n_units`` units.
    filters : FilterSpace
        Space of all further units.
    """

    nested = True
    limits: UnionLimits

    def __init__(self, blocks: BlockSpace, filters: FilterSpace) -> None:
        self.blocks, self.filters = blocks, filters
        names = {block.name for block in blocks.blocks}
        sizes = [(layer.name, layer.shape, layer.size) for layer in blocks.layers]
        sizes += [
            (f"{layer.name} (filters)" if layer.name in names else layer.name, layer.shape, layer.size)
            for layer in filters.layers
        ]
        super().__init__(sizes, "union")
        self.left_out = (*blocks.left_out, *filters.left_out)
        n = len(blocks.layers)
        within = filters.limits
        ones = (1,) * len(filters.layers)
        self.limits = UnionLimits(
            sizes=tuple(layer.size for layer in self.layers),
            least=(*(0,) * n, *(ones if within is None else within.lowest.tolist())),
            steps=(*(1,) * n, *(ones if within is None else within.steps)),
            owners=(*((),) * n, *self._owners()),
        )

    def _owners(self) -> list[tuple[int, ...]]:
        """Return the blocks that contain all parameters of a layer of filters, for every such layer; () for others."""
        block_of = {name: place for place, block in enumerate(self.blocks.blocks) for name in block.removed}
        found: list[set[int | None]] = [set() for _ in self.filters.layers]
        for run in self.filters.groups.runs:
            if run.tensor in self.filters.groups.parameters:
                for layer in np.unique(self.filters.layer_of(run.units[run.units >= 0])):
                    found[layer].add(block_of.get(run.tensor))
        return [() if None in owners else tuple(sorted(o for o in owners if o is not None)) for owners in found]

    def __str__(self) -> str:
        inside = sum(bool(own) for own in self.limits.owners)
        head = f"{self.blocks.n_units} blocks; {len(self.filters.layers)} layers of filters, {inside} of them in blocks"
        return f"{self!r}: {head}\n{self.blocks}\n{self.filters}"

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash (16 hex digits) of blocks and filters; a mask fits every space with the same hash."""
        digest = hashlib.sha256(super().fingerprint.encode())
        digest.update(f"{self.blocks.fingerprint}/{self.filters.fingerprint}".encode())
        return digest.hexdigest()[:16]

    @cached_property
    def topologies(self) -> tuple[str, ...]:
        """Return a text per layer that describes its kind; layers of equal structure have equal texts."""
        kinds = (("block", self.blocks), ("filters", self.filters))
        return tuple(f"{kind}: {text}" for kind, space in kinds for text in space.topologies)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {parameter or buffer of the full network: shape}."""
        return self.blocks.shapes

    # Canonical masks: nothing is kept within a removed block.

    @property
    def needed(self) -> np.ndarray:
        """Return, for each layer, whether every mask must keep a unit of it: True for filters that are in no block."""
        limits = zip(self.limits.least, self.limits.owners, strict=True)
        return np.array([bool(least) and not own for least, own in limits])

    def empty(self, kept: np.ndarray) -> np.ndarray:
        """Return which layers of filters, outside of removed blocks, keep no unit; the network then can't work."""
        return (kept == 0) & self.limits.alive(kept) & (np.array(self.limits.least) > 0)

    def canonical(self, bits: Tensor) -> Tensor:
        """Return the bits of a mask with all channels within removed blocks pruned, too."""
        kept = np.add.reduceat(bits.numpy().astype(np.int64), self.starts)
        dead = np.flatnonzero(~self.limits.alive(kept) & (kept > 0))
        if len(dead):
            bits = bits.clone()
            for place in dead:
                bits[self.layers[place].slice] = False
        return bits

    def part_masks(self, mask: Mask) -> tuple[Mask, Mask]:
        """Return a mask's two parts: the mask of blocks and the mask of filters."""
        n = self.blocks.n_units
        return Mask(self.blocks, mask.bits[:n]), Mask(self.filters, mask.bits[n:])

    # Parameters.

    def parameter_masks(self, mask: Mask) -> dict[str, Tensor]:
        """Return a mask as {parameter name: bool tensor, True = kept}, for all parameters that masks can change."""
        of_blocks, of_filters = self.part_masks(mask)
        masks = self.filters.parameter_masks(of_filters)
        for name, keep in self.blocks.parameter_masks(of_blocks).items():
            masks[name] = masks[name] & keep if name in masks else keep
        return masks

    def layer_weights(self) -> list[str]:
        """Return the names of the last weight of each branch, and of the weights that make removable channels."""
        return list(dict.fromkeys([*self.blocks.layer_weights(), *self.filters.layer_weights()]))

    def unit_sums(self, tensors: Mapping[str, Tensor], part: str = "all") -> Tensor:
        """Sum tensors, given by parameter name, over the entries of each unit; return one sum per unit.

        A block sums over the last parameters of its branch, a unit of filters over all entries that it removes.
        """
        return torch.cat([self.blocks.unit_sums(tensors, part), self.filters.unit_sums(tensors, part)])

    def kept_in_norms(self, mask: Mask) -> dict[str, tuple[Tensor, int]]:
        """Return {norm: (indices of kept channels, channel dimension)}, for the norms that a mask makes smaller."""
        return self.filters.kept_in_norms(self.part_masks(mask)[1])

    def set_norms(self, model: nn.Module, mask: Mask) -> None:
        """Make a network's norms use only channels that a mask keeps, if the filter space has ``norms=True``."""
        self.filters.set_norms(model, self.part_masks(mask)[1])

    # Pruning: channels first, then blocks. Layers within removed blocks stay whole until their block goes.

    def cut_mask(self, mask: Mask) -> Mask:
        """Return the filter mask for cutting single channels: all channels of a removed block are marked as kept.

        The block is removed as a whole afterwards.
        """
        self.check_mask(mask)
        _, of_filters = self.part_masks(mask)
        bits = of_filters.bits.clone()
        alive = self.limits.alive(mask.kept_counts)[len(self.blocks.layers) :]
        for layer, is_alive in zip(self.filters.layers, alive.tolist(), strict=True):
            bits[layer.slice] |= not is_alive
        return Mask(self.filters, bits)

    def _cut_shapes(self, mask: Mask) -> dict[str, tuple[int, ...]]:
        return self.filters._cut_shapes(self.cut_mask(mask))

    def restored(self, mask: Mask, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the pruned network in the full network's sizes, with zeros for removed parts."""
        return super().restored(mask, self.filters.restored(self.cut_mask(mask), state))

    def replacements(self, mask: Mask) -> Replacements:
        """Return {module name: description, for JSON, of its replacement} for the modules that a mask removes."""
        return self.blocks.replacements(self.part_masks(mask)[0])

    def without_units(self, model: nn.Module, mask: Mask) -> nn.Module:
        """Return a copy of the network without the blocks and channels that the mask prunes.

        Raises
        ------
        InputError
            If the mask or the model is not of this space, or the mask keeps nothing of a layer that is not removed.
        """
        self._masked_parameters(model, mask)  # checks both
        small = cut(unwrapped(model), self.filters.groups, self.cut_mask(mask).bits)
        of_blocks, _ = self.part_masks(mask)
        removed = [block for block, keep in zip(self.blocks.blocks, of_blocks.bits.tolist(), strict=True) if not keep]
        if not removed:
            return small
        return with_replacements(small, self.replacements(mask), [name for block in removed for name in block.removed])

    # Costs.

    @cached_property
    def _parts(self) -> list[Part]:
        """Cost of every block: its parameters, and its products of activations, as of attention."""
        products = self.blocks.products_of([macs for _, macs in self.filters.groups.products])
        return [
            self.filters.costs.part(block.removed, places, block.macs)
            for block, places in zip(self.blocks.blocks, products, strict=True)
        ]

    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """Return the units, parameters or MACs (chosen by ``hold``) of a network with ``kept[i]`` units in layer i.

        Units of layers in removed blocks don't count.
        """
        kept = np.where(self.limits.alive(kept), kept, 0)
        if hold == "units":
            return int(kept.sum())
        n = len(self.blocks.layers)
        removed = [part for part, keep in zip(self._parts, kept[:n].tolist(), strict=True) if not keep]
        return self.filters.costs.of(hold, kept[n:], removed)

    def fits(self, kept: np.ndarray, density: Density | Amount, hold: Hold | None = None) -> bool:
        """Return whether masks with ``kept[i]`` units in layer i cost no more than ``density`` allows."""
        amount = Amount.of(density, hold=hold)
        one = amount.single("the layers of a union space have none of their own; give one density")
        if amount.hold == "units":
            return int(kept.sum()) <= amount.count(self)
        return self.cost_of(kept, amount.hold) <= one * self.cost_of(self.sizes, amount.hold)

    # Masks of a ranking.

    def _limited(self, saliency: Tensor, amount: Amount, generator: torch.Generator, limits: Limits) -> Mask:
        """Return the mask of a ranking of blocks and filters.

        The blocks are those of the longest prefix of the ranking that fits, where each kept layer has its least units.
        Then units of kept layers are added in the order of the ranking, while they fit; if all of them fit, further
        blocks are kept. With the scope "knapsack", units of kept layers are those of the largest sum of saliencies.
        """
        amount.single("the layers of a union space have none of their own; give one density")
        if amount.scope == "erk":
            raise InputError("scope: 'erk' has no density for whole blocks; give 'global', 'layerwise' or 'isomorphic'")
        n = len(self.blocks.layers)
        if amount.scope == "layerwise":
            names = [*["blocks"] * n, *(layer.name for layer in self.filters.layers)]
            saliency = self._quantiles(saliency, names, generator)
        ranking = _Ranking(self, saliency, generator)

        def fits(kept: np.ndarray) -> bool:
            return self.fits(kept, amount)

        if not fits(ranking.prefix(0)):
            least = self.cost_of(ranking.prefix(0), amount.hold) / self.cost_of(self.sizes, amount.hold)
            raise DensityTooLowError(
                amount.density,
                f"of the {amount.hold} is less than {least:.3g}, the share of the network without any block and with "
                "the least units of every layer",
            )
        low, high = 0, len(ranking.steps)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(ranking.prefix(middle)) else (low, middle - 1)
        blocks = ranking.prefix(low)[:n]
        kept = ranking.filled(blocks, fits)
        for block in ranking.steps[low:]:
            if (kept[n:] < self.sizes[n:])[limits.alive(kept)[n:]].any():
                break
            if block < n:
                more = blocks.copy()
                more[block] = 1
                if fits(ranking.least(more)):
                    blocks, kept = more, ranking.filled(more, fits)
        if amount.scope == "knapsack" and amount.hold != "units":
            return most_saliency(self, saliency, self._levels(blocks, amount), generator)
        return Mask.of_units(self, np.concatenate([u[:k] for u, k in zip(ranking.units, kept, strict=True)]))

    def _levels(self, blocks: np.ndarray, amount: Amount) -> Levels:
        """Return the allowed numbers of kept units per layer, given which blocks are kept."""
        n, limits = len(self.blocks.layers), self.limits
        alive = limits.alive(np.concatenate([blocks, limits.lowest[n:]]))
        kept = [np.array([number]) for number in blocks]
        for low, size, step, used in zip(limits.lowest[n:], self.sizes[n:], limits.steps[n:], alive[n:], strict=True):
            kept.append(np.unique([*range(low, size, step), size]) if used else np.zeros(1, dtype=np.int64))
        return Levels(kept, lambda numbers: self.cost_of(numbers, amount.hold), self.allowed(amount))


class _Ranking:
    """Steps of a ranking, from the first kept to the last: layers, each once for every step of its units."""

    def __init__(self, space: UnionSpace, saliency: Tensor, generator: torch.Generator) -> None:
        self.space, self.limits, self.n_blocks = space, space.limits, len(space.blocks.layers)
        shuffled = torch.randperm(space.n_units, generator=generator).numpy()
        rank = np.empty(space.n_units)
        rank[np.lexsort((shuffled, saliency.double().numpy()))] = np.arange(space.n_units)
        self.units = [layer.start + np.argsort(-rank[layer.slice]) for layer in space.layers]
        steps = []
        for place, units in enumerate(self.units):
            step, first = self.limits.steps[place], int(self.limits.lowest[place])
            steps += [(-rank[units[start : start + step]].mean(), place) for start in range(first, len(units), step)]
        self.steps = [place for _, place in sorted(steps)]

    def least(self, blocks: np.ndarray) -> np.ndarray:
        """Return the smallest allowed numbers of kept units per layer, given which blocks are kept."""
        kept = self.limits.lowest.copy()
        kept[: self.n_blocks] = blocks
        return np.where(self.limits.alive(kept), kept, 0)

    def prefix(self, n: int) -> np.ndarray:
        """Return the kept units per layer after the first n steps of a ranking; each step adds units of one layer.

        Fewer steps never cost more.
        """
        taken = np.bincount(self.steps[:n], minlength=len(self.units))
        return self._with(self.least(taken[: self.n_blocks]), taken)

    def _with(self, kept: np.ndarray, taken: np.ndarray) -> np.ndarray:
        taken = np.where(self.limits.alive(kept), taken, 0)
        taken[: self.n_blocks] = 0
        return self.limits.higher(kept, taken)

    def filled(self, blocks: np.ndarray, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
        """Return kept units per layer after a ranking's steps; a step that doesn't fit ends the steps of its layer.

        ``blocks`` stay as they are.
        """
        kept = self.least(blocks)
        alive = self.limits.alive(kept)
        steps = np.array([place for place in self.steps if place >= self.n_blocks and alive[place]], dtype=np.int64)
        while len(steps):
            low, high = 0, len(steps)
            while low < high:
                middle = (low + high + 1) // 2
                taken = np.bincount(steps[:middle], minlength=len(kept))
                low, high = (middle, high) if fits(self._with(kept, taken)) else (low, middle - 1)
            kept = self._with(kept, np.bincount(steps[:low], minlength=len(kept)))
            rest = steps[low:]
            steps = rest[rest != rest[0]] if len(rest) else rest
        return kept
