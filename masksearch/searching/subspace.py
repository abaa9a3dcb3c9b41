"""Space of the units that earlier pruning rounds have kept, in which later rounds search."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from masksearch.core.energy_protocol import Energy, EnergyState
from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Proposal, Score, proposals_of
from masksearch.core.scorer_protocols import Scoring, data_digest
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError


class Subspace(MaskSpace):
    """Space of the masks that keep only units of a given mask, as needed in later rounds of iterative pruning.

    The full space is that of ``alive``. The units of this space are those that ``alive`` keeps, in the same order, in
    layers of the same names; layers that ``alive`` empties are left out. Densities are held in units.

    Parameters
    ----------
    alive : Mask
        The mask of an earlier round.
    """

    def __init__(self, alive: Mask) -> None:
        self.alive = alive
        self.units = alive.bits.nonzero().flatten().numpy()  # int64 (n_units,): indices in the space of ``alive``
        kept = alive.kept_per_layer()
        sizes = [(layer.name, layer.shape, kept[layer.name]) for layer in alive.space.layers if kept[layer.name]]
        if alive.space.nested:
            raise InputError(
                f"rounds: a {alive.space.describe()} is searched in one round only, since units are parts of others"
            )
        super().__init__(sizes, alive.space.granularity)
        self._needed = alive.space.needed[[bool(kept[layer.name]) for layer in alive.space.layers]]

    @property
    def needed(self) -> np.ndarray:
        """Return whether each layer needs a unit for the network to work, as a bool array of shape (n_layers,)."""
        return self._needed

    def density(self, of_all: float) -> float:
        """Return the share of this subspace's units that a mask keeps if it keeps the share ``of_all`` of all units.

        Raises
        ------
        InputError
            If that is more than ``alive`` keeps.
        """
        wanted = round(of_all * self.alive.space.n_units)
        if wanted > self.n_units:
            raise InputError(
                f"density: {of_all} keeps {wanted} units, and earlier rounds left {self.n_units}: give a lower one"
            )
        return wanted / self.n_units

    def reduced(self, per_unit: Tensor) -> Tensor:
        """Return, from a tensor with a value for every unit of the full space, the values for this subspace's units."""
        return per_unit[torch.from_numpy(self.units)]

    def lifted(self, mask: Mask) -> Mask:
        """Return the mask of the full space that keeps the same units as a mask of this subspace."""
        bits = torch.zeros(self.alive.space.n_units, dtype=torch.bool)
        bits[torch.from_numpy(self.units)] = mask.bits
        return Mask(self.alive.space, bits)

    def lifted_move(self, move: Move) -> Move:
        """Return a move in this subspace as a move in the full space that prunes and regrows the same units."""
        return Move(self.units[move.dropped], self.units[move.regrown])


class SubspaceEnergy(Energy):
    """Energy (estimated damage) of masks of a subspace, computed by the energy of the full space.

    Parameters
    ----------
    energy : Energy
        Rates masks of the full space.
    space : Subspace
        The space of the masks to rate.
    """

    def __init__(self, energy: Energy, space: Subspace) -> None:
        self._energy, self._space = energy, space
        self.names = energy.names

    def start(self, mask: Mask, coefficients: np.ndarray | None = None) -> EnergyState:
        """Return an object that holds a mask of the subspace with its energy and updates both when units change."""
        return _SubspaceState(self._energy.start(self._space.lifted(mask), coefficients), self._space)


class _SubspaceState(EnergyState):
    """State of a walk in a subspace; unit numbers are converted to those of the full space."""

    def __init__(self, state: EnergyState, space: Subspace) -> None:
        self._state, self._space = state, space
        self.bits = state.bits[space.units]
        names = [layer.name for layer in space.alive.space.layers]
        self._layers = [names.index(layer.name) for layer in space.layers]

    @property
    def value(self) -> float:
        """Energy (estimated damage) of the current mask."""
        return self._state.value

    def terms(self) -> np.ndarray:
        """Return the unweighted terms of the current mask's energy (estimated damage): float64 (n_terms,)."""
        return self._state.terms()

    def singles(self, layer: int) -> np.ndarray:
        """Return, for each unit of a layer, the change of the estimated damage if it alone is pruned or restored."""
        number = self._layers[layer]
        start = self._space.alive.space.layers[number].start
        return self._state.singles(number)[self._space.units[self._space.layers[layer].slice] - start]

    def deltas(self, units: np.ndarray) -> np.ndarray:
        """Return how each of m moves changes the estimated damage; row i of ``units`` has the units of move i."""
        return self._state.deltas(self._space.units[units])

    def toggle(self, units: np.ndarray) -> None:
        """Prune the given units that the current mask keeps, and restore the others; int64 unit indices."""
        self._state.toggle(self._space.units[units])
        self.bits[units] ^= True


class SubspaceScorer(Scoring):
    """Scorer of masks of a subspace: turns them into masks of the full space, and has those scored.

    Moves between masks stay moves, so that the other scorer's fast paths work.

    Parameters
    ----------
    scorer : Scoring
        Scores masks of the full space.
    space : Subspace
        The space of the masks to score.
    """

    def __init__(self, scorer: Scoring, space: Subspace) -> None:
        self._scorer, self._space = scorer, space
        self._lifted: dict[int, Mask] = {}  # hash of a subspace's mask -> the mask of all units

    @property
    def refresh_every(self) -> int | None:
        """Return after how many scored masks :meth:`refresh` has to be called; None if the scorer caches nothing."""
        return self._scorer.refresh_every

    def refresh(self) -> None:
        """Make the scorer of the full space drop its cached results."""
        self._scorer.refresh()

    def data_digest(self) -> str | None:
        """Return the digest of the examples on which the scorer of the full space scores; None if there are none."""
        return data_digest(self._scorer)

    def score(self, masks: Sequence[Mask | Proposal]) -> list[Score]:
        """Return the scores of masks, which may be given as proposals of a searcher, in the same order.

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
