"""Criteria that look at weights alone, for weights and for filters."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.spaces import NetworkSpace

__all__ = ["mag_sign", "magnitude", "random"]

Batches = Iterable[tuple[Tensor, Tensor]]


def random(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniform noise in [0, 1), (n_units,). With scopes global, layerwise and erk, three different baselines."""
    return torch.rand(space.n_units, generator=generator)


def magnitude(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """|w|, (n_units,) (Han et al. 2015); of filters the mean |w| (thesis 2020, Mag). Meant for trained weights."""
    return _means(space, {name: weight.abs() for name, weight in _weights(space, _parameters(model)).items()})


def mag_sign(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Saliency w sign(w0), (n_units,): large final, same sign (Zhou et al. 2019).

    Weights whose sign changed rank below all others. Of filters, mean(w) sign(mean(w0)) (thesis 2020, MagSign).
    ``initial`` holds w0 by parameter name: the state dict at initialisation.
    """
    if initial is None:
        raise InputError("mag_sign: needs initial=, the weights at initialisation by parameter name")
    missing = [name for name in space.layer_weights() if name not in initial]
    if missing:
        raise InputError(f"mag_sign: initial= has no {missing[0]!r}; it needs every weight at initialisation")
    return _means(space, _weights(space, _parameters(model))) * _means(space, _weights(space, initial)).sign()


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}


def _weights(space: NetworkSpace, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in space.layer_weights()}


def _means(space: NetworkSpace, weights: Mapping[str, Tensor]) -> Tensor:
    """Mean over the weights that make each unit, (n_units,), on the CPU."""
    counts = space.unit_sums({name: torch.ones_like(weight) for name, weight in weights.items()}, "filters")
    return (space.unit_sums(weights, "filters") / counts).cpu()
