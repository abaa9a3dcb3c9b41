"""Early-bird detection (You et al. 2020): the epoch of a training after which the mask changes little."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from masksearch.core.mask import Mask
from masksearch.utils.errors import InputError


class EarlyBird:
    """Detector of the epoch of a training after which the pruning mask hardly changes any more (You et al. 2020).

    It compares the mask of every epoch with those of the previous epochs. It fires when the newest mask is close to all
    other masks in its memory.

    Parameters
    ----------
    threshold : float, optional
        Largest distance of close masks: changed units / all units. Default: 0.1 as in the paper, or 0.2 if
        ``relative``, which is equal for masks of density 0.5.
    relative : bool
        Measure ``threshold`` as a share of 2 d (1 - d), the distance of two unrelated masks of density d. At low
        densities an absolute threshold of 0.1 would accept all masks.
    memory : int
        Number of compared masks, with the newest: 5 in the paper (section 3.2). The detector needs that many epochs.
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
        """Record the mask after one more epoch; return whether the last masks are so similar that it is time to prune.

        ``None`` is an epoch without a meaningful mask, because all saliencies were equal, as BatchNorm scales are
        before the first step. It empties the memory.
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
    """Return the fraction of mask bits in which each pair of n masks differs: (n, n), NaN where a mask is None."""
    distances = np.full((len(masks), len(masks)), np.nan)
    for i, first in enumerate(masks):
        for j, second in enumerate(masks[: i + 1]):
            if first is not None and second is not None:
                distances[i, j] = distances[j, i] = first.hamming(second) / first.space.n_units
    return distances
