"""Column orders of a weight matrix under which N:M pruning loses little: annealing, and greedy swaps.

The matrix V (columns, rows) holds an importance of every weight: w^2 times the mean square of its input. In every row,
n of every m consecutive columns are kept, so that the kept energy of a group of columns is the sum over rows of the n
largest of m values, and the lost energy is the rest. Only the members of a group count, not their order.

**A swap in O(rows).** Let column a leave its group for column b. Of the other m - 1 columns, a row keeps at least the
n - 1 largest; the last place goes to b or to the n-th largest, whichever is larger. With the sums of the n - 1 largest,
``base[a]``, and the n-th largest of every row, ``rival[a]``, the group's kept energy becomes
base[a] + sum over rows of max(rival[a], V[b]). Both are computed anew only for the groups that change.
"""

import time
from dataclasses import dataclass

import numpy as np

_HOT, _COLD = 0.03, 1e-3  # first and last temperature, in standard deviations of the differences of random swaps
_ESCAPE = 4  # random swaps after which greedy search descends again
_CHUNK = 1 << 22  # numbers that are compared at once


class ColumnOrder:
    """Order of a matrix's columns for N:M pruning, with the importance that each block of M columns would keep.

    Parameters
    ----------
    values : float (columns, rows)
        Importances, 0 or more; the number of columns is a multiple of m.
    n, m : int
        Kept columns per row and group, and columns per group.

    Attributes
    ----------
    order : int64 (columns,)
        ``order[i]`` is the column at place i. Groups are m consecutive places.
    """

    def __init__(self, values: np.ndarray, n: int, m: int) -> None:
        self.values, self.n, self.m = np.ascontiguousarray(values), n, m
        self.order = np.arange(len(values))
        self.total = float(self.values.sum())
        self._base = np.zeros(len(values))  # by place
        self._rival = np.zeros_like(self.values)  # by place
        self.kept = np.zeros(self.n_groups)
        self.refresh(np.arange(self.n_groups))

    @property
    def n_groups(self) -> int:
        """Number of blocks of M consecutive columns, in each of which N:M pruning keeps N entries per row."""
        return len(self.values) // self.m

    @property
    def lost(self) -> float:
        """Share of the matrix's total importance that N:M pruning removes in the present column order."""
        return 1 - float(self.kept.sum()) / self.total if self.total > 0 else 0.0

    def set_order(self, order: np.ndarray) -> None:
        """Replace the column order by ``order``, a permutation of the column indices."""
        self.order = order.copy()
        self.refresh(np.arange(self.n_groups))

    def refresh(self, groups: np.ndarray) -> None:
        """Recompute the importance that N:M pruning keeps in the column blocks ``groups``, after columns have moved."""
        places = groups[:, None] * self.m + np.arange(self.m)
        members = self.values[self.order[places]]  # (groups, m, rows)
        ranked = _sorted(members)
        last, following = ranked[:, self.n - 1], ranked[:, self.n]
        top = ranked[:, : self.n].sum(1)
        is_kept = members >= last[:, None]  # of equal values, any may be taken out: the sums are the same
        self._rival[places] = np.where(is_kept, following[:, None], last[:, None])
        self._base[places] = np.where(is_kept, top[:, None] - members, (top - last)[:, None]).sum(2)
        self.kept[groups] = top.sum(1)

    def gains(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return how much more importance N:M pruning keeps after swapping columns left[i] and right[i], for each i."""
        one, other = self.values[self.order[left]], self.values[self.order[right]]
        after = self._base[left] + np.maximum(self._rival[left], other).sum(1)
        after += self._base[right] + np.maximum(self._rival[right], one).sum(1)
        return after - self.kept[left // self.m] - self.kept[right // self.m]

    def swap(self, left: np.ndarray, right: np.ndarray) -> None:
        """Swap columns ``left[i]`` and ``right[i]`` (positions) for every i; pairs must not share blocks of columns."""
        self.order[left], self.order[right] = self.order[right], self.order[left]
        self.refresh(np.concatenate([left, right]) // self.m)


def _sorted(members: np.ndarray) -> np.ndarray:
    """Return values (groups, m, rows) in descending order along m, by an odd-even transposition network."""
    rows = [members[:, place] for place in range(members.shape[1])]
    for step in range(len(rows)):
        for place in range(step % 2, len(rows) - 1, 2):
            high, low = rows[place], rows[place + 1]
            rows[place], rows[place + 1] = np.maximum(high, low), np.minimum(high, low)
    return np.stack(rows, 1)


@dataclass(frozen=True)
class Effort:
    """Effort that a search for a column order took: number of evaluated swaps, and seconds."""

    swaps: int  # swaps whose gain was computed
    seconds: float


def anneal(columns: ColumnOrder, swaps: int, generator: np.random.Generator, seconds: float | None = None) -> Effort:
    """Search a column order for N:M pruning by simulated annealing; at the end, ``columns`` has the best order found.

    A step pairs all groups at random and proposes one swap per pair. Pairs have no group in common, so that their
    energies add up and each swap is accepted or rejected by itself (Metropolis et al. 1953). The temperature falls
    geometrically over ``swaps``, from 0.03 to 0.001 standard deviations of the gains of random swaps.

    Parameters
    ----------
    seconds : float, optional
        Time limit, over which the temperature falls in the place of ``swaps``. The result then depends on the machine.
    """
    started, tried = time.perf_counter(), 0
    if columns.n_groups < 2:
        return Effort(0, 0.0)
    deviation = float(np.std(np.concatenate([columns.gains(*_pairs(columns, generator)) for _ in range(8)])))
    best, best_kept = columns.order.copy(), float(columns.kept.sum())
    while deviation > 0:
        spent = tried / swaps if seconds is None else (time.perf_counter() - started) / seconds
        if spent >= 1:
            break
        temperature = deviation * _HOT * (_COLD / _HOT) ** spent
        left, right = _pairs(columns, generator)
        gains = columns.gains(left, right)
        accepted = gains > temperature * np.log(np.maximum(generator.random(len(gains)), 1e-300))
        tried += len(gains)
        if accepted.any():
            columns.swap(left[accepted], right[accepted])
            kept = float(columns.kept.sum())
            if kept > best_kept:
                best, best_kept = columns.order.copy(), kept
    columns.set_order(best)
    return Effort(tried, time.perf_counter() - started)


def _pairs(columns: ColumnOrder, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw disjoint pairs of groups, and a place in each."""
    groups = generator.permutation(columns.n_groups)[: columns.n_groups // 2 * 2]
    places = groups * columns.m + generator.integers(columns.m, size=len(groups))
    half = len(groups) // 2
    return places[:half], places[half:]


def greedy_swaps(
    columns: ColumnOrder, escapes: int, generator: np.random.Generator, seconds: float | None = None
) -> Effort:
    """Search a column order for N:M pruning by repeating the best swap; if no swap helps, swap random columns.

    The search of Pool and Yu 2021 for many columns: greedy channel swaps with bounded escapes. The order ends in the
    best one found.

    Parameters
    ----------
    escapes : int
        Descents after the first one.
    seconds : float, optional
        Time limit in the place of ``escapes``.
    """
    started, tried = time.perf_counter(), 0
    gains = np.zeros((len(columns.order), len(columns.order)))
    stale = np.arange(columns.n_groups)
    best, best_kept = columns.order.copy(), float(columns.kept.sum())
    descents = 0
    while columns.n_groups > 1:
        tried += _update(columns, gains, stale)
        left, right = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[left, right] > 1e-12 * columns.total:
            columns.swap(np.array([left]), np.array([right]))
            stale = np.array([left, right]) // columns.m
        else:
            kept = float(columns.kept.sum())
            if kept > best_kept:
                best, best_kept = columns.order.copy(), kept
            descents += 1
            if seconds is None and descents > escapes:
                break
            columns.set_order(best)
            places = [_pairs(columns, generator) for _ in range(_ESCAPE)]
            for one, other in places:
                columns.swap(one[:1], other[:1])
            stale = np.arange(columns.n_groups)
        if seconds is not None and time.perf_counter() - started >= seconds:
            break
    if float(columns.kept.sum()) < best_kept:
        columns.set_order(best)
    return Effort(tried, time.perf_counter() - started)


def _update(columns: ColumnOrder, gains: np.ndarray, groups: np.ndarray) -> int:
    """Compute the gains of all pairs with a place in the groups; return how many."""
    places = (groups[:, None] * columns.m + np.arange(columns.m)).flatten()
    every = np.arange(len(gains))
    step = max(1, _CHUNK // (len(gains) * columns.values.shape[1]))
    for start in range(0, len(places), step):
        own = places[start : start + step]
        left, right = np.repeat(own, len(every)), np.tile(every, len(own))
        found = columns.gains(left, right).reshape(len(own), -1)
        found[own[:, None] // columns.m == every // columns.m] = 0  # within a group nothing changes
        gains[own] = found
        gains[:, own] = found.T
    return len(places) * len(every)
