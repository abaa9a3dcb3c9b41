"""Parametrisations: how a few numbers become a mask of exact density. What a sampler sees of the mask space."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.seeds import torch_generator
from masksearch.space import MaskSpace
from masksearch.trial import Problem

__all__ = [
    "RANGE",
    "Bits",
    "Blocks",
    "Enumeration",
    "FreeDensity",
    "Layers",
    "Mixture",
    "Parametrisation",
    "checked_saliency",
]

RANGE = 32
"""The largest density that is searched where masks have a cost / the smallest."""

_WITHIN = 1e-6  # weight of a unit's rank beside its block's value in [0, 1]: it orders the units of one block


class Parametrisation(ABC):
    """Numbers within bounds -> a saliency -> the mask of its top units.

    Density, ``hold`` and ``on_empty`` are the space's: whatever the numbers, the mask is one that the problem allows.
    Where the problem would raise on an emptied layer, one unit is kept there instead.

    Attributes
    ----------
    names : list of str
        Of the parameters.
    low, high : float64 array (n_parameters,)
        Their bounds.
    starts : list of float64 array (n_parameters,)
        Points worth scoring before any other.
    n_points : int or None
        How many points there are, if they can be counted.
    integers : bool
        Whether the parameters are whole numbers.
    """

    n_points: int | None = None
    integers = False

    def __init__(self, problem: Problem, names: list[str], low: float | np.ndarray, high: float | np.ndarray) -> None:
        self.problem = problem
        self.names = names
        self.low, self.high = np.full(len(names), low, dtype=float), np.full(len(names), high, dtype=float)
        self.starts: list[np.ndarray] = []

    def bounds(self, before: Sequence[float]) -> tuple[float, float]:
        """Bounds of the parameter that follows those with the values ``before``."""
        return float(self.low[len(before)]), float(self.high[len(before)])

    @abstractmethod
    def saliency(self, values: np.ndarray, number: int) -> Tensor:
        """The saliency, float64 (n_units,), of a point; ``number`` is the trial's, for what is drawn anew each time."""

    def mask(self, values: np.ndarray, number: int) -> Mask | None:
        """The mask of one point; None if the problem doesn't allow it."""
        return self.problem.top_k(self.saliency(values, number))

    def _begin_with(self, *points: np.ndarray) -> None:
        """Add to the starts what is new, moved into the bounds."""
        for point in points:
            inside = np.clip(point, self.low, self.high)
            if not any(np.array_equal(inside, start) for start in self.starts):
                self.starts.append(inside)


class Layers(Parametrisation):
    """One parameter a layer: how much denser it is than the others, in log-odds.

    Within a layer, units rank by a saliency. The unit at quantile q of layer l has the saliency logit(q) + b_l, b_l the
    layer's parameter, and the best units of the whole network are kept. With t the saliency of the last one kept, layer
    l has density sigmoid(b_l - t): in (0, 1) for any b, and t settles itself so that the total is exact, in units,
    parameters or MACs. At low densities, layers' densities are as exp(b_l) (as those of ERK are as fixed factors, Evci
    et al. 2020); that densities per layer matter more than which units are kept, in pruning at initialisation, is the
    finding of Frankle et al. 2021 and Su et al. 2020.

    Without a saliency, the units of a layer are drawn anew for every trial, from the seed and the trial's number: what
    is searched for are densities that are good for random units, not for one ranking. Scores are noisier for it.

    Parameters
    ----------
    saliency : Tensor (n_units,), optional
        Ranks the units of each layer.
    spread : float
        Parameters lie in [-spread, spread]; two layers' odds differ at most by a factor exp(2 spread).
    """

    def __init__(self, problem: Problem, saliency: Tensor | None, spread: float) -> None:
        space, density = problem.space, problem.density
        _check_densities_are_free(problem, "layers")
        super().__init__(problem, [f"density/{layer.name}" for layer in space.layers], -spread, spread)
        self._drawn = saliency is None
        even = [_odds(torch.arange(layer.size), layer.size) for layer in space.layers]
        if saliency is not None:
            ranks = [_ranks(saliency[layer.slice], problem.seed) for layer in space.layers]
            even = [odds[rank] for odds, rank in zip(even, ranks, strict=True)]
        self._within = even
        uniform = np.zeros(len(space.layers))
        self._begin_with(uniform)
        first = self.mask(uniform, 0)
        assert first is not None
        self._begin_with(_offsets(space, space.quotas(first.density, "erk")))
        others = [] if saliency is None else [space.top_k(saliency, density, on_empty="allow", hold=problem.hold)]
        others += [] if problem.start is None else [problem.start]
        self._begin_with(*(_offsets(space, list(mask.kept_per_layer().values())) for mask in others))

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        within = self._within
        if self._drawn:
            generator = torch_generator(self.problem.seed, "optuna", "units", number)
            within = [odds[torch.randperm(len(odds), generator=generator)] for odds in within]
        return torch.cat([odds + offset for odds, offset in zip(within, values.tolist(), strict=True)])


class Mixture(Parametrisation):
    """One weight in [0, 1] per saliency of the problem, and, if wanted, one parameter a layer as :class:`Layers` has.

    Saliencies are on scales that can't be added, so each becomes the log-odds of its quantile in the whole network.
    The mixture is their weighted mean (plus the layer's parameter). Every saliency alone is scored first, and gives
    exactly the mask that it gives as a global criterion, or, where layers have parameters, as a layerwise one and under
    ERK as far as the bounds allow; so the search begins at the best of them.

    Parameters
    ----------
    densities : bool
        Whether layers have parameters, too.
    spread : float
        As :class:`Layers` has it.
    """

    def __init__(self, problem: Problem, densities: bool, spread: float) -> None:
        given, layers = problem.saliencies, problem.space.layers
        if not given:
            raise InputError(
                "mixture: the problem has no saliencies to mix; pass saliencies={name: tensor (n_units,)} to the search"
            )
        if len(given) == 1 and not densities:
            raise InputError(
                f"mixture: {next(iter(given))!r} is the only saliency and makes one mask; pass two, or densities=True"
            )
        if densities:
            _check_densities_are_free(problem, "mixture with densities")
        weights = [f"weight/{name}" for name in given]
        offsets = [f"density/{layer.name}" for layer in layers] if densities else []
        low = np.array([0.0] * len(weights) + [-spread] * len(offsets))
        super().__init__(problem, [*weights, *offsets], low, np.array([1.0] * len(weights) + [spread] * len(offsets)))
        n_units = problem.space.n_units
        ranked = [_ranks(checked_saliency(problem, name), problem.seed) for name in given]
        self._odds = torch.stack([_odds(ranks, n_units) for ranks in ranked])
        self._sizes = torch.tensor([layer.size for layer in layers])
        alone = np.eye(len(weights), len(self.names))
        self._begin_with(*alone)
        if densities:
            held = problem.top_k(self.saliency(alone[0], 0)).density  # in units, whatever the problem holds
            for scope in ("erk", "layerwise"):
                quotas = problem.space.quotas(held, scope)
                self._begin_with(*(point + self._offsets(point, quotas) for point in alone))
        self._begin_with(alone.sum(0))

    def _offsets(self, point: np.ndarray, quotas: Sequence[int]) -> np.ndarray:
        """What to add to a mixture's point, so that layers keep just so many units each: their parameters."""
        mixed, ends = self.saliency(point, 0), []
        for layer, kept in zip(self.problem.space.layers, quotas, strict=True):
            ranked = mixed[layer.slice].sort(descending=True).values
            inside = ranked[max(kept - 1, 0) : kept + 1]  # the last unit that is kept and the first that is not
            ends.append(-float(inside.mean()))
        offsets = np.array(ends) - (min(ends) + max(ends)) / 2
        return np.concatenate([np.zeros(len(point) - len(offsets)), offsets])

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        n = len(self._odds)
        weights = torch.from_numpy(values[:n])
        mixed = weights @ self._odds / weights.sum().clamp(min=1e-12)
        return mixed + torch.from_numpy(values[n:]).repeat_interleave(self._sizes) if len(values) > n else mixed


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
            self._block_of[layer.slice] = int(first) + _ranks(order[layer.slice], problem.seed) * count // layer.size
        self._rank = _ranks(order, problem.seed).double() / space.n_units
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
        for name in problem.saliencies:
            ranks = _ranks(checked_saliency(problem, name), problem.seed)
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


class FreeDensity(Parametrisation):
    """Another parametrisation's numbers and, before them, the density: what is searched where the problem has a cost.

    The density is on a log scale, from a 32nd of the problem's to the problem's, and every mask has its own exactly, in
    what the problem holds. Masks keep one unit of every layer at least, also where the problem allows less: without it
    there is no smaller network to have the cost.

    Begun is with the first of the other's starts at both ends, so that the front reaches from one to the other; then
    come all of them at a half, a quarter and an eighth of the problem's density.

    Parameters
    ----------
    at : callable
        Makes the other parametrisation, for a problem of one density.
    """

    def __init__(self, problem: Problem, at: Callable[[Problem], Parametrisation]) -> None:
        density = problem.density
        if isinstance(density, Mapping):
            raise InputError("density: one per layer; where masks have a cost, give one density, the largest")
        problem = replace(problem, on_empty="keep_one")
        self._other = other = at(problem)
        high = math.log(density)
        low = min(high, max(high - math.log(RANGE), math.log(self._least(problem))))
        bounds = (np.concatenate([[low], other.low]), np.concatenate([[high], other.high]))
        super().__init__(problem, ["log density", *other.names], *bounds)
        for value, starts in [
            *((end, other.starts[:1]) for end in (high, low)),
            *((high - math.log(part), None) for part in (2, 4, 8)),
        ]:
            if starts is None:
                starts = at(replace(problem, density=math.exp(max(value, low)))).starts
            self._begin_with(*(np.concatenate([[value], start]) for start in starts))

    @staticmethod
    def _least(problem: Problem) -> float:
        """The density of one unit a layer."""
        space = problem.space
        one_each = Mask.of_units(space, np.array([layer.start for layer in space.layers]))
        return space.share(one_each, problem.hold) * (1 + 1e-9)  # rounded, it must not become less

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        return self._other.saliency(values[1:], number)

    def mask(self, values: np.ndarray, number: int) -> Mask:  # noqa: D102
        density = min(math.exp(values[0]), float(self.problem.density))  # type: ignore[arg-type]
        return replace(self.problem, density=density).top_k(self.saliency(values, number))


def _check_densities_are_free(problem: Problem, name: str) -> None:
    if isinstance(problem.density, Mapping):
        raise InputError(f"{name}: densities per layer are given, so there are none to search; give one density")
    if len(problem.space.layers) == 1:
        raise InputError(f"{name}: the space has one layer, so its density is the problem's; choose blocks or bits")


def checked_saliency(problem: Problem, name: str) -> Tensor:
    """The problem's saliency of that name, on the CPU, if it has one value per unit."""
    saliency, n_units = problem.saliencies[name].detach().cpu(), problem.space.n_units
    if saliency.shape != (n_units,) or saliency.isnan().any():
        raise InputError(
            f"saliency {name!r}: shape {tuple(saliency.shape)}, {int(saliency.isnan().sum())} NaN; one number per unit "
            f"is needed, ({n_units},)"
        )
    return saliency


def _ranks(saliency: Tensor, seed: int) -> Tensor:
    """0 for the lowest value up to n - 1, int64; among equals, in a random order that the seed fixes."""
    shuffled = torch.randperm(len(saliency), generator=torch_generator(seed, "optuna", "ties"))
    order = shuffled[torch.argsort(saliency[shuffled], stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks


def _odds(ranks: Tensor, n: int) -> Tensor:
    """Log-odds of the quantiles (rank + 1/2) / n, float64."""
    return torch.logit((ranks.double() + 0.5) / n)


def _offsets(space: MaskSpace, kept: Sequence[int]) -> np.ndarray:
    """The parameters of :class:`Layers` under which the layers keep just so many units, as far as the bounds allow."""
    sizes = np.array([layer.size for layer in space.layers])
    shares = np.clip(kept, 0.25, sizes - 0.25) / sizes  # beyond the outermost quantiles: nothing, and everything
    odds = np.log(shares / (1 - shares))
    return odds - (odds.min() + odds.max()) / 2


def _unit_names(space: MaskSpace) -> list[str]:
    return [f"unit/{layer.name}/{i}" for layer in space.layers for i in range(layer.size)]
