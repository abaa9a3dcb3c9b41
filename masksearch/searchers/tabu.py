"""A memory of masks that a walk has visited, to keep it from going in circles."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from masksearch.mask import Mask
from masksearch.move import Move

__all__ = ["TabuMemory"]


class TabuMemory:
    """The last ``size`` masks, and how far a moved mask is from each of them.

    It holds the distances of the current mask to all of them, so that looking at a move costs O(size x radius); only
    remembering a mask costs O(n_units). Memory: size x n_units bytes.
    """

    def __init__(self, size: int, start: Mask) -> None:
        self._bits = np.zeros((size, start.space.n_units), dtype=bool)
        self._distances = np.zeros(size, dtype=np.int64)  # from the current mask to each remembered one
        self._count = 0  # masks remembered since the start; the ring is full from `size` on

    def distances(self, move: Move) -> np.ndarray:
        """Hamming distance of the current mask, once moved, to every remembered one: int64 (masks,)."""
        n = min(self._count, len(self._bits))
        # A dropped unit comes nearer to masks without it, and leaves those that have it; a regrown one the other way.
        out, back = self._bits[:n, move.dropped], self._bits[:n, move.regrown]
        gone = 2 * out.sum(1, dtype=np.int64) - len(move.dropped)
        come = len(move.regrown) - 2 * back.sum(1, dtype=np.int64)
        return self._distances[:n] + gone + come

    def remember(self, mask: Mask, distance: int) -> None:
        """Keep ``mask``, which lies ``distance`` from the current mask, in place of the oldest."""
        slot = self._count % len(self._bits)
        self._bits[slot] = mask.bits.numpy()
        self._distances[slot] = distance
        self._count += 1

    def follow(self, move: Move) -> None:
        """The current mask has made ``move``."""
        self._distances[: min(self._count, len(self._bits))] = self.distances(move)

    def state_dict(self) -> dict[str, Any]:
        """Everything, bits packed."""
        return {
            "bits": np.packbits(self._bits, axis=1),
            "distances": self._distances.copy(),
            "count": self._count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._bits = np.unpackbits(state["bits"], axis=1, count=self._bits.shape[1]).astype(bool)
        self._distances = np.array(state["distances"])
        self._count = int(state["count"])
