"""Scores that a network's cost is taken off."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.table import choose
from masksearch.trial import Proposal, Score, ScorerWrapper, Scoring

__all__ = ["CostOf", "CostWeighted", "NetworkScorer"]

CostOf = Literal["macs", "params"]

_ROUNDING = 1e-9  # a threshold is lowered by so much of itself, so that none is missed by a rounding error


class NetworkScorer(Scoring, Protocol):
    """What :class:`Scorer` and :class:`ShortTraining` have in common."""

    @property
    def space(self) -> NetworkSpace: ...  # noqa: D102
    def __call__(self, mask: Mask) -> Score: ...  # noqa: D102


class CostWeighted(ScorerWrapper[NetworkScorer]):
    """Scores masks of filters by what another scorer says, minus a weight times the share of the cost that they keep.

    Masks of one number of filters differ much in cost. With a weight, a search finds which layers to take them from.

    Parameters
    ----------
    scorer : Scorer or ShortTraining
        Says what a mask is worth.
    weight : float
        Points of its score that the whole network's cost is worth.
    of : {"macs", "params"}
        What costs: multiply-adds or parameters of the pruned network, as a share of the full one's.

    Raises
    ------
    InputError
        If its masks are not of filters, or the weight is not a finite number from 0 on.
    """

    def __init__(self, scorer: NetworkScorer, weight: float, of: CostOf = "macs") -> None:
        space = scorer.space
        if not isinstance(space, FilterSpace):
            raise InputError(f"cost_weight: {weight}; all weights cost the same, so only filters' costs can be weighed")
        if not 0 <= weight < math.inf:
            raise InputError(f"cost_weight: {weight}; a finite number from 0 on is needed")
        choose("cost_of", of, ["macs", "params"])
        super().__init__(scorer)
        self.space = space
        self._weight, self._of = weight, of

    def price(self, mask: Mask) -> float:
        """What is taken off the mask's score."""
        return self._weight * self.space.share(mask, self._of)

    def __call__(self, mask: Mask) -> Score:
        """The score of one mask."""
        return self.score([Proposal.of(mask)])[0]

    def score(self, proposals: Sequence[Proposal]) -> list[Score]:
        """One score per proposal, in order; thresholds are of the weighted score."""
        prices = [self.price(proposal.mask) for proposal in proposals]
        scores = self._scorer.score(list(map(_unpriced, proposals, prices)))
        return [replace(score, value=score.value - price) for score, price in zip(scores, prices, strict=True)]


def _unpriced(proposal: Proposal, price: float) -> Proposal:
    """The proposal as the scorer is to see it, whose score has no price taken off."""
    if proposal.threshold is None:
        return proposal
    threshold = proposal.threshold + price
    return replace(proposal, threshold=threshold - _ROUNDING * max(1.0, abs(threshold)))
