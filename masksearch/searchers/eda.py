"""Estimation of distribution: learn how often good masks keep each unit, and draw masks with these probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from masksearch.core.density_allocation import Scope
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError, check_numbers
from masksearch.utils.registry import choose
from masksearch.utils.seeds import torch_generator

_LEARNING = 40  # rate x generations of a whole search: fast enough to converge, slow enough to explore (measured)
_RATE_MOST, _RATE_UNKNOWN = 0.5, 0.1  # where the budget is short; where it counts seconds alone


@dataclass
class EDAState:
    """State from which :class:`EDA` resumes: the probability to keep each unit, and the best masks of this generation.

    The random generator is saved apart.
    """

    start_is_due: bool  # whether the given start mask is still to be proposed
    probabilities: Tensor  # probability of every unit to be kept, float64 (n_units,)
    seen: int = 0  # number of scored masks of this generation
    best: list[tuple[float, Mask]] = field(default_factory=list)  # elites so far, best first
    generations: int = 0  # number of finished generations


@dataclass
class EDA(Searcher):
    """Estimation of distribution: learns with which probability good masks keep each unit, and draws masks from that.

    All units are independent. Every unit has a probability of being kept. A generation of masks is drawn from them;
    then the probabilities move by ``rate`` towards the shares in which its best masks keep each unit: Baluja 1994
    (PBIL), Mühlenbein & Paass 1996 (UMDA, rate 1), Rubinstein 1999 (the cross-entropy method, where the rate is called
    smoothing).

    Masks have the exact density: the units of highest ``logit(p) + noise`` are kept. The noise is logistic, which is
    the difference of two Gumbel variables, one for keeping the unit and one for pruning it. So drawn (Pareto sampling,
    Rosén 1997), a unit is kept about as often as its probability says; with one Gumbel variable alone (Gumbel-top-k,
    Kool et al. 2019) it isn't, and the search converges early, to a worse mask (measured).

    Once a generation has its full number of elites, proposals carry a threshold, the worst elite's score.
    """

    generation: int = 50  # number of masks between two updates of the probabilities
    elites: int = 12  # number of best masks of a generation, towards which the probabilities move
    rate: float | None = None  # learning rate: share of the way per generation; None: set from the budget
    margin: float = 0.3  # all probabilities are at least margin / n_units away from 0 and 1
    trust: float = 0.8  # weight of the start mask or saliency in the first probabilities; the rest is uniform
    saliency: str | None = None  # name of the saliency to start from; None: the start mask, if there is one
    scope: Scope = "global"  # "global", or fixed densities of the layers: "layerwise" (equal) or "erk"

    names_saliency = True

    def __post_init__(self) -> None:
        check_numbers(self, generation=100_000, elites=100_000)
        if self.generation < 1 or not 1 <= self.elites <= self.generation:
            raise InputError(
                f"eda: generation {self.generation}, elites {self.elites}; needed are 1 <= elites <= generation"
            )
        if self.rate is not None and not 0 < self.rate <= 1:
            raise InputError(f"eda: rate {self.rate}; a share in (0, 1] is needed")
        if not 0 < self.margin <= 0.5:
            raise InputError(f"eda: margin {self.margin}; it must lie in (0, 0.5]")
        if not 0 <= self.trust <= 1:
            raise InputError(f"eda: trust {self.trust}; a share in [0, 1] is needed")
        choose("scope of eda", self.scope, list(get_args(Scope)))

    def reset(self) -> None:  # noqa: D102
        self.generator = torch_generator(self.problem.seed, "eda")
        self._rate = self.rate or _rate_for(self.problem.budget.scorings, self.generation)
        self.state = EDAState(self.problem.start is not None, self._prior())
        self._set(self.state.probabilities)

    def _prior(self) -> Tensor:
        problem = self.problem
        if self.saliency is not None:
            name = choose("saliency of eda", self.saliency, list(problem.saliencies))
            expected = _by_rank(problem.saliencies[name], self._draw(problem.saliencies[name]).n_kept)
        elif problem.start is not None:
            expected = problem.start.bits.double()
        else:
            expected = self._draw(torch.rand(problem.space.n_units, generator=self.generator)).bits.double()
            return torch.full_like(expected, expected.mean().item())
        return (1 - self.trust) * expected.mean() + self.trust * expected

    def _set(self, probabilities: Tensor) -> None:
        least = self.margin / self.problem.space.n_units
        kept = self.state.probabilities = probabilities.clamp(least, 1 - least)
        self._logits = kept.logit()
        self._entropy = float(torch.special.entr(torch.stack([kept, 1 - kept])).sum())

    def _draw(self, ranking: Tensor) -> Mask:
        """The mask of the highest-ranking units; a layer that would be empty keeps one, unless it may be empty."""
        return self.problem.top_units(ranking, self.scope, self.generator)

    @property
    def supports_late_scores(self) -> bool:  # noqa: D102
        return True  # late scores count for the generation in which they come in

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        masks = []
        if self.state.start_is_due and self.problem.start is not None:
            masks.append(self.problem.start)
            self.state.start_is_due = False
        while len(masks) < min(n, self.generation - self.state.seen):
            noise = torch.rand(len(self._logits), generator=self.generator, dtype=torch.float64).logit()
            masks.append(self._draw(self._logits + noise))
        # A mask that scores below the last of a full set of elites changes nothing, whatever its score.
        threshold = self.state.best[-1][0] if len(self.state.best) == self.elites else None
        return [replace(Proposal.of(mask), threshold=threshold) for mask in masks]

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        for proposal, score in zip(proposals, scores, strict=True):
            self.state.seen += 1
            if score.exact and not np.isnan(score.value):
                place = sum(value >= score.value for value, _ in self.state.best)
                self.state.best.insert(place, (score.value, proposal.mask))
                del self.state.best[self.elites :]
        if self.state.seen >= self.generation:
            self._learn()

    def _learn(self) -> None:
        if self.state.best:
            shares = torch.zeros_like(self.state.probabilities)
            for _, mask in self.state.best:
                shares += mask.bits
            self._set(self.state.probabilities.lerp(shares / len(self.state.best), self._rate))
        self.state.seen, self.state.best = 0, []
        self.state.generations += 1

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {"entropy": self._entropy, "generation": self.state.generations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state)
        self._set(self.state.probabilities)


def _rate_for(scorings: int | None, generation: int) -> float:
    """The rate at which a search with this number of scorings converges before it ends."""
    return _RATE_UNKNOWN if scorings is None else min(_RATE_MOST, _LEARNING * generation / scorings)


def _by_rank(saliency: Tensor, kept: int) -> Tensor:
    """Probabilities that fall with the rank, 1/2 at the border of the ``kept`` best: float64 (n_units,)."""
    n = len(saliency)
    rank = torch.empty(n, dtype=torch.float64)
    rank[saliency.detach().cpu().argsort(descending=True, stable=True)] = torch.arange(n, dtype=torch.float64)
    width = max(1, min(kept, n - kept)) / 4
    return ((kept - 0.5 - rank) / width).sigmoid()
