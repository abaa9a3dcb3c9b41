"""Width levels: a few allowed numbers of kept units per layer, and the combination of least loss under a budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_BUCKETS = 10_000  # of the dynamic programme's budget
_LINEARISATIONS = 8  # of costs that don't add up over layers


@dataclass(frozen=True)
class Levels:
    """Allowed numbers of kept units of each layer, to choose one per layer so that the cost stays within a budget.

    A level is the index of such a number: 0 is the smallest number of the layer.

    Costs such as MACs are products of neighbouring widths and don't add up over layers. So :meth:`best` solves the
    dynamic programme for costs that are linear near a combination, repairs its solution, and repeats this there.

    Parameters
    ----------
    kept : sequence of int64 arrays
        For every layer, its numbers of kept units, ascending.
    cost : callable
        Cost of numbers of kept units, int64 (n_layers,); more units never cost less.
    budget : float
        Largest allowed cost.
    """

    kept: Sequence[np.ndarray]
    cost: Callable[[np.ndarray], float]
    budget: float

    def numbers(self, levels: np.ndarray) -> np.ndarray:
        """Return each layer's number of kept units, int64 (n_layers,); ``levels``: indices of allowed numbers."""
        return np.array([kept[level] for kept, level in zip(self.kept, levels, strict=True)], dtype=np.int64)

    def fits(self, levels: np.ndarray) -> bool:
        """Return whether a network fits the budget; ``levels``: per layer, the index of its number of kept units."""
        return self.cost(self.numbers(levels)) <= self.budget

    @property
    def top(self) -> np.ndarray:
        """Return, for each layer, the index of its largest allowed number of kept units: int64 (n_layers,)."""
        return np.array([len(kept) - 1 for kept in self.kept])

    def even(self) -> np.ndarray:
        """Return levels (indices of numbers of kept units), similar in all layers and as high as the budget allows.

        If none fit, all levels are 0. Levels are indices, int64 (n_layers,).
        """
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits((middle * self.top).astype(int)) else (low, middle)
        return (low * self.top).astype(int)

    def best(self, losses: Sequence[np.ndarray]) -> np.ndarray:
        """Return the levels (indices of numbers of kept units) with the smallest total loss within the budget.

        Levels are indices, int64 (n_layers,). They are the optimum if costs add up over layers, else an approximation.

        Parameters
        ----------
        losses : sequence of float64 arrays
            For every layer, the loss at each of its levels; higher levels have lower losses.
        """
        here, found = self.even(), None
        for _ in range(_LINEARISATIONS):
            spent, costs = self.cost(self.numbers(here)), []
            for layer, kept in enumerate(self.kept):
                numbers = np.tile(self.numbers(here), (len(kept), 1))
                numbers[:, layer] = kept
                costs.append(np.array([self.cost(row) for row in numbers], dtype=float) - spent)
            levels = cheapest(losses, costs, self.budget - spent)
            levels = self.repaired(here if levels is None else levels, losses)
            if found is None or _total(losses, levels) < _total(losses, found):
                found = levels
            if np.array_equal(levels, here):
                break
            here = levels
        assert found is not None
        while (better := self._exchanged(found, losses)) is not None:
            found = better
        return found

    def _exchanged(self, levels: np.ndarray, losses: Sequence[np.ndarray]) -> np.ndarray | None:
        """Return levels of lower loss that fit, with one layer a step up and another some steps down; None without."""
        if not self.fits(levels):
            return None
        for up in np.flatnonzero(levels < self.top):
            for down in np.flatnonzero(levels):
                after = levels.copy()
                after[up] += 1
                while down != up and after[down] and not self.fits(after):
                    after[down] -= 1
                if self.fits(after):
                    after = self.repaired(after, losses)
                    if _total(losses, after) < _total(losses, levels) - 1e-12:
                        return after
        return None

    def repaired(self, levels: np.ndarray, losses: Sequence[np.ndarray]) -> np.ndarray:
        """Return levels (indices of numbers of kept units): ``levels``, lowered to fit the budget, then raised in it.

        Each step has the smallest loss per saved cost, or the largest gain per added cost.
        """
        levels = levels.copy()
        while not self.fits(levels) and (steps := self._steps(levels, losses, -1)):
            levels[min(steps)[1]] -= 1
        while steps := [step for step in self._steps(levels, losses, 1) if step[2]]:
            levels[min(steps)[1]] += 1
        return levels

    def _steps(self, levels: np.ndarray, losses: Sequence[np.ndarray], by: int) -> list[tuple[float, int, bool]]:
        """(change of the loss per cost, layer, whether the levels then fit) of every step up (1) or down (-1)."""
        here, found = self.cost(self.numbers(levels)), []
        for layer, level in enumerate(levels):
            if 0 <= level + by < len(self.kept[layer]):
                after = levels.copy()
                after[layer] += by
                there = self.cost(self.numbers(after))
                change = float(losses[layer][level + by] - losses[layer][level])
                found.append((change / max(abs(there - here), 1e-12), layer, there <= self.budget))
        return found


def cheapest(
    losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], budget: float, buckets: int = _BUCKETS
) -> np.ndarray | None:
    """Return the choice of one option per layer with the least total loss within a cost budget; None if no choice fits.

    The result is int64 (n_layers,), the index of each layer's option. Dynamic programme of the multiple-choice
    knapsack. Exact for whole costs and a range of at most ``buckets``; otherwise costs are rounded up to ``buckets``
    equal parts of the range, so that a choice never exceeds the budget. None if no choice fits.

    Parameters
    ----------
    losses, costs : sequence of float64 arrays
        For every layer, loss and cost of each of its choices.
    """
    room = budget - sum(float(cost.min()) for cost in costs)
    if room < 0:
        return None
    above = [cost - cost.min() for cost in costs]
    room = min(room, sum(float(cost.max()) for cost in above))
    whole = room <= buckets and all((cost == cost.round()).all() for cost in above)
    unit = 1.0 if whole or room == 0 else room / buckets
    size = int(room / unit + 1e-9) + 1
    least, choices = np.zeros(size), []
    for loss, cost in zip(losses, above, strict=True):
        after, choice = np.full(size, np.inf), np.zeros(size, dtype=np.int64)
        for place, weight in enumerate(np.ceil(cost / unit - 1e-9).astype(int)):
            if weight < size:
                total = least[: size - weight] + loss[place]
                better = np.flatnonzero(total < after[weight:])
                after[weight + better], choice[weight + better] = total[better], place
        least = after
        choices.append((choice, np.ceil(cost / unit - 1e-9).astype(int)))
    found, left = [], size - 1
    for choice, weights in reversed(choices):
        found.append(int(choice[left]))
        left -= weights[found[-1]]
    return np.array(found[::-1])


def filled(
    kept: np.ndarray, layers: Sequence[int], sizes: np.ndarray, fits: Callable[[np.ndarray], bool]
) -> np.ndarray:
    """Raise the number of kept units in one layer after the other as far as the budget allows; return the numbers.

    The result is int64 (n_layers,).

    Parameters
    ----------
    kept, sizes : int64 (n_layers,)
        Kept units and all units of every layer.
    layers : sequence of int
        Indices of the layers, in the order in which their numbers rise.
    fits : callable
        Whether numbers of kept units cost no more than the budget; more units never cost less.
    """
    kept = kept.copy()
    for layer in layers:
        low, high = int(kept[layer]), int(sizes[layer])
        kept[layer] = min(low + 1, high)
        if low == high or fits(kept):
            low = int(kept[layer])
            while low < high:
                kept[layer] = middle = (low + high + 1) // 2
                low, high = (middle, high) if fits(kept) else (low, middle - 1)
        kept[layer] = low
    return kept


def _total(losses: Sequence[np.ndarray], levels: np.ndarray) -> float:
    return float(sum(loss[level] for loss, level in zip(losses, levels, strict=True)))
