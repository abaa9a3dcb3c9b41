"""What a parametrisation is, and how saliencies become ranks."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from masksearch.core.mask import Mask
from masksearch.core.protocol import Problem
from masksearch.utils.seeds import torch_generator

__all__ = ["Parametrisation", "ranks_of"]


class Parametrisation(ABC):
    """Numbers within bounds -> a saliency -> the mask of its top units.

    Density, ``hold`` and ``on_empty`` are the space's: whatever the numbers, the mask is one that the problem allows.
    Where the problem would raise on an emptied layer, one unit is kept there instead.

    Attributes
    ----------
    names : list of str
        Of the parameters.
    low, high : float64 array (n_parameters,)
        Their bounds.
    starts : list of float64 array (n_parameters,)
        Points worth scoring before any other.
    """

    def __init__(self, problem: Problem, names: list[str], low: float | np.ndarray, high: float | np.ndarray) -> None:
        self.problem = problem
        self.names = names
        self.low, self.high = np.full(len(names), low, dtype=float), np.full(len(names), high, dtype=float)
        self.starts: list[np.ndarray] = []

    @abstractmethod
    def saliency(self, values: np.ndarray, number: int) -> Tensor:
        """The saliency, float64 (n_units,), of a point; ``number`` is the trial's, for what is drawn anew each time."""

    def mask(self, values: np.ndarray, number: int) -> Mask:
        """The mask of one point."""
        return self.problem.top_k(self.saliency(values, number))

    def _begin_with(self, *points: np.ndarray) -> None:
        """Add to the starts what is new, moved into the bounds."""
        for point in points:
            inside = np.clip(point, self.low, self.high)
            if not any(np.array_equal(inside, start) for start in self.starts):
                self.starts.append(inside)


def ranks_of(saliency: Tensor, seed: int) -> Tensor:
    """0 for the lowest value up to n - 1, int64; among equals, in a random order that the seed fixes."""
    shuffled = torch.randperm(len(saliency), generator=torch_generator(seed, "optuna", "ties"))
    order = shuffled[torch.argsort(saliency[shuffled], stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks
