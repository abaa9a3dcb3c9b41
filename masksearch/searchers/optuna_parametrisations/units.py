"""Parameters that stand for units, in blocks or one by one."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.searchers.optuna_parametrisations.base import Parametrisation, ranks_of
from masksearch.seeds import torch_generator
from masksearch.space import MaskSpace
from masksearch.trial import Problem

__all__ = ["Bits", "Blocks", "Enumeration"]

_WITHIN = 1e-6  # weight of a unit's rank beside its block's value in [0, 1]: it orders the units of one block


class Blocks(Parametrisation):
    """One value in [0, 1] per block of units; blocks are kept from the highest value down, the last one in part.

    A layer is cut into blocks in the order of a saliency, or in a random order, the same for all trials; within a
    block, units rank in that order. Every layer has at least one block, and as many as its share of the units is.

    Parameters
    ----------
    saliency : Tensor (n_units,), optional
        Puts units that are alike in one block.
    blocks : int
        About how many, over all layers.
    """

    def __init__(self, problem: Problem, saliency: Tensor | None, blocks: int) -> None:
        space = problem.space
        counts = [min(layer.size, max(1, round(blocks * layer.size / space.n_units))) for layer in space.layers]
        names = [
            f"block/{layer.name}/{i}" for layer, count in zip(space.layers, counts, strict=True) for i in range(count)
        ]
        super().__init__(problem, names, 0.0, 1.0)
        generator = torch_generator(problem.seed, "optuna", "blocks")
        order = torch.rand(space.n_units, generator=generator) if saliency is None else saliency
        self._block_of = torch.empty(space.n_units, dtype=torch.long)
        for layer, count, first in zip(space.layers, counts, np.cumsum([0, *counts]), strict=False):
            self._block_of[layer.slice] = int(first) + ranks_of(order[layer.slice], problem.seed) * count // layer.size
        self._rank = ranks_of(order, problem.seed).double() / space.n_units
        if saliency is not None:
            self._begin_with(self._means(self._rank))
        if problem.start is not None:
            self._begin_with(self._means(problem.start.bits.double()))

    def _means(self, per_unit: Tensor) -> np.ndarray:
        sums = torch.zeros(len(self.names), dtype=torch.double).index_add_(0, self._block_of, per_unit)
        return (sums / self._block_of.bincount(minlength=len(self.names))).numpy()

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return torch.from_numpy(values)[self._block_of] + _WITHIN * self._rank


class Bits(Parametrisation):
    """One value in [0, 1] per unit; the units of highest value are kept."""

    def __init__(self, problem: Problem) -> None:
        n_units = problem.space.n_units
        super().__init__(problem, _unit_names(problem.space), 0.0, 1.0)
        for saliency in problem.saliencies.values():
            ranks = ranks_of(saliency, problem.seed)
            self._begin_with(((ranks + 0.5) / n_units).numpy())
        if problem.start is not None:
            self._begin_with(np.where(problem.start.bits.numpy(), 0.75, 0.25))

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return torch.from_numpy(values)


class Enumeration(Parametrisation):
    """One bit per unit, each bounded by those before it so that the density comes out: every mask is one point.

    With a density per layer, the bits of every layer come out at that.
    """

    integers = True

    def __init__(self, problem: Problem) -> None:
        space, density = problem.space, problem.density
        if problem.hold != "units":
            raise InputError(f"hold: {problem.hold!r}; masks are enumerated at a number of units, so hold 'units'")
        super().__init__(problem, _unit_names(space), 0.0, 1.0)
        if isinstance(density, Mapping):
            runs = [(layer.start, layer.stop) for layer in space.layers]
            self._runs = [(*run, kept) for run, kept in zip(runs, space.quotas(density), strict=True)]
        else:
            self._runs = [(0, space.n_units, space.count(density))]
        self.n_points = math.prod(math.comb(stop - start, kept) for start, stop, kept in self._runs)

    def bounds(self, before: Sequence[float]) -> tuple[float, float]:  # noqa: D102
        i = len(before)
        start, stop, quota = next(run for run in self._runs if i < run[1])
        missing = quota - int(sum(before[start:]))
        return float(missing == stop - i), float(missing > 0)

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return torch.from_numpy(values)

    def mask(self, values: np.ndarray, number: int) -> Mask | None:  # noqa: D102
        mask = Mask(self.problem.space, self.saliency(values, number) > 0.5)
        return mask if self.problem.on_empty == "allow" or not mask.empty_layers() else None


def _unit_names(space: MaskSpace) -> list[str]:
    return [f"unit/{layer.name}/{i}" for layer in space.layers for i in range(layer.size)]
