"""Best-so-far curves of searches, means of curves over seeds, and Pareto fronts of value against cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from masksearch.utils.errors import InputError


def pareto_front(values: Sequence[float], costs: Sequence[float]) -> np.ndarray:
    """Return indices of the points on the Pareto front (no other point has higher value at lower cost), cheapest first.

    Parameters
    ----------
    values : sequence of float (n,)
        Higher is better, as accuracy; NaN is never on the front.
    costs : sequence of float (n,)
        Lower is better, as parameters or MACs. Equal points are all on the front, in their order.
    """
    worth, spent = np.asarray(values, dtype=float), np.asarray(costs, dtype=float)
    front: list[int] = []
    for place in np.lexsort((-worth, spent)):  # of equal costs the best first
        last = front[-1] if front else None
        same = last is not None and (worth[last], spent[last]) == (worth[place], spent[place])
        if same or (worth[place] > worth[last] if last is not None else not np.isnan(worth[place])):
            front.append(int(place))
    return np.array(front, dtype=int)


def best_so_far(costs: Sequence[float], scores: Sequence[float], looks: Sequence[float]) -> np.ndarray:
    """Return, for each cost in ``looks`` (say, 10 and 20 scorings), the best score that a search had found by then.

    Parameters
    ----------
    costs : sequence of float (n_trials,)
        Cost up to each trial, never falling: scorings, example evaluations or seconds.
    scores : sequence of float (n_trials,)
        NaN where there is no exact score.
    looks : sequence of float (n_looks,)
        Costs at which the best score is returned.

    Returns
    -------
    float array (n_looks,)
        Never falling along rising looks; NaN before the first score.

    Raises
    ------
    InputError
        If the costs fall, or there are not as many as scores.
    """
    spent, values = np.asarray(costs, dtype=float), np.asarray(scores, dtype=float)
    if spent.shape != values.shape or (np.diff(spent) < 0).any():
        raise InputError(
            f"costs: shape {spent.shape} for scores of shape {values.shape}; give one cost per score, in rising order"
        )
    best = np.fmax.accumulate(np.append(np.nan, values))
    return best[np.searchsorted(spent, np.asarray(looks, dtype=float), side="right")]


@dataclass(frozen=True)
class Band:
    """Mean of curves over seeds, with a 95 % interval at each point."""

    mean: np.ndarray  # (n_looks,)
    low: np.ndarray  # ends of the 95 % interval (Student's t); NaN with one seed
    high: np.ndarray


def band(curves: np.ndarray) -> Band:
    """Return the mean of curves (one per seed), with a 95 % interval at each point.

    Parameters
    ----------
    curves : float array (n_seeds, n_looks)
        NaN in one seed makes the look NaN: means over fewer seeds would jump.
    """
    curves = np.asarray(curves, dtype=float)
    n = len(curves)
    mean = curves.mean(0)
    half = stdtrit(n - 1, 0.975) * curves.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return Band(mean, mean - half, mean + half)
