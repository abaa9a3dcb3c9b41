"""Moves between masks."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Move"]


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """Units that go out and units that come in. Equal numbers keep the density; the Hamming distance is their sum."""

    dropped: np.ndarray  # int64 (r,), kept before, pruned after
    regrown: np.ndarray  # int64 (r,), pruned before, kept after

    def __len__(self) -> int:
        return len(self.dropped) + len(self.regrown)

    def undone(self) -> "Move":
        """The move back."""
        return Move(self.regrown, self.dropped)

    @staticmethod
    def nowhere() -> "Move":
        """The move that changes nothing."""
        return Move(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
