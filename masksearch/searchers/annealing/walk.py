"""One chain of annealing: its current mask, the score of that mask, and the moves from there."""

import math
from dataclasses import dataclass

import numpy as np

from masksearch.core.mask import Mask, Move
from masksearch.core.protocol import Problem, Proposal
from masksearch.searchers.layered_partition import LayeredPartition, RankedLayers
from masksearch.searchers.partition import Partition

__all__ = ["Chain", "Neighbourhood"]

Neighbourhood = Partition | LayeredPartition | RankedLayers
"""The units of a chain's current mask, in an order from which moves are drawn in time O(radius)."""

_TRIES = 100  # draws of a move until one leads to a mask that the problem allows


@dataclass
class Chain:
    """The state of one chain."""

    neighbourhood: Neighbourhood  # of the current mask
    current: Mask
    value: float = math.nan  # score of the current mask; NaN until it has been scored

    def draw(self, radius: int, problem: Problem, rng: np.random.Generator) -> Move:
        """A random move to a mask that the problem allows; the empty move if none was found."""
        for attempt in range(_TRIES):
            move = self.neighbourhood.draw(radius if attempt < _TRIES // 2 else 1, rng)
            if problem.allows(self.neighbourhood.kept_after(move)):
                return move
        return Move.nowhere()

    def accept(self, proposal: Proposal, value: float) -> None:
        """Make the proposal's mask, whose score is ``value``, the current mask."""
        self.neighbourhood.make(proposal.move)
        self.current, self.value = proposal.mask, value

    def copy_from(self, other: "Chain") -> None:
        """Continue from the current mask of another chain."""
        self.neighbourhood.load_state_dict(other.neighbourhood.state_dict())
        # A Mask object of its own: the loop recognises the incumbent's moves by the identity of mask objects.
        self.current, self.value = self.neighbourhood.mask(), other.value
