"""Base class of searchers that choose how many units each layer keeps; a ranking chooses which units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from masksearch.core.density_allocation import DensityTooLowError, Scope
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Problem
from masksearch.core.width_levels import Levels, filled
from masksearch.searchers.searcher import Searcher
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import torch_generator


class RankedUnits:
    """Units of each layer, ranked by the problem's first saliency, and the numbers of units that a layer may keep.

    A level is a number of kept units. Masks have the exact density of the problem: layers are filled up to the budget.

    Parameters
    ----------
    levels : int
        Number of evenly spaced densities per layer; beneath them, densities halve down to a quarter of the problem's.
    draw : int
        Number that seeds a random order of the units, if the problem has no saliency; also breaks ties.
    blocks : bool
        Whether spaces with blocks are allowed. A block is a layer of the two levels 0 and 1; the levels of layers in a
        removed block have no effect.
    """

    def __init__(self, problem: Problem, levels: int, draw: int = 0, *, blocks: bool = False) -> None:
        self.problem, space = problem, problem.space
        stepped = space.limits is not None and space.limits.stepped
        if stepped or (space.nested and not blocks):
            kind, others = ("multiple_of", "") if stepped else ("units in blocks", ", or for blocks evopress")
            raise InputError(
                f"space: it has {kind}, and this search gives each layer any number of units; choose annealing, "
                f"evolution or random_search{others}"
            )
        amount = problem.amount
        density = amount.single("this search chooses the layers' densities, so give one density")
        generator = torch_generator(problem.seed, "levels", draw)
        noise = torch.rand(space.n_units, generator=generator)
        self.saliency = next(iter(problem.saliencies.values()), noise).double()
        order = np.lexsort((noise.numpy(), -self.saliency.numpy()))
        self.units = [order[(order >= layer.start) & (order < layer.stop)] for layer in space.layers]
        values = (self.saliency - min(0.0, float(self.saliency.min()))).numpy()
        self._values = [values[units] for units in self.units]
        self.sizes = np.array([layer.size for layer in space.layers], dtype=np.int64)
        least = (space.needed & (amount.on_empty != "allow")).astype(np.int64)
        if space.limits is not None:
            least = space.limits.lowest
        shares = np.arange(levels + 1) / levels
        while shares[1] > density / 4:
            shares = np.insert(shares, 1, shares[1] / 2)
        kept = [
            np.unique(np.clip(np.round(shares * size), low, size).astype(np.int64))
            for size, low in zip(self.sizes, least, strict=True)
        ]
        whole = amount.count(space) if amount.hold == "units" else density * space.cost_of(self.sizes, amount.hold)
        self.levels = Levels(kept, lambda numbers: space.cost_of(numbers, amount.hold), whole)

    def relative_losses(self) -> list[np.ndarray]:
        """Return, for each layer, the share of its saliency that is pruned at each possible number of kept units."""
        losses = []
        for kept, values in zip(self.levels.kept, self._values, strict=True):
            sums = np.concatenate([[0.0], values.cumsum()])
            losses.append(1 - sums[kept] / max(sums[-1], 1e-300))
        return losses

    def start(self, scope: Scope = "global") -> np.ndarray:
        """Return each layer's level (index of its number of kept units) at the start: about equal densities.

        Levels are indices, int64 (n_layers,). In spaces with blocks: of the ranking's mask with ``scope``.
        """
        if not self.problem.space.nested:
            return self.levels.even()
        generator = torch_generator(self.problem.seed, "levels", "start")
        kept = self.problem.top_units(self.saliency, scope, generator).kept_per_layer().values()
        pairs = zip(self.levels.kept, kept, strict=True)
        return np.array([max(0, int(np.searchsorted(own, number, "right")) - 1) for own, number in pairs])

    def mask(self, levels: np.ndarray, order: Sequence[int] | None = None) -> Mask:
        """Return the mask at one level (index of a number of kept units) per layer; it keeps more if the budget allows.

        Layers get more units in ``order`` while the budget allows it; by default, those of the smallest share first.
        """
        return self.mask_of(self.levels.numbers(levels), order)

    def mask_of(self, kept: np.ndarray, order: Sequence[int] | None = None) -> Mask:
        """Return the mask that keeps ``kept`` units per layer, and further units if the budget allows more.

        Layers get more units in ``order``; by default, those of the smallest share first. Removed blocks stay removed.
        """
        if order is None:
            order = np.argsort(kept / self.sizes, kind="stable").tolist()
            if self.problem.space.nested:
                order = [layer for layer in order if kept[layer]]
        return self.exactly(self.widened(kept, order))

    def widened(self, kept: np.ndarray, order: Sequence[int]) -> np.ndarray:
        """Raise the numbers of kept units per layer, layer by layer in ``order``, as far as the budget allows."""
        kept = filled(kept, order, self.sizes, lambda numbers: self.levels.cost(numbers) <= self.levels.budget)
        if not self.levels.cost(kept) <= self.levels.budget:
            problem = self.problem
            raise DensityTooLowError(
                problem.density,
                f"of the {problem.hold} is less than the smallest allowed numbers of units per layer need",
            )
        return kept

    def exactly(self, kept: np.ndarray) -> Mask:
        """Return the mask that keeps the ``kept`` best-ranked units of each layer, whatever it costs."""
        return Mask.of_units(
            self.problem.space, np.concatenate([units[:n] for units, n in zip(self.units, kept, strict=True)])
        )


@dataclass
class LevelSearcher(Searcher):
    """Base class of searchers that choose each layer's density among a few values (levels)."""

    levels: int = 10
    """Number of evenly spaced densities among which the search chooses for each layer."""

    refuses_problems = True
    takes_blocks: ClassVar[bool] = False  # whether blocks are layers of two levels

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise InputError(f"levels: {self.levels}; at least 2 are needed")

    def reset(self) -> None:  # noqa: D102
        space = self.problem.space
        if space.fixed_density is not None:
            raise InputError(
                f"{type(self).__name__}: all masks of this {space.describe()} have equal densities; "
                "choose another searcher"
            )
        self._fixed = self._rank(0) if self.problem.saliencies else None
        if self._fixed is None:
            self._ranked(0)  # raises the errors of the problem

    def _ranked(self, draw: int) -> RankedUnits:
        """The units by the problem's first saliency; without saliencies, in a random order of this number."""
        return self._fixed or self._rank(draw)

    def _rank(self, draw: int) -> RankedUnits:
        return RankedUnits(self.problem, self.levels, draw, blocks=self.takes_blocks)
