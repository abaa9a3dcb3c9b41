"""Parametrisations with one parameter per block of units, or one per unit."""

import numpy as np
import torch
from torch import Tensor

from masksearch.core.problem_and_trials import Problem
from masksearch.core.space import MaskSpace
from masksearch.searchers.optuna.parametrisations.base import Parametrisation, ranks_of
from masksearch.utils.seeds import torch_generator

_WITHIN = 1e-6  # weight of a unit's rank beside its block's value: it orders only the units of one block


class Blocks(Parametrisation):
    """Mapping from one value in [0, 1] per group of units to the mask that keeps the groups of highest values.

    The last block is kept in part. The units of a layer are divided into blocks in the order of a saliency, or in one
    random order for all trials; within a block, units rank in this order. A layer has blocks in proportion to its
    units, but at least one.

    Parameters
    ----------
    saliency : Tensor (n_units,), optional
        Order of the units, so that a block has units of similar saliency.
    blocks : int
        Approximate number of blocks over all layers.
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
            self._add_starts(self._means(self._rank))
        if problem.start is not None:
            self._add_starts(self._means(problem.start.bits.double()))

    def _means(self, per_unit: Tensor) -> np.ndarray:
        sums = torch.zeros(len(self.names), dtype=torch.double).index_add_(0, self._block_of, per_unit)
        return (sums / self._block_of.bincount(minlength=len(self.names))).numpy()

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return torch.from_numpy(values)[self._block_of] + _WITHIN * self._rank


class Bits(Parametrisation):
    """Mapping from one value in [0, 1] per unit to the mask that keeps the units of highest value."""

    def __init__(self, problem: Problem) -> None:
        n_units = problem.space.n_units
        super().__init__(problem, _unit_names(problem.space), 0.0, 1.0)
        for saliency in problem.saliencies.values():
            ranks = ranks_of(saliency, problem.seed)
            self._add_starts(((ranks + 0.5) / n_units).numpy())
        if problem.start is not None:
            self._add_starts(np.where(problem.start.bits.numpy(), 0.75, 0.25))

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return torch.from_numpy(values)


def _unit_names(space: MaskSpace) -> list[str]:
    return [f"unit/{layer.name}/{i}" for layer in space.layers for i in range(layer.size)]
