"""The density as one more parameter, where the problem has a cost."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from masksearch.core.mask import Mask
from masksearch.core.protocol import Problem
from masksearch.searchers.optuna.parametrisations.parametrisation import Parametrisation
from masksearch.utils.errors import InputError

__all__ = ["RANGE", "FreeDensity"]

RANGE = 32
"""The largest density that is searched where masks have a cost / the smallest."""


class FreeDensity(Parametrisation):
    """Another parametrisation's numbers and, before them, the density: what is searched where the problem has a cost.

    The density is on a log scale, from a 32nd of the problem's to the problem's, and every mask has its own exactly, in
    what the problem holds. Masks keep one unit of every layer at least, also where the problem allows less: without it
    there is no smaller network to have the cost.

    Begun is with the first of the other's starts at both ends, so that the front reaches from one to the other; then
    come all of them at a half, a quarter and an eighth of the problem's density.

    Parameters
    ----------
    at : callable
        Makes the other parametrisation, for a problem of one density.
    """

    def __init__(self, problem: Problem, at: Callable[[Problem], Parametrisation]) -> None:
        density = problem.density
        if isinstance(density, Mapping):
            raise InputError("density: one per layer; where masks have a cost, give one density, the largest")
        problem = replace(problem, on_empty="keep_one")
        self._other = other = at(problem)
        high = math.log(density)
        low = min(high, max(high - math.log(RANGE), math.log(self._least(problem))))
        bounds = (np.concatenate([[low], other.low]), np.concatenate([[high], other.high]))
        super().__init__(problem, ["log density", *other.names], *bounds)
        for value, starts in [
            *((end, other.starts[:1]) for end in (high, low)),
            *((high - math.log(part), None) for part in (2, 4, 8)),
        ]:
            if starts is None:
                starts = at(replace(problem, density=math.exp(max(value, low)))).starts
            self._begin_with(*(np.concatenate([[value], start]) for start in starts))

    @staticmethod
    def _least(problem: Problem) -> float:
        """The density of one unit a layer."""
        space = problem.space
        one_each = Mask.of_units(space, np.array([layer.start for layer in space.layers]))
        return space.share(one_each, problem.hold) * (1 + 1e-9)  # rounded, it must not become less

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return self._other.saliency(values[1:], number)

    def mask(self, values: np.ndarray, number: int) -> Mask:  # noqa: D102
        density = min(math.exp(values[0]), float(self.problem.density))  # type: ignore[arg-type]
        return replace(self.problem, density=density).top_k(self.saliency(values, number))
