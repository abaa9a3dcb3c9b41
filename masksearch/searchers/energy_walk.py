"""One walk of annealing on an energy: swaps of units within layers, and exchanges between layers within the budget."""

import numpy as np
import torch

from masksearch.core.energy_protocol import EnergyState
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Problem

_BATCH = 16  # swaps of one layer whose changes are computed together; the first accepted one is made
_MOST = 8  # units of one layer that an exchange drops or regrows, at most
_CANDIDATES = 24  # kept and pruned units of a layer, of the lowest changes of the energy, whose swaps a descent tries
_GAIN = 1e-9  # smallest relative decrease of the energy for which a descent continues
_TRIES = 10  # pairs of layers that are drawn until units can be exchanged


class Walk:
    """Random walk over allowed masks; it accepts moves by Metropolis' rule on the masks' energy (estimated damage).

    Parameters
    ----------
    problem : Problem
        Space, amount and energy.
    state : EnergyState
        The mask at which the walk begins, and its energy. The walk changes it.
    rng : numpy.random.Generator
        Draws moves and decides their acceptance.
    """

    def __init__(self, problem: Problem, state: EnergyState, rng: np.random.Generator) -> None:
        self.state, self._problem, self._rng = state, problem, rng
        space = problem.space
        self._starts, self._sizes = space.starts, np.diff(space.starts, append=space.n_units)
        self.kept = np.add.reduceat(state.bits.astype(np.int64), space.starts)
        self._least = np.where(space.needed, 0 if problem.on_empty == "allow" else 1, 0)
        self._exchanges = problem.amount.per_layer is None
        self.accepted = 0

    def mask(self) -> Mask:
        """Return the current mask of the walk."""
        return Mask(self._problem.space, torch.from_numpy(self.state.bits.copy()))

    @property
    def is_stuck(self) -> bool:
        """Whether the walk has no move left: neither a swap within a layer nor an exchange between layers."""
        return not (self.can_swap or self.can_exchange)

    @property
    def can_swap(self) -> bool:
        """Whether at least one layer has both kept and pruned units, so that the walk can swap two of them."""
        return bool(((self.kept > 0) & (self.kept < self._sizes)).any())

    @property
    def can_exchange(self) -> bool:
        """Whether the walk can prune units of one layer and regrow units of another."""
        open_layers = (self.kept > self._least).any() and (self.kept < self._sizes).any()
        return self._exchanges and len(self.kept) > 1 and bool(open_layers)

    # Swaps within a layer keep all widths, and so units, parameters and MACs.

    def swap(self, temperature: float, most: int) -> int:
        """Try random swaps within a layer, at most 16 or ``most``, until one is accepted; return the number tried."""
        moves = self._draw_swaps(min(most, _BATCH))
        accepted = np.flatnonzero(self.state.deltas(moves) <= self._limits(temperature, len(moves)))
        if not len(accepted):
            return len(moves)
        self._make(moves[accepted[0]])
        return int(accepted[0]) + 1

    def _draw_swaps(self, n: int) -> np.ndarray:
        """Return n random swaps of a kept and a pruned unit of one layer, int64 (n, 2)."""
        swaps = np.minimum(self.kept, self._sizes - self.kept).cumsum()
        layer = int(np.searchsorted(swaps, self._rng.integers(swaps[-1]), side="right"))
        kept, pruned = self._units(layer, True), self._units(layer, False)
        return np.stack([self._rng.choice(kept, n), self._rng.choice(pruned, n)], axis=1)

    def rises(self, n: int) -> np.ndarray:
        """Return the increases of the energy (estimated damage) by random moves, of which about ``n`` are tried."""
        if self.can_swap:
            changes = [self.state.deltas(self._draw_swaps(_BATCH)) for _ in range(-(-n // _BATCH))]
        else:
            changes = [self.state.singles(layer) for layer in range(len(self.kept))]
        every = np.concatenate(changes)
        return every[every > 0]

    # Exchanges drop units of one layer and regrow as many of another one as the budget allows.

    def exchange(self, temperature: float) -> None:
        """Try to prune units of one layer and regrow units of another; if accepted, regrow more within the budget."""
        for _ in range(_TRIES):
            sources, room = np.flatnonzero(self.kept > self._least), np.flatnonzero(self.kept < self._sizes)
            source, target = int(self._rng.choice(sources)), int(self._rng.choice(room))
            spare = min(int(self.kept[source] - self._least[source]), _MOST)
            n_dropped = int((spare + 1) ** self._rng.random())
            n_regrown = 0 if source == target else self._most(source, n_dropped, target)
            if n_regrown:
                dropped = self._cheapest(source, True, n_dropped, temperature)
                regrown = self._cheapest(target, False, n_regrown, temperature)
                move = np.concatenate([dropped, regrown])
                if self.state.deltas(move[None])[0] <= self._limits(temperature, 1)[0]:
                    self._make(move)
                    self.fill()
                return

    def fill(self) -> None:
        """Regrow the best pruned units of random layers as far as the budget of parameters or MACs allows it."""
        if self._problem.hold == "units" or not self._exchanges:
            return
        for layer in self._rng.permutation(len(self.kept)).tolist():
            while self.kept[layer] < self._sizes[layer]:
                more = self.kept.copy()
                more[layer] += 1
                if not self._problem.allows(more):
                    break
                self._make(self._cheapest(layer, False, 1, 0.0))

    def _most(self, source: int, n_dropped: int, target: int) -> int:
        """Return how many units of ``target`` fit if ``source`` loses ``n_dropped`` units; 0: none."""
        room = min(int(self._sizes[target] - self.kept[target]), _MOST)
        kept = self.kept.copy()
        kept[source] -= n_dropped
        if self._problem.hold == "units":
            kept[target] += n_dropped
            return n_dropped if n_dropped <= room and self._problem.allows(kept) else 0
        for number in range(room):
            kept[target] += 1
            if not self._problem.allows(kept):
                return number
        return room

    def _cheapest(self, layer: int, kept: bool, n: int, temperature: float) -> np.ndarray:
        """Draw n kept or pruned units of a layer, those of the lowest change of the energy most often (Gumbel)."""
        units = self._units(layer, kept)
        changes = self.state.singles(layer)[units - self._starts[layer]]
        if temperature:
            changes = changes - temperature * self._rng.gumbel(size=len(units))
        return units[np.argsort(changes, kind="stable")[:n]]

    def _units(self, layer: int, kept: bool) -> np.ndarray:
        start = self._starts[layer]
        return start + np.flatnonzero(self.state.bits[start : start + self._sizes[layer]] == kept)

    def _limits(self, temperature: float, n: int) -> np.ndarray:
        """Return the largest accepted changes of n moves: Metropolis' rule, u drawn from (0, 1]."""
        return -temperature * np.log(1 - self._rng.random(n))

    def _make(self, move: np.ndarray) -> None:
        layers = self._problem.space.layer_of(move)
        np.add.at(self.kept, layers, np.where(self.state.bits[move], -1, 1))
        self.state.toggle(move)
        self.accepted += 1

    # The end of a search: no swap within a layer lowers the energy any more.

    def descend(self) -> None:
        """Make, layer by layer, the swap that lowers the energy most, until no tried swap lowers it any more."""
        for layer in range(len(self.kept)):
            while 0 < self.kept[layer] < self._sizes[layer]:
                kept, pruned = (self._cheapest(layer, side, _CANDIDATES, 0.0) for side in (True, False))
                moves = np.stack([units.ravel() for units in np.meshgrid(kept, pruned, indexing="ij")], axis=1)
                changes = self.state.deltas(moves)
                best = int(changes.argmin())
                if changes[best] >= -_GAIN * abs(self.state.value):
                    break
                self._make(moves[best])
