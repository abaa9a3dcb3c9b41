"""CMA-ES whose state is the list of (point, score) pairs; replaying them restores the optimiser exactly."""

from dataclasses import dataclass

import cmaes  # type: ignore[import-untyped]
import numpy as np

from masksearch.utils.seeds import derive

_FULL = 100  # parameters; with more, the covariance is diagonal
_SIGMA = 1 / 6  # standard deviation of the first population, as a share of the bounds' distance


@dataclass
class Cmaes:
    """CMA-ES optimiser of points in the unit cube (Hansen 2016); it can be restored from the points scored so far.

    Once converged, it is restarted with twice the population (IPOP, Auger & Hansen 2005). Above 100 parameters the
    covariance is diagonal (Ros & Hansen 2008): the full one costs cubic time and more scorings than a search has.

    The first points are starts that the optimiser has not proposed. The best of them is its first mean; without starts,
    the first mean is the middle of the cube.
    """

    n_parameters: int
    seed: int  # seed of all random draws
    first: int  # number of start points, which are scored before the optimiser proposes points

    def __post_init__(self) -> None:
        self._n_scored = 0
        self._start, self._start_score = np.full(self.n_parameters, 0.5), -np.inf
        self._generation: list[tuple[np.ndarray, float]] = []
        self._restarts = 0
        self._optimizer: cmaes.CMA | cmaes.SepCMA | None = None

    @property
    def max_asks(self) -> int:
        """Return how many points :meth:`ask` can still give before :meth:`tell` has to be called."""
        if self._n_scored < self.first:
            return self.first - self._n_scored
        return self._ready().population_size - len(self._generation)

    @property
    def step_size(self) -> float | None:
        """Return the standard deviation of the points that CMA-ES draws; None before its first population."""
        return None if self._optimizer is None else float(self._optimizer._sigma)

    def ask(self, number: int) -> np.ndarray:
        """Return the next point of the unit cube to score, an array (n_parameters,), drawn with the seed ``number``."""
        optimizer = self._ready()
        optimizer.reseed_rng(derive(self.seed, "cmaes", number) % 2**32)
        return optimizer.ask()

    def tell(self, point: np.ndarray, score: float | None) -> None:
        """Give CMA-ES the score of a point, or None if its trial failed. Call this in order of the trials' numbers."""
        self._n_scored += 1
        if score is None:
            return
        if self._n_scored <= self.first:
            if score > self._start_score:
                self._start, self._start_score = point, score
            return
        optimizer = self._ready()
        self._generation.append((point, -score))
        if len(self._generation) == optimizer.population_size:
            optimizer.tell(self._generation)
            self._generation = []
            if optimizer.should_stop():
                self._restarts += 1
                centre = np.random.default_rng(derive(self.seed, "restart", self._restarts)).random(self.n_parameters)
                self._optimizer = self._new(centre, 2 * optimizer.population_size)

    def _ready(self) -> "cmaes.CMA | cmaes.SepCMA":
        if self._optimizer is None:
            self._optimizer = self._new(self._start, None)
        return self._optimizer

    def _new(self, mean: np.ndarray, population: int | None) -> "cmaes.CMA | cmaes.SepCMA":
        n = self.n_parameters
        kind = cmaes.CMA if n <= _FULL else cmaes.SepCMA
        bounds = np.tile([0.0, 1.0], (n, 1))
        return kind(mean.copy(), _SIGMA, bounds=bounds, n_max_resampling=10 * n, seed=0, population_size=population)
