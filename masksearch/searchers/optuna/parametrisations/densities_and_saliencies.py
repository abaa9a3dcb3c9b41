"""Parametrisations of the layers' densities: alone, or beside the weights of saliencies."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from masksearch.core.problem_and_trials import Problem
from masksearch.core.space import MaskSpace
from masksearch.searchers.optuna.parametrisations.base import Parametrisation, ranks_of
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import torch_generator


class Layers(Parametrisation):
    """Mapping from one number per layer to a mask; the number shifts the layer's density up or down (in log-odds).

    Within a layer, units rank by a saliency. The unit at quantile q of layer l gets the saliency logit(q) + b_l, where
    b_l is the layer's parameter, and the top units of the whole network are kept. If t is the lowest kept saliency,
    layer l has density sigmoid(b_l - t), which lies in (0, 1) for all b. The exact total, in units, parameters or MACs,
    determines t. At low densities, the layers' densities are proportional to exp(b_l), as ERK's are to fixed factors
    (Evci et al. 2020). In pruning at initialisation, densities per layer matter more than the choice of units
    (Frankle et al. 2021; Su et al. 2020).

    Without a saliency, the units of a layer are drawn for every trial, from the seed (of a shared study: from its name)
    and the trial's number. The search then finds densities that are good for random units, not for one ranking, and its
    scores are noisier.

    Parameters
    ----------
    saliency : Tensor (n_units,), optional
        Ranking of the units of each layer.
    spread : float
        Parameters lie in [-spread, spread]; two layers' odds differ at most by a factor exp(2 spread).
    """

    def __init__(self, problem: Problem, saliency: Tensor | None, spread: float) -> None:
        space = problem.space
        _check_densities_are_free(problem, "layers")
        super().__init__(problem, [f"density/{layer.name}" for layer in space.layers], -spread, spread)
        self._drawn = saliency is None
        even = [log_odds(torch.arange(layer.size), layer.size) for layer in space.layers]
        if saliency is not None:
            ranks = [ranks_of(saliency[layer.slice], problem.seed) for layer in space.layers]
            even = [odds[rank] for odds, rank in zip(even, ranks, strict=True)]
        self._within = even
        uniform = np.zeros(len(space.layers))
        self._add_starts(uniform)
        held = self.mask(uniform, 0).density  # in units, whatever ``hold`` is
        if held and not space.nested:  # whole blocks have no densities
            self._add_starts(_offsets(space, space.quotas(held, "erk")))
        others = [] if saliency is None else [space.top_k(saliency, replace(problem.amount, on_empty="allow"))]
        others += [] if problem.start is None else [problem.start]
        self._add_starts(*(_offsets(space, list(mask.kept_per_layer().values())) for mask in others))

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        within = self._within
        if self._drawn:
            generator = torch_generator(self.problem.seed, "optuna", "units", number)
            within = [odds[torch.randperm(len(odds), generator=generator)] for odds in within]
        return torch.cat([odds + offset for odds, offset in zip(within, values.tolist(), strict=True)])


class Mixture(Parametrisation):
    """Mapping from one weight per saliency to the mask that keeps the top units by the weighted mean saliency.

    Optionally, each layer has a parameter as well, as in :class:`Layers`.
    Weights lie in [0, 1]. Saliencies have different scales, so each is replaced by the log-odds of its quantile in the
    whole network. The mixture is their weighted mean (plus the layer's parameter). The first trials score every
    saliency alone: its mask is that of a global criterion with one round and, if layers have parameters, of a layerwise
    criterion and of ERK as far as the bounds allow. The search so begins at the best criterion.

    Parameters
    ----------
    densities : bool
        Whether layers have parameters as well.
    spread : float
        As in :class:`Layers`.
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
        ranked = [ranks_of(saliency, problem.seed) for saliency in given.values()]
        self._odds = torch.stack([log_odds(ranks, n_units) for ranks in ranked])
        self._sizes = torch.tensor([layer.size for layer in layers])
        alone = np.eye(len(weights), len(self.names))
        self._add_starts(*alone)
        held = problem.top_k(self.saliency(alone[0], 0)).density if densities else 0.0  # in units
        if held and not problem.space.nested:  # whole blocks have no densities
            for scope in ("erk", "layerwise"):
                quotas = problem.space.quotas(held, scope)
                self._add_starts(*(point + self._offsets(point, quotas) for point in alone))
        self._add_starts(alone.sum(0))

    def _offsets(self, point: np.ndarray, quotas: Sequence[int]) -> np.ndarray:
        """The layers' parameters for which layers keep ``quotas`` units, as an array to add to a mixture's point."""
        mixed, borders = self.saliency(point, 0), []
        for layer, kept in zip(self.problem.space.layers, quotas, strict=True):
            ranked = mixed[layer.slice].sort(descending=True).values
            inside = ranked[max(kept - 1, 0) : kept + 1]  # the last kept unit and the first pruned unit
            borders.append(-float(inside.mean()))
        offsets = np.array(borders) - (min(borders) + max(borders)) / 2
        return np.concatenate([np.zeros(len(point) - len(offsets)), offsets])

    def saliency(self, values: np.ndarray, number: int) -> Tensor:  # noqa: D102
        n = len(self._odds)
        weights = torch.from_numpy(values[:n])
        mixed = weights @ self._odds / weights.sum().clamp(min=1e-12)
        return mixed + torch.from_numpy(values[n:]).repeat_interleave(self._sizes) if len(values) > n else mixed


def _check_densities_are_free(problem: Problem, name: str) -> None:
    if problem.amount.per_layer is not None:
        raise InputError(f"{name}: densities per layer are given, so there are none to search; give one density")
    if len(problem.space.layers) == 1:
        raise InputError(
            f"parametrisation: {name}; the space's only layer has the given density, so there are no densities to "
            "search; give blocks or bits"
        )


def log_odds(ranks: Tensor, n: int) -> Tensor:
    """Return the log-odds log(q / (1 - q)) of q = (rank + 1/2) / n, for each of the ranks 0 to n - 1."""
    return torch.logit((ranks.double() + 0.5) / n)


def _offsets(space: MaskSpace, kept: Sequence[int]) -> np.ndarray:
    """The parameters of :class:`Layers` for which the layers keep ``kept`` units, as far as the bounds allow."""
    sizes = np.array([layer.size for layer in space.layers])
    shares = np.clip(kept, 0.25, sizes - 0.25) / sizes  # 0 and all units lie beyond the outermost quantiles
    odds = np.log(shares / (1 - shares))
    return odds - (odds.min() + odds.max()) / 2
