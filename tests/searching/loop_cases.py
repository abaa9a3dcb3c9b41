"""A space, a scorer that records its masks, and searchers, for the tests of the search loop."""

import math

import pytest
import torch

from masksearch.core.problem_and_trials import Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import Annealing, RandomSearch, ThesisAnnealing

SPACE = MaskSpace([("first", (5, 8), 40), ("second", (4, 5), 20)])


class Overlap:
    """Scores a mask by the share that it keeps of a hidden mask; with ``nan_every``, some masks score NaN."""

    def __init__(self, nan_every=0, seconds=0.0):
        self.goal = SPACE.random(0.3, generator=torch.Generator().manual_seed(9)).bits
        self.nan_every, self.seconds, self.scored = nan_every, seconds, []

    def score(self, proposals):
        return [self._score(proposal.mask) for proposal in proposals]

    def _score(self, mask):
        self.scored.append(mask)
        if self.nan_every and mask.hash % self.nan_every == 0:
            return Score(math.nan, seconds=self.seconds)
        goal = self.goal[: mask.space.n_units]
        return Score(float((mask.bits & goal).sum() / 18), seconds=self.seconds, images=7)


SEARCHERS = {
    "annealing": Annealing,
    "chains": lambda: Annealing(chains=3, within=0.5),
    "thesis": ThesisAnnealing.mlp,
    "random": RandomSearch,
}
every = pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS)
