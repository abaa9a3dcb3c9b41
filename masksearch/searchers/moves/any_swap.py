"""The current mask of a search as an array of units: swaps of r units are drawn and made in O(r) time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask, Move


class Partition:
    """Current mask of a search as an array of units, kept ones first; swapping r units takes O(r) time.

    Parameters
    ----------
    mask : Mask
        The first mask.
    """

    def __init__(self, mask: Mask) -> None:
        bits = mask.bits.numpy()
        self._fill(mask.space, np.concatenate([np.flatnonzero(bits), np.flatnonzero(~bits)]), mask.n_kept)

    def _fill(self, space: Layout, order: np.ndarray, n_kept: int) -> None:
        self.space, self.n_kept = space, n_kept
        self._order = order
        self._place = np.empty_like(order)
        self._place[order] = np.arange(len(order))
        self._kept_per_layer = per_layer(space, order[:n_kept])

    @property
    def max_radius(self) -> int:
        """Return the most units that a swap can prune: the smaller one of the numbers of kept and pruned units."""
        return min(self.n_kept, self.space.n_units - self.n_kept)

    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """Draw a random swap of min(``radius``, ``max_radius``) kept units for the same number of pruned units."""
        radius = min(radius, self.max_radius)
        out = rng.choice(self.n_kept, radius, replace=False, shuffle=False)
        back = rng.choice(self.space.n_units - self.n_kept, radius, replace=False, shuffle=False)
        return Move(self._order[out], self._order[self.n_kept + back])

    def kept_after(self, move: Move) -> np.ndarray:
        """Return how many units each layer would keep after a move, as an int64 array of shape (n_layers,)."""
        return self._kept_per_layer - per_layer(self.space, move.dropped) + per_layer(self.space, move.regrown)

    def make(self, move: Move) -> None:
        """Apply a swap, which prunes some units and regrows as many others, to the search's current mask."""
        out, back = self._place[move.dropped], self._place[move.regrown]
        self._order[out], self._order[back] = move.regrown, move.dropped
        self._place[move.regrown], self._place[move.dropped] = out, back
        self._kept_per_layer = self.kept_after(move)

    def mask(self) -> Mask:
        """Return the search's current mask as a Mask object, which takes O(n_units) time."""
        return Mask.of_units(self.space, self._order[: self.n_kept])

    def state_dict(self) -> dict[str, object]:
        """Return the current mask for a checkpoint: the number of kept units, and the order of all units."""
        return {"order": self._order.copy(), "n_kept": self.n_kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the search's current mask from what :meth:`state_dict` returned."""
        self._fill(self.space, np.array(state["order"], dtype=np.int64), int(state["n_kept"]))


def per_layer(space: Layout, units: np.ndarray) -> np.ndarray:
    """Return how many of the given units each layer has, as an int64 array of shape (n_layers,)."""
    return np.bincount(space.layer_of(units), minlength=len(space.layers))
