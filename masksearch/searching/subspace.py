"""The units that earlier rounds of pruning have kept, as a space of their own: later rounds search in it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from masksearch.core.mask import Mask, Move
from masksearch.core.protocol import Proposal, Score, Scoring, proposals_of
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError

__all__ = ["Subspace", "SubspaceScorer"]


class Subspace(MaskSpace):
    """Space of the masks that keep only units of the mask ``alive``.

    The units are those that ``alive`` keeps, in the same order, in layers of the same names; layers that ``alive``
    empties are left out. Densities are held in units.

    Parameters
    ----------
    alive : Mask
        The mask of an earlier round.
    """

    def __init__(self, alive: Mask) -> None:
        self.alive = alive
        self.units = alive.bits.nonzero().flatten().numpy()  # int64 (n_units,): numbers in the space of ``alive``
        kept = alive.kept_per_layer()
        sizes = [(layer.name, layer.shape, kept[layer.name]) for layer in alive.space.layers if kept[layer.name]]
        super().__init__(sizes, alive.space.granularity)

    def density(self, of_all: float) -> float:
        """Return the density in this space of masks that keep the share ``of_all`` of all units.

        Raises
        ------
        InputError
            If that is more than ``alive`` keeps.
        """
        wanted = round(of_all * self.alive.space.n_units)
        if wanted > self.n_units:
            raise InputError(f"density: {of_all} keeps {wanted} units, and only {self.n_units} are alive")
        return wanted / self.n_units

    def reduced(self, per_unit: Tensor) -> Tensor:
        """Select this space's units, (n_units,), from a tensor with one value for each of all units."""
        return per_unit[torch.from_numpy(self.units)]

    def lifted(self, mask: Mask) -> Mask:
        """Convert a mask of this space to a mask of all units."""
        bits = torch.zeros(self.alive.space.n_units, dtype=torch.bool)
        bits[torch.from_numpy(self.units)] = mask.bits
        return Mask(self.alive.space, bits)

    def lifted_move(self, move: Move) -> Move:
        """Convert a move of this space to a move of all units."""
        return Move(self.units[move.dropped], self.units[move.regrown])


class SubspaceScorer(Scoring):
    """Scores masks of a subspace with a scorer of all units.

    Moves stay moves, so that the scorer's fast paths work.

    Parameters
    ----------
    scorer : Scoring
        Scores masks of all units.
    space : Subspace
        The space of the masks to score.
    """

    def __init__(self, scorer: Scoring, space: Subspace) -> None:
        self._scorer, self._space = scorer, space
        self._lifted: dict[int, Mask] = {}  # hash of a subspace's mask -> the mask of all units

    @property
    def refresh_every(self) -> int | None:
        """``refresh_every`` of the scorer of all units."""
        return self._scorer.refresh_every

    def refresh(self) -> None:
        """Refresh the scorer of all units."""
        self._scorer.refresh()

    def score(self, masks: Sequence[Mask | Proposal]) -> list[Score]:
        """Return one score per mask or proposal, in order.

        Raises
        ------
        InputError
            If a mask belongs to another space than the subspace.
        """
        return self._scorer.score([self._lift(proposal) for proposal in proposals_of(masks, self._space)])

    def _lift(self, proposal: Proposal) -> Proposal:
        base = self._large(proposal.base)
        if proposal.mask is proposal.base:
            self._lifted = {proposal.base.hash: base}
            return replace(Proposal.of(base), threshold=proposal.threshold)
        lifted = Proposal.moving(base, self._space.lifted_move(proposal.move), proposal.threshold)
        # The next base is usually this base or this mask.
        self._lifted = {proposal.base.hash: base, proposal.mask.hash: lifted.mask}
        return lifted

    def _large(self, mask: Mask) -> Mask:
        lifted = self._lifted.get(mask.hash)
        return self._space.lifted(mask) if lifted is None else lifted
