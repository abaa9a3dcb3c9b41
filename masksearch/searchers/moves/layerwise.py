"""The current mask of a search with its units sorted by layer: swaps within layers, or changes of layer densities.

Both classes have the methods of :class:`~masksearch.searchers.moves.any_swap.Partition`, with times that
don't grow with the space.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move
from masksearch.core.width_levels import filled
from masksearch.searchers.moves.any_swap import per_layer


class _ByLayer:
    """The units of every layer as one run of an array, kept units first, and the number of kept units per layer."""

    def __init__(self, space: Layout, order: np.ndarray, kept: np.ndarray) -> None:
        self.space = space
        self._sizes = np.diff(space.starts, append=space.n_units)
        self._order = order
        self._kept = kept

    @property
    def n_kept(self) -> int:
        """Number of units that the current mask keeps."""
        return int(self._kept.sum())

    @property
    def max_radius(self) -> int:
        """The most units that a swap can prune: the smaller of the numbers of kept and pruned units."""
        return min(self.n_kept, self.space.n_units - self.n_kept)

    def kept_after(self, move: Move) -> np.ndarray:
        """Return how many units each layer would keep after a move, as an int64 array of shape (n_layers,)."""
        return self._kept - per_layer(self.space, move.dropped) + per_layer(self.space, move.regrown)

    def mask(self) -> Mask:
        """Return the current mask as a Mask object, which takes O(n_units) time."""
        runs = zip(self.space.starts, self._kept, strict=True)
        return Mask.of_units(self.space, np.concatenate([self._order[start : start + kept] for start, kept in runs]))

    def state_dict(self) -> dict[str, object]:
        """Return the current mask for a checkpoint: the order of its units, and the number of kept units per layer."""
        return {"order": self._order.copy(), "kept": self._kept.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the search's current mask from what :meth:`state_dict` returned."""
        self._order = np.array(state["order"], dtype=np.int64)
        self._kept = np.array(state["kept"], dtype=np.int64)


class LayeredPartition(_ByLayer):
    """Current mask of a search, stored so that random swaps within a layer or between layers are drawn fast.

    Parameters
    ----------
    mask : Mask
        The first mask.
    within : float
        Share of the swaps within layers, which leave the layers' densities unchanged.
    """

    def __init__(self, mask: Mask, within: float) -> None:
        bits = mask.bits.numpy()
        layer = mask.space.layer_of(np.arange(len(bits)))
        super().__init__(mask.space, np.lexsort((~bits, layer)), per_layer(mask.space, np.flatnonzero(bits)))
        self.within = within
        self._place = np.argsort(self._order)

    @property
    def max_radius(self) -> int:
        """Return the largest number of units that a swap can prune; if swaps stay within layers, summed over layers."""
        return int(self._swappable.sum()) if self.within == 1 else super().max_radius

    @property
    def _swappable(self) -> np.ndarray:
        return np.minimum(self._kept, self._sizes - self._kept)

    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """Draw a random swap of ``radius`` kept units (at most ``max_radius``) for the same number of pruned units.

        A swap within layers is divided over them at random, in proportion to the layers' largest swaps.
        """
        if self.within == 1 or (self.within > 0 and rng.random() < self.within):
            return self._draw_within(radius, rng)
        radius = min(radius, self.max_radius)
        return Move(
            self._some(self.space.starts, self._kept, radius, rng),
            self._some(self.space.starts + self._kept, self._sizes - self._kept, radius, rng),
        )

    def _some(self, starts: np.ndarray, counts: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
        """``wanted`` random units from the runs that begin at ``starts`` and have the lengths ``counts``."""
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
        """Apply a move, which prunes some units and regrows others, to the search's current mask."""
        layers_out, layers_back = self.space.layer_of(move.dropped), self.space.layer_of(move.regrown)
        for layer in np.union1d(layers_out, layers_back):
            out, back = move.dropped[layers_out == layer], move.regrown[layers_back == layer]
            both = min(len(out), len(back))
            self._exchange(out[:both], back[:both])
            # The other units change places with units at the border between kept and pruned, and the border moves.
            border = self.space.starts[layer] + self._kept[layer]
            if len(out) > both:
                self._gather(out[both:], border - (len(out) - both))
            elif len(back) > both:
                self._gather(back[both:], border)
        self._kept = self.kept_after(move)

    def _gather(self, units: np.ndarray, start: int) -> None:
        """Move ``units`` to the places from ``start`` on."""
        there = self._order[start : start + len(units)]
        places = self._place[units]
        outside = (places < start) | (places >= start + len(units))
        self._exchange(units[outside], there[~np.isin(there, units)])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the search's current mask from what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._place = np.argsort(self._order)

    def _exchange(self, ones: np.ndarray, others: np.ndarray) -> None:
        a, b = self._place[ones], self._place[others]
        self._order[a], self._order[b] = others, ones
        self._place[ones], self._place[others] = b, a


class RankedLayers(_ByLayer):
    """Current mask of a search of layers' densities: every layer keeps its best units by a fixed ranking.

    Parameters
    ----------
    mask : Mask
        The first mask; in every layer, its kept units rank first.
    saliency : Tensor (n_units,)
        Ranking of the kept units, and of the pruned units behind them: higher = keep.
    generator : torch.Generator
        Generator that orders units of equal saliency.
    fits : callable, optional
        Whether a mask with these numbers of kept units per layer, int64 (n_layers,), costs no more than the budget.
        Moves then keep the cost near the budget, not the number of units.
    """

    def __init__(
        self,
        mask: Mask,
        saliency: Tensor,
        generator: torch.Generator,
        fits: Callable[[np.ndarray], bool] | None = None,
    ) -> None:
        space = mask.space
        self._fits = fits
        orders = []
        for layer in space.layers:
            shuffled = torch.randperm(layer.size, generator=generator)
            ranked = shuffled[saliency[layer.slice][shuffled].argsort(descending=True, stable=True)]
            kept = mask.bits[layer.slice][ranked]
            orders.append(layer.start + torch.cat([ranked[kept], ranked[~kept]]).numpy())
        super().__init__(space, np.concatenate(orders), mask.kept_counts)

    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """Draw a random move that prunes a layer's lowest-ranked kept units and regrows as many units of another layer.

        The logarithm of the number of units is uniform, from one unit to the largest number that both layers allow, at
        most ``radius``: layers of different sizes, and the beginning and the end of a search, need different steps.

        With ``fits``, the other layers, in a random order, regrow as many units as fit.
        """
        sources = np.flatnonzero(self._kept)
        source = sources[rng.integers(len(sources))]
        if self._fits is not None:
            most = min(int(self._kept[source]), radius)
            kept = self._kept.copy()
            kept[source] -= min(most, int((most + 1) ** rng.random()))
            others = rng.permutation(np.delete(np.arange(len(kept)), source))
            return self._to(filled(kept, [*others.tolist(), int(source)], self._sizes, self._fits))
        room = self._sizes - self._kept
        room[source] = 0
        targets = np.flatnonzero(room)
        if not len(targets):
            return Move.nowhere()
        target = targets[rng.integers(len(targets))]
        most = min(int(self._kept[source]), int(room[target]), radius)
        units = min(most, int((most + 1) ** rng.random()))
        end, start = (self.space.starts[layer] + self._kept[layer] for layer in (source, target))
        return Move(self._order[end - units : end], self._order[start : start + units])

    def _to(self, kept: np.ndarray) -> Move:
        """The move after which the layers keep ``kept`` units."""
        runs = list(zip(self.space.starts, self._kept, kept, strict=True))
        out = [self._order[start + after : start + before] for start, before, after in runs]
        back = [self._order[start + before : start + after] for start, before, after in runs]
        return Move(np.concatenate(out), np.concatenate(back))

    def make(self, move: Move) -> None:
        """Apply a move that :meth:`draw` has returned to the search's current mask."""
        self._kept = self.kept_after(move)


def spread(radius: int, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Divide ``radius`` swaps among layers at random, at most ``room[i]`` for layer i; return the swaps per layer."""
    ends = room.cumsum()
    drawn = rng.choice(ends[-1], min(radius, int(ends[-1])), replace=False, shuffle=False)
    return np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=len(room))
