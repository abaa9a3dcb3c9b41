"""The base class of parametrisations, and ranks of saliencies."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Problem
from masksearch.utils.seeds import torch_generator


class Parametrisation(ABC):
    """Base class of mappings from a point (a few numbers that a sampler proposes) to a mask of a given density.

    A point gives a saliency of all units, and the mask keeps the top units.
    The problem's amount fixes density, ``hold`` and ``on_empty``, so that the problem allows the mask of every point.
    Where the problem would raise an error for an empty layer, one unit of the layer is kept instead.

    Attributes
    ----------
    names : list of str
        Names of the parameters.
    low, high : float64 array (n_parameters,)
        Bounds of the parameters.
    starts : list of float64 array (n_parameters,)
        Points that are scored first.
    """

    def __init__(self, problem: Problem, names: list[str], low: float | np.ndarray, high: float | np.ndarray) -> None:
        self.problem = problem
        self.names = names
        self.low, self.high = np.full(len(names), low, dtype=float), np.full(len(names), high, dtype=float)
        self.starts: list[np.ndarray] = []

    @abstractmethod
    def saliency(self, values: np.ndarray, number: int) -> Tensor:
        """Return the saliencies (n_units,) that a point defines; ``number`` is a seed for random draws."""

    def mask(self, values: np.ndarray, number: int) -> Mask:
        """Return the mask of the units with the top saliencies at a point; ``number`` is a seed for random draws."""
        return self.problem.top_k(self.saliency(values, number))

    def _add_starts(self, *points: np.ndarray) -> None:
        """Add points to the starts, clipped to the bounds, without repeats."""
        for point in points:
            inside = np.clip(point, self.low, self.high)
            if not any(np.array_equal(inside, start) for start in self.starts):
                self.starts.append(inside)


def ranks_of(saliency: Tensor, seed: int) -> Tensor:
    """Return the rank of each of n values, 0 for the lowest; equal values are ranked in a random order."""
    shuffled = torch.randperm(len(saliency), generator=torch_generator(seed, "optuna", "ties"))
    order = shuffled[torch.argsort(saliency[shuffled], stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks
