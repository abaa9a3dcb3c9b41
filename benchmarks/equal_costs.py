"""Accuracy at equal costs: between a method's own sparsities, along the logarithm of what their tickets cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.rows import Row, number, series
from masksearch.analysis import Estimate

__all__ = ["APART", "COSTS", "Cost", "at_share", "costs_differ", "dense_cost", "interpolated", "mean_points", "shares"]

Places = Mapping[tuple[float, int], Row]

APART = 0.1  # costs of one sparsity that differ by less are as good as equal
_COLUMNS = 5  # of a table
_REACH = 2 / 3  # share of the methods that have measurements on both sides of a table's costs


@dataclass(frozen=True)
class Cost:
    """A cost of tickets: its name, its column, and the column of the dense network's cost."""

    word: str
    column: str
    dense: str  # the same of the dense network


COSTS = (
    Cost("parameters", "cost.nonzero_params", "dense.params"),
    Cost("MACs", "cost.effective_macs", "dense.macs"),
)


def interpolated(costs: Sequence[float], values: Sequence[float], at: float) -> float:
    """Return the value at a cost, interpolated linearly over the logarithm of the cost.

    Parameters
    ----------
    costs, values : sequences of float (n,)
        Measurements in any order. Of equal costs the mean value counts; those that cost nothing don't count.
    at : float
        A cost.

    Returns
    -------
    float
        NaN if the measurements don't enclose ``at``, or a measurement next to it is NaN.
    """
    spent, worth = np.asarray(costs, dtype=float), np.asarray(values, dtype=float)
    spent, worth = spent[spent > 0], worth[spent > 0]
    known = np.unique(spent)
    if not len(known) or not known[0] <= at <= known[-1]:
        return np.nan
    means = np.array([worth[spent == one].mean() for one in known])
    if at in known:  # a NaN beside it says nothing of it
        return float(means[known == at][0])
    return float(np.interp(np.log(at), np.log(known), means))


def mean_points(rows: Sequence[Row], *columns: str) -> dict[tuple[str, float], list[float]]:
    """Return {(series, sparsity): means of columns over seeds}, where all seeds are there."""
    points: dict[tuple[str, float], list[Row]] = {}
    for name, places in series(rows).items():
        for (sparsity, _), row in sorted(places.items()):
            points.setdefault((name, sparsity), []).append(row)
    seeds = max(map(len, points.values()))
    return {
        place: [float(np.mean([number(row, column) for row in own])) for column in columns]
        for place, own in points.items()
        if len(own) == seeds
    }


def costs_differ(rows: Sequence[Row], cost: Cost) -> bool:
    """Return whether, at some sparsity, mean costs of methods differ by more than a tenth."""
    found: dict[float, list[float]] = {}
    for (_, sparsity), (mean,) in mean_points(rows, cost.column).items():
        found.setdefault(sparsity, []).append(mean)
    return any(max(means) > (1 + APART) * min(means) for means in found.values())


def dense_cost(rows: Sequence[Row], cost: Cost) -> float:
    """Return the cost of the dense network; NaN if rows lack it."""
    return number(rows[0], cost.dense)


def shares(rows: Sequence[Row], cost: Cost) -> list[float]:
    """Return shares of the dense network's cost for a table, evenly on a log scale, with two digits.

    They go from the lowest to the highest cost that at least two thirds of the methods enclose with every seed. None
    if there is no such range.
    """
    ends = np.array([_ends(places, cost.column) for places in series(rows).values()]) / dense_cost(rows, cost)
    enclosed = [at for at in ends.ravel() if ((ends[:, 0] <= at) & (at <= ends[:, 1])).mean() >= _REACH and at > 0]
    if not enclosed:
        return []
    low, high = _two_digits(min(enclosed), np.ceil), _two_digits(max(enclosed), np.floor)
    if low >= high:
        return []
    inner = [_two_digits(one, np.round) for one in np.geomspace(low, high, _COLUMNS)[1:-1]]
    return sorted({low, *inner, high})


def at_share(places: Places, cost: Cost, column: str, share: float) -> Estimate:
    """Return a column at a share of the dense network's cost, over seeds; each seed is interpolated by itself.

    It is NaN where not every seed has measurements on both sides: the mean of some would be one of other tickets.
    """
    return Estimate.of(
        interpolated(
            [number(row, cost.column) for row in own],
            [number(row, column) for row in own],
            share * number(own[0], cost.dense),
        )
        for own in _by_seed(places)
    )


def _by_seed(places: Places) -> list[list[Row]]:
    found: dict[int, list[Row]] = {}
    for (_, seed), row in sorted(places.items()):
        found.setdefault(seed, []).append(row)
    return list(found.values())


def _ends(places: Places, column: str) -> tuple[float, float]:
    """Return the lowest and the highest cost that all seeds enclose."""
    costs = [[number(row, column) for row in own] for own in _by_seed(places)]
    return max(map(min, costs)), min(map(max, costs))


def _two_digits(value: float, rounding: np.ufunc) -> float:
    digits = 1 - int(np.floor(np.log10(value)))
    return float(round(rounding(round(value * 10.0**digits, 9)) / 10.0**digits, digits))
