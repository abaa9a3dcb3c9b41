"""Limits on how many units a layer keeps: a least number, and a number of which it must be a multiple."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from masksearch.utils.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits on how many units a layer keeps: at least ``least``, and either all or a multiple of ``steps``.

    Parameters
    ----------
    sizes : tuple of int
        Units of every layer.
    least : tuple of int
        Least number of kept units of every layer.
    steps : tuple of int
        Every layer keeps a multiple of its step, or all of its units.
    """

    sizes: tuple[int, ...]
    least: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def stepped(self) -> bool:
        """Whether some layer may keep only multiples of a number of units, such as 8, 16 or 24 channels."""
        return max(self.steps) > 1

    @cached_property
    def lowest(self) -> np.ndarray:
        """Return the smallest number of units that each layer is allowed to keep: int64 (n_layers,)."""
        least, steps = np.maximum(self.least, 1), np.array(self.steps)
        return np.minimum(-(-least // steps) * steps, self.sizes)

    def allow(self, kept: np.ndarray) -> bool:
        """Return whether the limits allow the layers to keep ``kept`` units, an int64 array (n_layers,)."""
        return bool((kept >= self.lowest).all() and (kept == self.floor(kept)).all())

    def floor(self, kept: np.ndarray) -> np.ndarray:
        """Round each layer's number of kept units down to an allowed number, but not below the smallest allowed one.

        ``kept`` and the result are int64 (n_layers,).
        """
        stepped = np.where(kept >= self.sizes, self.sizes, kept // self.steps * self.steps)
        return np.maximum(stepped, self.lowest)

    def alive(self, kept: np.ndarray) -> np.ndarray:
        """Return which layers lie outside of pruned blocks, bool (n_layers,). Here all do: there are no blocks."""
        return np.ones(len(self.sizes), dtype=bool)

    def higher(self, kept: np.ndarray, by: np.ndarray | int = 1) -> np.ndarray:
        """Raise each layer's number of kept units by ``by`` allowed steps, up to all its units: int64 (n_layers,)."""
        return np.where(np.greater(by, 0), np.minimum((kept // self.steps + by) * self.steps, self.sizes), kept)

    def settled(self, kept: np.ndarray) -> np.ndarray:
        """Return an allowed number of kept units for each layer, near ``kept``: int64 (n_layers,). Here, round down."""
        return self.floor(kept)

    def fill(self, ranks: Sequence[np.ndarray], fits: Callable[[np.ndarray], bool], what: str) -> np.ndarray:
        """Add units to layers, best-ranked first and in allowed steps, within the budget; return kept units per layer.

        The result is int64 (n_layers,).

        Parameters
        ----------
        ranks : sequence of arrays
            For every layer, the rank of each of its units from the first kept to the last. Steps of the highest mean
            rank come first; a layer is complete as soon as its next step doesn't fit.
        fits : callable
            Whether numbers of kept units cost no more than the budget.
        what : str
            Description of the budget in the error message.

        Raises
        ------
        InputError
            If the smallest allowed numbers don't fit.
        """
        kept = self.lowest.copy()
        if not fits(kept):
            raise InputError(
                f"density: {what} is too low for min_units and multiple_of, with which at least {kept.sum()} of "
                f"{sum(self.sizes)} units are kept; give a higher density or smaller limits"
            )
        blocks = []
        for layer, (size, step) in enumerate(zip(self.sizes, self.steps, strict=True)):
            starts = range(int(kept[layer]), size, step)
            blocks += [(-ranks[layer][start : start + step].mean(), layer, start) for start in starts]
        complete: set[int] = set()
        for _, layer, start in sorted(blocks):
            if layer not in complete:
                more = kept.copy()
                more[layer] = min(start + self.steps[layer], self.sizes[layer])
                if start == kept[layer] and fits(more):
                    kept = more
                else:
                    complete.add(layer)
        return kept

    def share(self, quotas: Sequence[int], total: int) -> list[int]:
        """Return an allowed number of kept units per layer, near ``quotas``, with a sum of at most ``total``."""
        return self.fill(self.even(quotas), lambda kept: kept.sum() <= total, f"{total} units").tolist()

    def even(self, quotas: Sequence[int]) -> list[np.ndarray]:
        """Return ranks of all units, an array per layer, for :meth:`fill` to keep units in proportion to ``quotas``."""
        return [-np.arange(size) / max(quota, 1e-9) for size, quota in zip(self.sizes, quotas, strict=True)]
