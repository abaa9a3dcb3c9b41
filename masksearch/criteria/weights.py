"""Criteria that look at weights alone."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.spaces import WeightSpace

__all__ = ["mag_sign", "magnitude", "random"]

Batches = Iterable[tuple[Tensor, Tensor]]


def random(
    model: nn.Module,
    space: WeightSpace,
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
    space: WeightSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """|w|, (n_units,) (Han et al. 2015); meant for trained weights."""
    return space.gather(dict(model.named_parameters(remove_duplicate=False))).abs()


def mag_sign(
    model: nn.Module,
    space: WeightSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Saliency w sign(w0), (n_units,): large final, same sign (Zhou et al. 2019).

    Weights whose sign changed rank below all others. ``initial`` holds w0 by parameter name: the state dict at
    initialisation.
    """
    if initial is None:
        raise InputError("mag_sign: needs initial=, the weights at initialisation by parameter name")
    return space.gather(dict(model.named_parameters(remove_duplicate=False))) * space.gather(initial).sign()
