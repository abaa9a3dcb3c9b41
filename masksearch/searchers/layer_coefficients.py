"""Searches of a few numbers per layer that split the budget over the layers: SPDY, ZipLM and LeGR."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.level_searcher import LevelSearcher, RankedUnits
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose
from masksearch.utils.seeds import numpy_generator

ALLOCATIONS = ("prior", "saliency", "affine")


@dataclass
class CoefficientState:
    """State from which :class:`LayerCoefficients` resumes: random generator, and coefficients with their scores."""

    rng: np.random.Generator
    start_is_due: bool  # whether the given start mask is still to be proposed
    asked: int = 0  # number of proposals, the start mask apart
    values: list[float] = field(default_factory=list)  # scores of ``points``, oldest first
    points: list[np.ndarray] = field(default_factory=list)  # coefficients in [0, 1], float64 (n,)
    best: np.ndarray | None = None  # coefficients of the highest score
    best_value: float = -math.inf


@dataclass
class LayerCoefficients(LevelSearcher):
    """Search one or two numbers per layer that decide the layers' densities, by a dynamic programme or a ranking.

    The first mask has equal coefficients: it is the allocation without a search. Random coefficients follow, then
    changes of some coefficients of a parent.

    - ``prior``: the dynamic programme minimises the sum over layers of c x ((1 - density) / (1 - lowest density))^2
      under the budget (SPDY, Frantar & Alistarh 2022). The parent has the highest score so far.
    - ``saliency``: the same with the pruned share of the layer's saliency in place of the prior. With the saliency
      ``energy`` this share is the measured relative error of the layer (ZipLM, Kurtic et al. 2023).
    - ``affine``: units rank by a x saliency + b, with two numbers per layer (LeGR, Chin et al. 2020). The parent is the
      best of some random members of a population, which a child enters in place of the oldest member.

    MACs are products of neighbouring widths: see :class:`~masksearch.core.width_levels.Levels`.
    """

    allocation: str = "prior"
    """Numbers that are searched per layer: "prior", a factor of its assumed loss; "saliency", a factor of its pruned
    saliency; "affine", a scale and a shift of its saliencies."""
    first: int = 100
    """Largest number of masks at the start for which coefficients are drawn at random; at most half of the budget."""
    change: float = 0.1
    """Share of the parent's coefficients that are drawn anew for its child; at least one coefficient."""
    population: int = 0
    """How many of the last scored coefficients may become parents; 0: only those with the highest score so far."""
    tournament: int = 16
    """Number of candidates (coefficients of scored masks) drawn at random; the one of highest score is the parent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("allocation", self.allocation, list(ALLOCATIONS))
        if self.first < 1 or self.population < 0 or self.tournament < 1 or not 0 < self.change <= 1:
            raise InputError(
                f"coefficients: first {self.first}, change {self.change}, population {self.population}, tournament "
                f"{self.tournament}; needed are first >= 1, change in (0, 1], population >= 0, tournament >= 1"
            )

    @classmethod
    def spdy(cls) -> "LayerCoefficients":
        """Search the layers' densities by a factor of each layer's assumed loss (SPDY, Frantar & Alistarh 2022)."""
        return cls()

    @classmethod
    def ziplm(cls) -> "LayerCoefficients":
        """Search the layers' densities by a factor of each layer's pruned saliency (ZipLM, Kurtic et al. 2023)."""
        return cls(allocation="saliency")

    @classmethod
    def legr(cls) -> "LayerCoefficients":
        """Search a scale and a shift of each layer's saliencies, to rank all units at once (LeGR, Chin et al. 2020)."""
        return cls(allocation="affine", first=64, population=64)

    def reset(self) -> None:  # noqa: D102
        super().reset()
        rng = numpy_generator(self.problem.seed, "layer_coefficients")
        self.state = CoefficientState(rng, self.problem.start is not None)
        scorings = self.problem.budget.scorings
        self._first = self.first if scorings is None else max(1, min(self.first, scorings // 2))
        self._waiting: list[np.ndarray | None] = []

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        state = self.state
        proposals: list[Proposal] = []
        self._waiting = []
        while len(proposals) < n:
            if state.start_is_due and self.problem.start is not None:
                state.start_is_due, point, mask = False, None, self.problem.start
            else:
                point = self._point()
                mask = self._mask(point, self._ranked(state.asked))
                state.asked += 1
            proposals.append(Proposal.of(mask))
            self._waiting.append(point)
        return proposals

    def _point(self) -> np.ndarray:
        """The next coefficients in [0, 1]: equal, then random, then those of a parent with some changes."""
        state, size = self.state, len(self.problem.space.layers) * (2 if self.allocation == "affine" else 1)
        if not state.asked:
            return np.full(size, 0.5)
        parent = state.best
        if state.asked < self._first or parent is None:
            return state.rng.random(size)
        if self.population:
            drawn = state.rng.choice(len(state.values), min(self.tournament, len(state.values)), replace=False)
            parent = state.points[max(drawn, key=lambda place: state.values[place])]
        child = parent.copy()
        changed = state.rng.choice(size, max(1, round(self.change * size)), replace=False)
        child[changed] = state.rng.random(len(changed))
        return child

    def _mask(self, point: np.ndarray, ranked: RankedUnits) -> Mask:
        if self.allocation == "affine":
            return self._ranking(point, ranked)
        losses = ranked.relative_losses() if self.allocation == "saliency" else self._prior(ranked)
        losses = [coefficient * loss for coefficient, loss in zip(point, losses, strict=True)]
        best = ranked.levels.best(losses)
        gains = [loss[level] - loss[min(level + 1, len(loss) - 1)] for loss, level in zip(losses, best, strict=True)]
        return ranked.mask(best, np.argsort(gains)[::-1].tolist())

    @staticmethod
    def _prior(ranked: RankedUnits) -> list[np.ndarray]:
        """SPDY's losses of every layer's levels: the square of the level's place from the top, in [0, 1]."""
        shares = [kept / size for kept, size in zip(ranked.levels.kept, ranked.sizes, strict=True)]
        return [((1 - share) / max(1 - share[0], 1e-12)) ** 2 for share in shares]

    def _ranking(self, point: np.ndarray, ranked: RankedUnits) -> Mask:
        """The top units of a x saliency + b: a in [1/4, 4], b within two deviations of all saliencies."""
        n = len(ranked.sizes)
        saliency = ranked.saliency
        sizes = torch.from_numpy(ranked.sizes)
        scale = torch.from_numpy(4.0 ** (2 * point[:n] - 1)).repeat_interleave(sizes)
        shift = torch.from_numpy(2 * (2 * point[n:] - 1)).repeat_interleave(sizes) * saliency.std(correction=0)
        return self.problem.top_units(scale * saliency + shift)

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        state = self.state
        for score, point in zip(scores, self._waiting, strict=True):
            if point is None or not score.exact or math.isnan(score.value):
                continue
            if score.value > state.best_value:
                state.best, state.best_value = point, score.value
            state.points, state.values = [*state.points, point], [*state.values, score.value]
            state.points, state.values = state.points[-self.population :], state.values[-self.population :]
        if not self.population:
            state.points, state.values = [], []
