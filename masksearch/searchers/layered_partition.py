"""The units of a mask, sorted by layer: for swaps within layers, or for moves of the layers' densities only.

Both classes have the methods of :class:`masksearch.searchers.partition.Partition`; their time does not grow with the
space.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move

__all__ = ["LayeredPartition", "RankedLayers", "spread"]


class _ByLayer:
    """Every layer's units in a row of their own, kept ones first, and how many of each are kept."""

    def __init__(self, space: Layout, order: np.ndarray, kept: np.ndarray) -> None:
        self.space = space
        self._sizes = np.diff(space.starts, append=space.n_units)
        self._order = order
        self._kept = kept

    @property
    def n_kept(self) -> int:
        """Kept units."""
        return int(self._kept.sum())

    @property
    def max_radius(self) -> int:
        """The largest swap anywhere: neither more units than are kept can go, nor more than are pruned come back."""
        return min(self.n_kept, self.space.n_units - self.n_kept)

    def kept_after(self, move: Move) -> np.ndarray:
        """Units that every layer would keep after ``move``, int64 (n_layers,)."""
        out, back = (
            np.bincount(self.space.layer_of(units), minlength=len(self._kept)) for units in (move.dropped, move.regrown)
        )
        return self._kept - out + back

    def mask(self) -> Mask:
        """The current mask, in O(n_units)."""
        runs = zip(self.space.starts, self._kept, strict=True)
        return Mask.of_units(self.space, np.concatenate([self._order[start : start + kept] for start, kept in runs]))

    def state_dict(self) -> dict[str, Any]:
        """The order of the units, on which the draws depend, and the kept units of every layer."""
        return {"order": self._order.copy(), "kept": self._kept.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self._order = np.array(state["order"], dtype=np.int64)
        self._kept = np.array(state["kept"], dtype=np.int64)


class LayeredPartition(_ByLayer):
    """Swaps that leave the layers' densities as they are, and swaps of units anywhere.

    Parameters
    ----------
    mask : Mask
        Where it starts.
    within : float
        Share of the moves that keep the layers' densities.
    """

    def __init__(self, mask: Mask, within: float) -> None:
        bits = mask.bits.numpy()
        layer = mask.space.layer_of(np.arange(len(bits)))
        super().__init__(
            mask.space,
            np.lexsort((~bits, layer)),
            np.bincount(layer[bits], minlength=len(mask.space.layers)),
        )
        self.within = within
        self._place = np.argsort(self._order)

    @property
    def max_radius(self) -> int:
        """The largest swap; where all moves stay within layers, the sum of the layers' largest."""
        return int(self._swappable.sum()) if self.within == 1 else super().max_radius

    @property
    def _swappable(self) -> np.ndarray:
        return np.minimum(self._kept, self._sizes - self._kept)

    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """A random swap: ``radius`` kept units against as many pruned ones, cut to what there is.

        Within layers, each has a part of it that is drawn in proportion to the largest swap that it has room for.
        """
        if self.within == 1 or (self.within > 0 and rng.random() < self.within):
            return self._draw_within(radius, rng)
        radius = min(radius, self.max_radius)
        return Move(
            self._some(self.space.starts, self._kept, radius, rng),
            self._some(self.space.starts + self._kept, self._sizes - self._kept, radius, rng),
        )

    def _some(self, starts: np.ndarray, counts: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
        """So many units of runs of the order that begin at ``starts`` and are ``counts`` long."""
        ends = counts.cumsum()
        numbers = rng.choice(ends[-1], wanted, replace=False, shuffle=False)
        run = np.searchsorted(ends, numbers, side="right")
        return self._order[starts[run] + numbers - (ends - counts)[run]]

    def _draw_within(self, radius: int, rng: np.random.Generator) -> Move:
        swaps = spread(radius, self._swappable, rng)
        out, back = [Move.nowhere().dropped], [Move.nowhere().regrown]
        for layer in np.flatnonzero(swaps):
            start, kept, size = self.space.starts[layer], self._kept[layer], self._sizes[layer]
            wanted = swaps[layer]
            out.append(start + rng.choice(kept, wanted, replace=False, shuffle=False))
            back.append(start + kept + rng.choice(size - kept, wanted, replace=False, shuffle=False))
        return Move(self._order[np.concatenate(out)], self._order[np.concatenate(back)])

    def make(self, move: Move) -> None:
        """Make a move: in every layer, units change places until its kept ones come first again."""
        layers_out, layers_back = self.space.layer_of(move.dropped), self.space.layer_of(move.regrown)
        for layer in np.union1d(layers_out, layers_back):
            out, back = move.dropped[layers_out == layer], move.regrown[layers_back == layer]
            both = min(len(out), len(back))
            self._exchange(out[:both], back[:both])
            # What is left over changes places with units at the border, and the border moves past it.
            border = self.space.starts[layer] + self._kept[layer]
            if len(out) > both:
                self._gather(out[both:], border - (len(out) - both))
            elif len(back) > both:
                self._gather(back[both:], border)
        self._kept = self.kept_after(move)

    def _gather(self, units: np.ndarray, start: int) -> None:
        """Bring ``units`` to the places from ``start`` on."""
        there = self._order[start : start + len(units)]
        places = self._place[units]
        outside = (places < start) | (places >= start + len(units))
        self._exchange(units[outside], there[~np.isin(there, units)])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._place = np.argsort(self._order)

    def _exchange(self, ones: np.ndarray, others: np.ndarray) -> None:
        a, b = self._place[ones], self._place[others]
        self._order[a], self._order[b] = others, ones
        self._place[ones], self._place[others] = b, a


class RankedLayers(_ByLayer):
    """Masks that differ in the layers' densities alone: each layer keeps the first units of a ranking that stays.

    Parameters
    ----------
    mask : Mask
        Where it starts; in every layer, units that it keeps rank first.
    saliency : Tensor (n_units,)
        Ranks them, and the others behind them: higher = keep.
    generator : torch.Generator
        Breaks ties.
    """

    def __init__(self, mask: Mask, saliency: Tensor, generator: torch.Generator) -> None:
        space = mask.space
        orders = []
        for layer in space.layers:
            shuffled = torch.randperm(layer.size, generator=generator)
            ranked = shuffled[saliency[layer.slice][shuffled].argsort(descending=True, stable=True)]
            kept = mask.bits[layer.slice][ranked]
            orders.append(layer.start + torch.cat([ranked[kept], ranked[~kept]]).numpy())
        kept_per_layer = np.array(list(mask.kept_per_layer().values()), dtype=np.int64)
        super().__init__(space, np.concatenate(orders), kept_per_layer)

    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """One layer keeps fewer units, another as many more.

        How many, has a logarithm that is drawn evenly, from one unit to all that the two have room for, at most
        ``radius``: large layers and small ones, the search's beginning and its end want steps of different sizes.
        """
        givers = np.flatnonzero(self._kept)
        giver = givers[rng.integers(len(givers))]
        room = self._sizes - self._kept
        room[giver] = 0
        takers = np.flatnonzero(room)
        if not len(takers):
            return Move.nowhere()
        taker = takers[rng.integers(len(takers))]
        most = min(int(self._kept[giver]), int(room[taker]), radius)
        units = min(most, int((most + 1) ** rng.random()))
        end, start = (self.space.starts[layer] + self._kept[layer] for layer in (giver, taker))
        return Move(self._order[end - units : end], self._order[start : start + units])

    def make(self, move: Move) -> None:
        """Make a move that :meth:`draw` gave."""
        self._kept = self.kept_after(move)


def spread(radius: int, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many of ``radius`` units each layer gets, drawn from its ``room`` without replacement: int64 (n_layers,)."""
    ends = room.cumsum()
    drawn = rng.choice(ends[-1], min(radius, int(ends[-1])), replace=False, shuffle=False)
    return np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=len(room))
