"""A small search problem with a known answer, and a short search loop, for tests of searchers."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from masksearch.core.density_allocation import Density, OnEmpty
from masksearch.core.energy_protocol import Energy, EnergyState
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Problem, Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import Searcher

SPACE = MaskSpace([("first", (5, 8), 40), ("second", (4, 5), 20)])


class Planted:
    """Scorer for tests with a known best mask: the score is the share of the best mask's units that a mask keeps.

    Parameters
    ----------
    density : float
        Density of the hidden mask.
    nan_every : int
        Every ``nan_every``-th scoring is NaN; 0: none.
    """

    def __init__(self, density: Density = 0.3, nan_every: int = 0, space: MaskSpace = SPACE) -> None:
        generator = torch.Generator().manual_seed(123)
        self.goal = space.random(density, generator=generator, on_empty="allow")
        self._nan_every = nan_every
        self.scored: list[Mask] = []

    def value(self, mask: Mask) -> float:
        """Return a mask's score: the share of the best mask's units that the mask keeps. It is never NaN."""
        return int((mask.bits & self.goal.bits).sum()) / self.goal.n_kept

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """Return one score per proposed mask; every ``nan_every``-th score is NaN instead of the true value."""
        return [self._score(proposal) for proposal in proposals]

    def _score(self, proposal: Proposal) -> Score:
        self.scored.append(proposal.mask)
        is_nan = self._nan_every and len(self.scored) % self._nan_every == 0
        return Score(math.nan if is_nan else self.value(proposal.mask))


class PlantedEnergy(Energy):
    """Energy (estimated damage by a mask) for tests: a sum of known values of pruned units and of pairs of them.

    Attributes
    ----------
    pairs : np.ndarray
        The energy of a mask with the pruned units p is the sum of ``pairs`` over p x p: float64 (n_units, n_units).
    """

    def __init__(self, space: MaskSpace = SPACE, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.space, self.names = space, tuple(layer.name for layer in space.layers)
        self.layers = space.layer_of(np.arange(space.n_units))
        pairs = rng.random((space.n_units, space.n_units)) / space.n_units + np.diag(rng.random(space.n_units))
        self.pairs = np.where(self.layers[:, None] == self.layers, (pairs + pairs.T) / 2, 0.0)

    def start(self, mask: Mask, coefficients: np.ndarray | None = None) -> "PlantedState":
        """Return the state of a local search in tests: ``mask`` and its energy, updated as units change."""
        weights = np.ones(len(self.names)) if coefficients is None else coefficients
        return PlantedState(self, mask.bits.numpy().copy(), weights)


class PlantedState(EnergyState):
    """Current mask of a local search in tests, with its energy (estimated damage), updated as units change."""

    def __init__(self, energy: PlantedEnergy, bits: np.ndarray, coefficients: np.ndarray) -> None:
        self.energy, self.bits = energy, bits
        self._coefficients = coefficients
        self._pairs = energy.pairs * coefficients[energy.layers]

    @property
    def value(self) -> float:
        """Energy (estimated damage) of the current mask of a test search."""
        return float(self._coefficients @ self.terms())

    def terms(self) -> np.ndarray:
        """Return each layer's part of the test mask's energy (estimated damage): float64 (n_layers,)."""
        pruned = (~self.bits).astype(np.float64)
        worths = pruned * (self.energy.pairs @ pruned)
        return np.bincount(self.energy.layers, weights=worths, minlength=len(self.energy.names))

    def singles(self, layer: int) -> np.ndarray:
        """Return, for each unit of a layer, how the energy (estimated damage) changes if the unit is switched.

        To switch a unit is to prune it if it is kept, and to restore it if it is pruned.

        The result is float64 (layer size,).
        """
        own = self.energy.space.layers[layer]
        return self.deltas(np.arange(own.start, own.stop)[:, None])

    def deltas(self, units: np.ndarray) -> np.ndarray:
        """Return, for each row of ``units``, how the energy (estimated damage) changes if its units are switched.

        To switch a unit is to prune it if it is kept, and to restore it if it is pruned.
        """
        signs = np.where(self.bits[units], 1.0, -1.0)  # of the change of a unit's number of prunings
        blocks = self._pairs[units[:, :, None], units[:, None, :]]
        slopes = (self._pairs @ ~self.bits)[units]
        return 2 * (signs * slopes).sum(1) + (signs[:, :, None] * blocks * signs[:, None, :]).sum((1, 2))

    def toggle(self, units: np.ndarray) -> None:
        """Change the current mask at the given unit indices, int64 (r,): prune kept units, restore pruned units."""
        self.bits[units] ^= True


def problem(
    seed: int = 0,
    density: Density = 0.3,
    start: Mask | None = None,
    scorings: int = 200,
    on_empty: OnEmpty = "allow",
    space: MaskSpace = SPACE,
) -> Problem:
    """Return a small search problem for tests; by default with 60 units in two layers."""
    return Problem(space, density, Budget(scorings), seed, start, on_empty=on_empty, energy=PlantedEnergy(space))


def drive(searcher: Searcher, scorer: Planted, steps: int, batch: int = 1) -> list[Proposal]:
    """Ask a searcher for masks and score them, ``steps`` times or until the search ends; return all proposals."""
    made = []
    for _ in range(steps):
        proposals = searcher.ask(batch)
        if not proposals:
            break
        searcher.tell(proposals, scorer.score(proposals))
        made += proposals
    return made


def path_of(proposals: Sequence[Proposal]) -> list[tuple[int, float | None]]:
    """Return (mask hash, score threshold) of each proposed mask of a search, so that two searches can be compared."""
    return [(proposal.mask.hash, proposal.threshold) for proposal in proposals]
