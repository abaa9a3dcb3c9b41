"""Early-bird tickets (You et al. 2020): the moment of a training from which on the mask stays much the same."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from masksearch.core.mask import Mask
from masksearch.utils.errors import InputError

__all__ = ["EarlyBird", "mask_distances"]


class EarlyBird:
    """Sees the mask of every epoch and fires once the newest is close to each of those before it in its memory.

    Parameters
    ----------
    threshold : float, optional
        Largest distance that counts as close: changed units / all units. The paper's 0.1 if not given, and 0.2 if
        ``relative``, which is the same for masks of half of the units.
    relative : bool
        Measure ``threshold`` as a share of 2 d (1 - d), the distance that two unrelated masks of density d have: 0.1 of
        all units is little at half of the units, and everything at a twentieth.
    memory : int
        Masks that are compared, the newest included: 5 in the paper (section 3.2). It can't fire before it is full.
    """

    def __init__(self, threshold: float | None = None, relative: bool = False, memory: int = 5) -> None:
        if threshold is None:
            threshold = 0.2 if relative else 0.1
        if not 0 < threshold < 1:
            raise InputError(f"threshold: {threshold}; it must lie between 0 and 1, both excluded")
        if memory < 2:
            raise InputError(f"memory: {memory} masks; at least 2 are needed")
        self.threshold, self.relative = threshold, relative
        self._masks: deque[Mask] = deque(maxlen=memory)

    def see(self, mask: Mask | None) -> bool:
        """Take the mask of the next epoch; whether the ticket can be drawn now.

        ``None`` stands for an epoch without a mask worth the name: all saliencies were equal, as those of BatchNorm
        scales are before the first step. It empties the memory.
        """
        if mask is None:
            self._masks.clear()
            return False
        limit = self.threshold * (2 * mask.density * (1 - mask.density) if self.relative else 1)
        earlier = list(self._masks)
        self._masks.append(mask)
        if len(self._masks) < (self._masks.maxlen or 0):
            return False
        return all(mask.hamming(other) / mask.space.n_units <= limit for other in earlier[-len(self._masks) + 1 :])


def mask_distances(masks: Sequence[Mask | None]) -> np.ndarray:
    """Distances between masks, as shares of all units: float (n, n), NaN where there is no mask."""
    distances = np.full((len(masks), len(masks)), np.nan)
    for i, one in enumerate(masks):
        for j, other in enumerate(masks[: i + 1]):
            if one is not None and other is not None:
                distances[i, j] = distances[j, i] = one.hamming(other) / one.space.n_units
    return distances
