"""Current masks of searches in which not every swap is allowed; swaps in groups of M weights for N:M sparsity."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from masksearch.core.mask import Mask, Move
from masksearch.searchers.moves.any_swap import per_layer
from masksearch.utils.errors import InputError


class BitPartition(ABC):
    """Current mask of a search as an array of bits, for spaces in which not every swap of units is allowed.

    Parameters
    ----------
    mask : Mask
        The first mask.
    """

    def __init__(self, mask: Mask) -> None:
        self.space = mask.space
        self._bits = mask.bits.numpy().copy()
        self._kept = mask.kept_counts

    @property
    def n_kept(self) -> int:
        """Return how many units the search's current mask keeps."""
        return int(self._kept.sum())

    @property
    def max_radius(self) -> int:
        """Return the most units that a swap can prune: the smaller one of the numbers of kept and pruned units."""
        return min(self.n_kept, len(self._bits) - self.n_kept)

    @abstractmethod
    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """Draw a random move that prunes about ``radius`` kept units of the search's current mask."""

    def kept_after(self, move: Move) -> np.ndarray:
        """Return how many units each layer would keep after a move, as an int64 array of shape (n_layers,)."""
        return self._kept - per_layer(self.space, move.dropped) + per_layer(self.space, move.regrown)

    def make(self, move: Move) -> None:
        """Apply a move, which prunes some units and regrows others, to the search's current mask."""
        self._kept = self.kept_after(move)
        self._bits[move.dropped] = False
        self._bits[move.regrown] = True

    def mask(self) -> Mask:
        """Return the search's current mask as a Mask object, which takes O(n_units) time."""
        return Mask(self.space, torch.from_numpy(self._bits.copy()))

    def state_dict(self) -> dict[str, object]:
        """Return the bits of the search's current mask, from which an interrupted search can resume."""
        return {"bits": self._bits.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the search's current mask from what :meth:`state_dict` returned."""
        self._bits = np.array(state["bits"], dtype=bool)
        self._kept = per_layer(self.space, np.flatnonzero(self._bits))


class GroupPartition(BitPartition):
    """Current mask of a search with N:M sparsity; its swaps exchange weights of the same group of M weights.

    Parameters
    ----------
    mask : Mask
        The first mask: of a space with a ``swap_group``, with equal numbers of kept units in all groups.

    Raises
    ------
    InputError
        If groups of the mask keep different numbers of units.
    """

    def __init__(self, mask: Mask) -> None:
        super().__init__(mask)
        self._group = mask.space.swap_group
        per_group = self._bits.reshape(-1, self._group).sum(1)
        if (per_group != per_group[0]).any():
            raise InputError(
                f"start: its groups of {self._group} units keep {per_group.min()} to {per_group.max()} units; all must "
                f"keep the same number, as masks of this {mask.space.describe()} do"
            )

    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """Draw a swap of ``radius`` kept weights (at most ``max_radius``), each for a pruned one of its N:M group."""
        return swapped_in_groups(self._bits, self._group, min(radius, self.max_radius), rng)


def swapped_in_groups(bits: np.ndarray, group: int, radius: int, rng: np.random.Generator) -> Move:
    """Draw a swap of ``radius`` pairs of a kept and a pruned unit; each pair lies in one group of ``group`` units.

    Parameters
    ----------
    bits : bool array (n_units,)
        The mask; all groups keep equally many units.
    radius : int
        At most the number of groups times the smaller of the numbers of kept and pruned units of a group.
    """
    kept = int(bits[:group].sum())
    swaps = min(kept, group - kept)  # largest number of a group
    slots = rng.choice(len(bits) // group * swaps, radius, replace=False, shuffle=False)
    groups, wanted = np.unique(slots // swaps, return_counts=True)
    rows = bits.reshape(-1, group)[groups]
    # Units in random order, those to take from first; the first `wanted` of each row are taken.
    keys = rng.random(rows.shape)
    taken = np.arange(group) < wanted[:, None]
    first = groups[:, None] * group
    dropped = (first + (keys + ~rows).argsort(1))[taken]
    regrown = (first + (keys + rows).argsort(1))[taken]
    return Move(dropped, regrown)
