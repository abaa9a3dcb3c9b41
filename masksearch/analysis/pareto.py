"""Pareto fronts: what is the best that can be had for a cost."""

from collections.abc import Sequence

import numpy as np

__all__ = ["pareto_front"]


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
