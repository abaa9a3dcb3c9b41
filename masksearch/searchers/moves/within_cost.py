"""Moves between masks that fit a budget, in spaces with ``multiple_of`` or of blocks and filters.

Swaps of equal numbers of units would break multiples, or keep units of removed blocks. Here a move swaps units within
layers, or changes the layers' numbers of kept units: some layers lose steps of units (or a block is removed or
restored), then random layers gain steps, as many as fit the budget.
"""

import numpy as np
import torch

from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Problem
from masksearch.searchers.moves.in_groups import BitPartition
from masksearch.searchers.moves.layerwise import spread

_TRIES = 20  # draws of a move between layers, until its mask fits the budget
_ROUNDS = 4  # in which layers gain steps; the first layer whose next step doesn't fit ends a round


def needs_budget_moves(problem: Problem) -> bool:
    """Return whether swaps of units could break a limit: multiples of units per layer, or a budget with blocks."""
    limits = problem.space.limits
    return problem.space.nested or (limits is not None and limits.stepped and problem.amount.per_layer is None)


class BudgetPartition(BitPartition):
    """Current mask of a search, with moves that keep it within the budget: swaps in a layer, or between layers.

    Parameters
    ----------
    mask : Mask
        The first mask: of a space with limits.
    problem : Problem
        Its amount is the budget.
    """

    def __init__(self, mask: Mask, problem: Problem) -> None:
        super().__init__(mask)
        assert problem.space.limits is not None
        self._problem, self._limits = problem, problem.space.limits
        self._sizes = np.array(self._limits.sizes, dtype=np.int64)
        self._can_go = self._limits.lowest == 0  # blocks
        # Without steps, the number of units is exact, if units are held.
        self._exact = problem.hold == "units" and not self._limits.stepped

    def draw(self, radius: int, rng: np.random.Generator) -> Move:
        """Draw a move that prunes about ``radius`` units and regrows others, so that the mask fits the budget.

        The empty move if there is none.
        """
        if rng.random() < 0.5 and len(move := self._swapped_within(radius, rng)):
            return move
        for _ in range(_TRIES):
            kept = self._changed(radius, rng)
            if kept is not None and (kept != self._kept).any() and (not self._exact or kept.sum() == self.n_kept):
                return self._move(self._bits, kept, rng)
        return self._swapped_within(radius, rng)

    def settled(self, bits: np.ndarray, rng: np.random.Generator) -> Move:
        """Return the move from the current mask to one that fits the budget and is close to the mask ``bits``.

        The empty move if there is none.
        """
        limits = self._limits
        bits = self.space.canonical(torch.from_numpy(bits)).numpy()
        kept = limits.settled(np.add.reduceat(bits.astype(np.int64), self.space.starts))
        fitting = self._shrunk(kept, rng)
        fitting = None if fitting is None else self._grown(fitting, np.ones(len(kept), dtype=bool), rng)
        if fitting is None or (self._exact and fitting.sum() != self.n_kept):
            return Move.nowhere()
        change = self._move(bits, fitting, rng)
        after = bits.copy()
        after[change.dropped], after[change.regrown] = False, True
        return Move(np.flatnonzero(self._bits & ~after), np.flatnonzero(after & ~self._bits))

    def _fits(self, kept: np.ndarray) -> bool:
        return self._problem.space.fits(kept, self._problem.amount)

    # Numbers of kept units per layer, int64 (n_layers,).

    def _changed(self, radius: int, rng: np.random.Generator) -> np.ndarray | None:
        """Change the layers' numbers at random; None if that does not fit the budget."""
        before, others = self._kept, np.ones(len(self._kept), dtype=bool)
        if self._can_go.any() and rng.random() < 0.5:
            kept = self._toggled(rng)
        else:
            steps = self._steps_down(before, rng)
            units = np.array(self._limits.steps)[steps].cumsum()
            kept = self._lowered(before, steps[: int(np.searchsorted(units, radius)) + rng.geometric(0.5)])
            others = kept == before
        fitting = self._shrunk(kept, rng)
        if fitting is None:
            return None
        return self._grown(self._grown(fitting, others, rng), ~others, rng)

    def _toggled(self, rng: np.random.Generator) -> np.ndarray:
        """Remove a block, restore one, or both; layers of a restored block get the mean density of the other layers."""
        kept, limits = self._kept.copy(), self._limits
        own = ~self._can_go & limits.alive(kept)
        density = kept[own].sum() / max(1, self._sizes[own].sum())
        there, gone = np.flatnonzero(self._can_go & (kept > 0)), np.flatnonzero(self._can_go & (kept == 0))
        kinds = ["remove"] * bool(len(there)) + ["restore"] * bool(len(gone))
        kind = rng.choice([*kinds, *["both"] * (len(kinds) == 2)])
        if kind != "restore":
            kept[rng.choice(there)] = 0
        if kind != "remove":
            kept[rng.choice(gone)] = 1
        restored = limits.alive(kept) & ~limits.alive(self._kept)
        kept[restored] = (density * self._sizes[restored]).astype(np.int64)
        return limits.settled(kept)

    def _shrunk(self, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Return the numbers after the fewest random steps down with which they fit the budget; None if none do."""
        if self._fits(kept):
            return kept
        steps = self._steps_down(kept, rng)
        low, high = 0, len(steps)
        if not self._fits(self._lowered(kept, steps)):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(self._lowered(kept, steps[:middle])) else (middle + 1, high)
        return self._lowered(kept, steps[:high])

    def _steps_down(self, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the layers of all steps that can be pruned, in random order, int64 (n_steps,)."""
        alive = self._limits.alive(kept) & ~self._can_go
        steps = np.repeat(np.arange(len(kept)), np.where(alive, -(-kept // self._limits.steps), 0))
        rng.shuffle(steps)
        return steps

    def _lowered(self, kept: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the numbers after steps down of some layers, int64 (n_layers,); no layer loses its least units."""
        taken = np.bincount(steps, minlength=len(kept))
        fewer = np.maximum((-(-kept // self._limits.steps) - taken) * self._limits.steps, self._limits.lowest)
        return np.where(taken > 0, np.minimum(fewer, kept), kept)

    def _grown(self, kept: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the numbers after random steps up of the layers ``which``, bool (n_layers,), as many as fit."""
        open_ = which & self._limits.alive(kept) & ~self._can_go
        for _ in range(_ROUNDS):
            steps = np.repeat(np.arange(len(kept)), np.where(open_, -(-(self._sizes - kept) // self._limits.steps), 0))
            if not len(steps):
                break
            rng.shuffle(steps)

            def after(n: int, kept: np.ndarray = kept, steps: np.ndarray = steps) -> np.ndarray:
                return self._limits.higher(kept, np.bincount(steps[:n], minlength=len(kept)))

            low, high = 0, len(steps)
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self._fits(after(middle)) else (low, middle - 1)
            kept = after(low)
            if low == len(steps):
                break
            open_[steps[low]] = False
        return kept

    # Moves to masks with given numbers.

    def _swapped_within(self, radius: int, rng: np.random.Generator) -> Move:
        """Return a swap of ``radius`` units within layers; the empty move if every layer keeps all of its units."""
        room = np.where(self._limits.alive(self._kept), np.minimum(self._kept, self._sizes - self._kept), 0)
        if not room.any():
            return Move.nowhere()
        swaps = spread(min(radius, int(room.sum())), room, rng)
        return self._move(self._bits, self._kept, rng, swaps)

    def _move(
        self, bits: np.ndarray, kept: np.ndarray, rng: np.random.Generator, swaps: np.ndarray | None = None
    ) -> Move:
        """Return a random move from ``bits`` to a mask with these numbers per layer, with ``swaps`` swaps per layer."""
        dropped, regrown = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for place, layer in enumerate(self.space.layers):
            own = bits[layer.slice]
            both = 0 if swaps is None else int(swaps[place])
            more = int(kept[place]) - int(own.sum())
            if both or more:
                out, back = max(-more, 0) + both, max(more, 0) + both
                dropped.append(layer.start + rng.choice(np.flatnonzero(own), out, replace=False, shuffle=False))
                regrown.append(layer.start + rng.choice(np.flatnonzero(~own), back, replace=False, shuffle=False))
        return Move(np.concatenate(dropped), np.concatenate(regrown))
