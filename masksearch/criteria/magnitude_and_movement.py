"""Pruning criteria that read only weights, for masks of weights and of filters: magnitude, movement, LAMP, random.

"Thesis 2020" is "Heuristic Approach Towards Early Pruning of Neural Networks".
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.spaces.base_space import on_inner_network
from masksearch.utils.errors import InputError

Batches = Iterable[tuple[Tensor, Tensor]]


@on_inner_network
def random(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return uniform noise in [0, 1) as the saliency of weights or filters, for random pruning: (n_units,).

    The scopes global, layerwise and erk give three different baselines.
    """
    return torch.rand(space.n_units, generator=generator)


@on_inner_network
def magnitude(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return |w| of each weight w, or the mean |w| of each filter, as saliency (higher = keep): (n_units,).

    Han et al. 2015; for filters thesis 2020, Mag. With ``alive``, means are over the entries that this mask keeps.
    """
    weights = _weights(space, _parameters(model))
    return _means(space, {name: weight.abs() for name, weight in weights.items()}, alive)


@on_inner_network
def mag_sign(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return w sign(w0) as the saliency of each weight w with initial value w0: large if w is large and kept its sign.

    Shape (n_units,). Weights whose sign changed in training rank below all others: "large final, same sign" of Zhou et
    al. 2019. For filters, mean(w) sign(mean(w0)) (thesis 2020, MagSign). ``initial`` holds w0 by parameter name: the
    state dict at initialisation. With ``alive``, means are over the entries that this mask keeps.
    """
    weights = _weights(space, _parameters(model))
    start = _at_start("mag_sign", weights, initial)
    return _means(space, weights, alive) * _means(space, start, alive).sign()


@on_inner_network
def magnitude_increase(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the increase |w| - |w0| since initialisation of each weight, or its sum over each filter, as saliency.

    Zhou et al. 2019. The sum is over all parameters that the filter's unit removes and that ``alive`` keeps.
    ``initial`` holds the initial weights w0 by parameter name.
    """
    weights = _removed(space, _parameters(model))
    start = _at_start("magnitude_increase", weights, initial)
    grown = {name: weight.abs() - start[name].abs() for name, weight in weights.items()}
    return space.unit_sums(_alive(space, grown, alive)).cpu()


@on_inner_network
def movement(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the distance |w - w0| of each weight from its initial value, or its sum over each filter: (n_units,).

    Zhou et al. 2019; not the movement pruning of Sanh et al. 2020. The sum is over all parameters that the filter's
    unit removes and that ``alive`` keeps. ``initial`` holds the initial weights w0 by parameter name.
    """
    weights = _removed(space, _parameters(model))
    start = _at_start("movement", weights, initial)
    moved = {name: (weight - start[name]).abs() for name, weight in weights.items()}
    return space.unit_sums(_alive(space, moved, alive)).cpu()


@on_inner_network
def lamp(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the LAMP score w^2 / (sum of all w^2 of its layer that are at least as large): float64 (n_units,).

    Lee et al. 2021, for global scope: the largest weight of every layer has 1, so that every layer keeps a unit as long
    as possible. A filter's w^2 is the sum of squares of all parameters that its unit removes. Entries that ``alive``
    prunes count as 0.
    """
    squares = {name: weight.double().square() for name, weight in _removed(space, _parameters(model)).items()}
    sizes = space.unit_sums(_alive(space, squares, alive)).cpu()
    return torch.cat([_share_of_larger(sizes[layer.slice]) for layer in space.layers])


def _share_of_larger(sizes: Tensor) -> Tensor:
    """Return each non-negative value / the sum of all values that are at least as large; 0 for 0."""
    values, index, counts = sizes.unique(return_inverse=True, return_counts=True)
    at_least_as_large = (values * counts).flip(0).cumsum(0).flip(0)
    return sizes / at_least_as_large[index].clamp_min(torch.finfo(sizes.dtype).tiny)


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}


def _weights(space: NetworkSpace, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in space.layer_weights()}


def _removed(space: NetworkSpace, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in space.parameter_masks(space.full())}


def _at_start(criterion: str, weights: Mapping[str, Tensor], initial: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the initial values of ``weights``, on the devices of the weights."""
    if initial is None:
        raise InputError(f"{criterion}: needs initial=, the weights at initialisation by parameter name")
    for name, weight in weights.items():
        if name not in initial:
            raise InputError(f"{criterion}: initial= has no {name!r}; it needs every weight at initialisation")
        if initial[name].shape != weight.shape:
            raise InputError(
                f"{criterion}: initial= has shape {tuple(initial[name].shape)} for {name!r}, "
                f"and the model {tuple(weight.shape)}"
            )
    return {name: initial[name].detach().to(weight.device) for name, weight in weights.items()}


def _alive(space: NetworkSpace, tensors: Mapping[str, Tensor], alive: Mask | None) -> dict[str, Tensor]:
    """Return the tensors with zeros at entries that the mask ``alive`` prunes."""
    keep = space.parameter_masks(alive) if alive is not None else {}
    return {name: tensor * keep[name].to(tensor.device) if name in keep else tensor for name, tensor in tensors.items()}


def _means(space: NetworkSpace, weights: Mapping[str, Tensor], alive: Mask | None) -> Tensor:
    """Return the mean of the weights of each unit that ``alive`` keeps: (n_units,), on the CPU; 0 if it keeps none."""
    ones = {name: torch.ones_like(weight) for name, weight in weights.items()}
    counts = space.unit_sums(_alive(space, ones, alive), "filters").clamp_min(1)
    return (space.unit_sums(_alive(space, weights, alive), "filters") / counts).cpu()
