"""Best-so-far curves: the best score over effort (anytime), the best score over cost (Pareto fronts)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from masksearch.utils.errors import InputError

__all__ = ["Band", "band", "best_so_far", "pareto_front"]


def pareto_front(values: Sequence[float], costs: Sequence[float]) -> np.ndarray:
    """Places of the points that no other point beats, from the cheapest to the dearest.

    A point beats another if it is worth no less and costs no more, and one of the two is strict. Of equal points all
    stay, in their order.

    Parameters
    ----------
    values : sequence of float (n,)
        Higher is better, as accuracy; NaN is never on the front.
    costs : sequence of float (n,)
        Lower is better, as parameters or MACs.

    Returns
    -------
    int array
        Along it costs and values never fall.
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
    """The best score of one search at every look.

    Parameters
    ----------
    costs : sequence of float (n_trials,)
        What was spent when each trial was scored, never falling: scorings, image-evaluations or seconds.
    scores : sequence of float (n_trials,)
        NaN where there is no score: a mask that fails, or a bound, which is never best.
    looks : sequence of float (n_looks,)
        Costs at which to look.

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
        raise InputError(f"costs: {spent.shape} for {values.shape} scores; as many are needed, and they may not fall")
    best = np.fmax.accumulate(np.append(np.nan, values))
    return best[np.searchsorted(spent, np.asarray(looks, dtype=float), side="right")]


@dataclass(frozen=True)
class Band:
    """A curve over seeds, at every look."""

    mean: np.ndarray
    low: np.ndarray  # ends of the 95 % interval (Student's t); NaN with one seed
    high: np.ndarray


def band(curves: np.ndarray) -> Band:
    """The mean curve and its pointwise 95 % interval.

    Parameters
    ----------
    curves : float array (n_seeds, n_looks)
        NaN in one seed makes the look NaN: means over fewer seeds would jump.
    """
    curves = np.asarray(curves, dtype=float)
    n = len(curves)
    mean = curves.mean(0)
    if n < 2:
        nothing = np.full_like(mean, np.nan)
        return Band(mean, nothing, nothing)
    half = stdtrit(n - 1, 0.975) * curves.std(0, ddof=1) / np.sqrt(n)
    return Band(mean, mean - half, mean + half)
