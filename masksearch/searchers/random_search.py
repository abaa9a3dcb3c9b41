"""Random search: independent masks of the right density. The baseline of every other searcher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from masksearch.core.density_allocation import Scope
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.searchers.searcher import Searcher
from masksearch.utils.registry import choose
from masksearch.utils.seeds import torch_generator


@dataclass
class RandomSearchState:
    """State from which a random search resumes. The random generator is saved apart."""

    start_is_due: bool  # whether the given start mask is still to be proposed


@dataclass
class RandomSearch(Searcher):
    """Random search: draws masks of the problem's density, uniformly and independently (Bergstra & Bengio 2012)."""

    scope: Scope = "global"  # "global", or fixed densities of the layers, a stronger baseline: "layerwise" or "erk"

    def __post_init__(self) -> None:
        choose("scope of random_search", self.scope, list(get_args(Scope)))

    def reset(self) -> None:  # noqa: D102
        self.generator = torch_generator(self.problem.seed, "random_search")
        self.state = RandomSearchState(start_is_due=self.problem.start is not None)

    @property
    def supports_late_scores(self) -> bool:  # noqa: D102
        return True

    def ask(self, n: int = 1) -> list[Proposal]:  # noqa: D102
        masks = []
        if self.state.start_is_due and self.problem.start is not None:
            masks.append(self.problem.start)
            self.state.start_is_due = False
        while len(masks) < n:
            masks.append(self.problem.random_mask(self.generator, self.scope))
        return [Proposal.of(mask) for mask in masks]

    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:  # noqa: D102
        pass  # the draws don't depend on scores
