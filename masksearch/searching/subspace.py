"""A later round of pruning as a search of its own: over the units that earlier rounds have left, and no others."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from masksearch.core.mask import Mask, Move
from masksearch.core.protocol import Proposal, Score, ScorerWrapper, Scoring, proposals_of
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError

__all__ = ["Subspace", "SubspaceScorer"]


class Subspace(MaskSpace):
    """The masks of another space that keep nothing that ``alive`` has pruned.

    Its units are the alive ones, in their old order, in layers of their old names; a layer of which nothing is alive is
    no layer of it. Units count alike: only a density held in units can be asked for.
    """

    def __init__(self, alive: Mask) -> None:
        self.alive = alive
        self.units = alive.bits.nonzero().flatten().numpy()  # int64 (n_units,): numbers in the space of ``alive``
        kept = alive.kept_per_layer()
        sizes = [(layer.name, layer.shape, kept[layer.name]) for layer in alive.space.layers if kept[layer.name]]
        super().__init__(sizes, alive.space.granularity)

    def density(self, of_all: float) -> float:
        """The density here of masks that keep the share ``of_all`` of all units.

        Raises
        ------
        InputError
            If that is more than is alive.
        """
        wanted = round(of_all * self.alive.space.n_units)
        if wanted > self.n_units:
            raise InputError(f"density: {of_all} keeps {wanted} units, and only {self.n_units} are alive")
        return wanted / self.n_units

    def reduced(self, per_unit: Tensor) -> Tensor:
        """What belongs to the alive units of a tensor (all units,): (n_units,)."""
        return per_unit[torch.from_numpy(self.units)]

    def lifted(self, mask: Mask) -> Mask:
        """The mask of all units that a mask of the alive ones stands for."""
        bits = torch.zeros(self.alive.space.n_units, dtype=torch.bool)
        bits[torch.from_numpy(self.units)] = mask.bits
        return Mask(self.alive.space, bits)

    def lifted_move(self, move: Move) -> Move:
        """The same move in numbers of all units."""
        return Move(self.units[move.dropped], self.units[move.regrown])


class SubspaceScorer(ScorerWrapper[Scoring]):
    """Scores masks of the alive units with a scorer of all units. Moves stay moves, so that faster paths work."""

    def __init__(self, scorer: Scoring, space: Subspace) -> None:
        super().__init__(scorer)
        self._space = space
        self._lifted: dict[int, Mask] = {}  # by the small mask's hash: its mask of all units

    def score(self, masks: Sequence[Mask | Proposal]) -> list[Score]:
        """One score per mask or proposal, in order.

        Raises
        ------
        InputError
            If a mask is of another space than the alive units'.
        """
        return self._scorer.score([self._lift(proposal) for proposal in proposals_of(masks, self._space)])

    def _lift(self, proposal: Proposal) -> Proposal:
        base = self._large(proposal.base)
        if proposal.mask is proposal.base:
            self._lifted = {proposal.base.hash: base}
            return replace(Proposal.of(base), threshold=proposal.threshold)
        lifted = Proposal.moving(base, self._space.lifted_move(proposal.move), proposal.threshold)
        lifted = replace(lifted)
        # The next base is usually this base or this mask.
        self._lifted = {proposal.base.hash: base, proposal.mask.hash: lifted.mask}
        return lifted

    def _large(self, mask: Mask) -> Mask:
        lifted = self._lifted.get(mask.hash)
        return self._space.lifted(mask) if lifted is None else lifted
