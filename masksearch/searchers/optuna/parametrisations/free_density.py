"""Parametrisation with the mask's density as one more parameter, for searches that also minimise a cost."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Problem
from masksearch.searchers.optuna.parametrisations.base import Parametrisation

RANGE = 32
"""Ratio of the largest to the smallest density in a search with a cost."""


class FreeDensity(Parametrisation):
    """Mapping to a mask from its density and the numbers of another mapping, for searches in which masks have a cost.

    The density has a log scale, from a 32nd of the problem's density to the problem's density. Every mask has its
    density exactly, in units, parameters or MACs, as the problem says. Masks keep at least one unit of every layer,
    even if the problem allows empty layers: a network with an empty layer can't be pruned, so it has no cost.

    The first trials are the first start of the inner parametrisation at the highest and the lowest density, so that the
    front reaches from one to the other. All starts follow at a half, a quarter and an eighth of the problem's density.

    Parameters
    ----------
    at : callable
        Function that makes the other (inner) parametrisation for a problem of one density.
    """

    def __init__(self, problem: Problem, at: Callable[[Problem], Parametrisation]) -> None:
        self._largest = problem.amount.single("where masks have a cost, give one density, the largest")
        problem = replace(problem, amount=replace(problem.amount, on_empty="keep_one"))
        self._inner = inner = at(problem)
        high = math.log(self._largest)
        low = min(high, max(high - math.log(RANGE), math.log(self._least(problem))))
        bounds = (np.concatenate([[low], inner.low]), np.concatenate([[high], inner.high]))
        super().__init__(problem, ["log density", *inner.names], *bounds)
        for value, starts in [
            *((end, inner.starts[:1]) for end in (high, low)),
            *((high - math.log(part), None) for part in (2, 4, 8)),
        ]:
            if starts is None:
                starts = at(replace(problem, amount=problem.amount.at(math.exp(max(value, low))))).starts
            self._add_starts(*(np.concatenate([[value], start]) for start in starts))

    @staticmethod
    def _least(problem: Problem) -> float:
        """The density of one unit of every layer that needs one."""
        space = problem.space
        firsts = [layer.start for layer, needed in zip(space.layers, space.needed, strict=True) if needed]
        least = space.share(Mask.of_units(space, np.array(firsts, dtype=np.int64)), problem.hold)
        return (least or 1 / space.n_units) * (1 + 1e-9)  # a margin for rounding

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return self._inner.saliency(values[1:], number)

    def mask(self, values: np.ndarray, number: int) -> Mask:  # noqa: D102
        amount = self.problem.amount.at(min(math.exp(values[0]), self._largest))
        return replace(self.problem, amount=amount).top_k(self.saliency(values, number))
