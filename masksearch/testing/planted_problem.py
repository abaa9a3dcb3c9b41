"""A small problem with a known answer, and a short loop, for the checks of searchers."""

import math
from collections.abc import Sequence

import torch

from masksearch.core.amount import Density, OnEmpty
from masksearch.core.mask import Mask
from masksearch.core.protocol import Budget, Problem, Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import Searcher

__all__ = ["SPACE", "Planted", "drive", "path_of", "problem"]

SPACE = MaskSpace([("first", (5, 8), 40), ("second", (4, 5), 20)])


class Planted:
    """Scorer for tests with a known answer: the share of a hidden mask's units that a mask keeps.

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
        """Return the score of a mask; never NaN."""
        return int((mask.bits & self.goal.bits).sum()) / self.goal.n_kept

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """Return one score per proposal (a mask that a searcher suggests); every ``nan_every``-th is NaN."""
        return [self._score(proposal) for proposal in proposals]

    def _score(self, proposal: Proposal) -> Score:
        self.scored.append(proposal.mask)
        is_nan = self._nan_every and len(self.scored) % self._nan_every == 0
        return Score(math.nan if is_nan else self.value(proposal.mask))


def problem(
    seed: int = 0,
    density: Density = 0.3,
    start: Mask | None = None,
    scorings: int = 200,
    on_empty: OnEmpty = "allow",
    space: MaskSpace = SPACE,
) -> Problem:
    """Return a small search problem; by default, with 60 units in two layers."""
    return Problem(space, density, Budget(scorings), seed, start, on_empty=on_empty)


def drive(searcher: Searcher, scorer: Planted, steps: int, batch: int = 1) -> list[Proposal]:
    """Run a search: ask, score and tell ``steps`` times, or until it ends; return all proposals in order."""
    made = []
    for _ in range(steps):
        proposals = searcher.ask(batch)
        if not proposals:
            break
        searcher.tell(proposals, scorer.score(proposals))
        made += proposals
    return made


def path_of(proposals: Sequence[Proposal]) -> list[tuple[int, float | None]]:
    """Return (mask hash, threshold) of every proposal, which are equal only for equal searches."""
    return [(proposal.mask.hash, proposal.threshold) for proposal in proposals]
