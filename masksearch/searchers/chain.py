"""One walk of annealing: the mask it stands on, that mask's score, and where it may go from there."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from masksearch.layered_partition import LayeredPartition, RankedLayers
from masksearch.move import Move
from masksearch.partition import Partition
from masksearch.searchers.tabu import TabuMemory
from masksearch.trial import Problem, Proposal

__all__ = ["Chain", "Ground"]

Ground = Partition | LayeredPartition | RankedLayers
"""Draws moves from a mask, and makes them."""

_TRIES = 100  # draws of a move before an emptied layer or a known mask is put up with


class Chain:
    """A walk over masks.

    Parameters
    ----------
    ground : Partition, LayeredPartition or RankedLayers
        Of the mask where it starts.
    tabu : int
        How many masks it remembers.
    """

    def __init__(self, ground: Ground, tabu: int) -> None:
        self.current = ground.mask()  # each chain's own, as after loading: scorers remember masks as objects
        self.value = math.nan  # score of the current mask; NaN until it has been scored
        self.ground = ground
        self._tabu = TabuMemory(tabu, self.current) if tabu else None

    def draw(self, radius: int, problem: Problem, rng: np.random.Generator) -> Move:
        """A move that the problem allows, to a mask that isn't remembered, as far as such a one is found."""
        allowed = Move.nowhere()
        for attempt in range(_TRIES):
            move = self.ground.draw(radius if attempt < _TRIES // 2 else 1, rng)
            if not problem.allows(self.ground.kept_after(move)):
                continue
            if self._tabu is None or (self._tabu.distances(move) > 0).all():
                return move
            allowed = move
        return allowed

    def remember(self, proposal: Proposal, moved_on: bool) -> None:
        """Keep the proposal's mask in memory; ``moved_on``: the chain has left the proposal's base since."""
        if self._tabu is not None:
            distance = self.current.hamming(proposal.mask) if moved_on else len(proposal.move)
            self._tabu.remember(proposal.mask, distance)

    def take(self, proposal: Proposal, value: float) -> None:
        """Go to the proposal's mask, whose score is ``value``."""
        self.ground.make(proposal.move)
        self.current, self.value = proposal.mask, value
        if self._tabu is not None:
            self._tabu.follow(proposal.move)

    def go_on_from(self, other: "Chain") -> None:
        """Stand where another chain stands, with its memory."""
        self.load_state_dict(other.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {
            "value": self.value,
            "ground": self.ground.state_dict(),
            "tabu": self._tabu.state_dict() if self._tabu else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.value = state["value"]
        self.ground.load_state_dict(state["ground"])
        self.current = self.ground.mask()
        if self._tabu is not None:
            self._tabu.load_state_dict(state["tabu"])
