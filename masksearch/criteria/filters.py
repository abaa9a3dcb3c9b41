"""Criteria that rank filters, by the weights of all layers that make the unit's channels.

Where residual additions tie the channels of several layers into one unit, its saliency is taken over all of them.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces import FilterSpace
from masksearch.utils.errors import InputError

__all__ = ["bn_scale", "filter_l1", "filter_l2", "fpgm"]

Batches = Iterable[tuple[Tensor, Tensor]]


def filter_l1(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Sum of |w| over the unit's filters, (n_units,) (Li et al. 2017); published layerwise."""
    return _sums(model, space, torch.abs)


def filter_l2(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Euclidean norm of the unit's filters, (n_units,) (He et al. 2018); published layerwise."""
    return _sums(model, space, torch.square).sqrt()


def fpgm(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Sum of the Euclidean distances to the layer's other filters, (n_units,) (He et al. 2019, eq. 4).

    A filter near the geometric median of its layer is what the others can stand in for. Published layerwise. Under
    ``alive``, distances are to filters that are alive.
    """
    parameters = dict(model.named_parameters())
    keep = space.parameter_masks(alive) if alive is not None else {}
    distances = {}
    for name, dim in space.groups.filters:
        weight = parameters[name].detach()
        weight = weight.float() if weight.dtype.itemsize < 4 else weight  # torch knows no distances in half precision
        filters = weight.transpose(0, dim).flatten(1)  # (filters, entries)
        others = filters if name not in keep else filters[keep[name].transpose(0, dim).flatten(1).any(1)]
        spread = torch.zeros_like(filters)
        # One entry per filter: its sum. Not by matrix products, which cancel where filters are nearly equal.
        spread[:, 0] = torch.cdist(filters, others, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        distances[name] = spread.view_as(weight.transpose(0, dim)).transpose(0, dim)
    return space.unit_sums(distances, "filters").cpu()


def bn_scale(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Mean of |gamma| over the unit's BatchNorm channels, (n_units,) (Liu et al. 2017, network slimming); global.

    The mean, because all layers share one threshold: a sum would favour units that residual additions tie together.

    Raises
    ------
    InputError
        If units of a layer pass through no BatchNorm that has a scale.
    """
    scales = {
        f"{name}.weight": module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }
    gammas = {name: torch.ones_like(scale) for name, scale in scales.items()}
    covered = space.unit_sums(gammas) if scales else torch.zeros(space.n_units)
    for layer in space.layers:
        if not (covered[layer.slice] > 0).all():
            raise InputError(f"bn_scale: channels of layer {layer.name!r} pass through no BatchNorm with a scale")
    return (space.unit_sums({name: scale.abs() for name, scale in scales.items()}) / covered).cpu()


def _sums(model: nn.Module, space: FilterSpace, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums of ``of(weight)`` over every unit's filters, (n_units,), on the CPU."""
    parameters = dict(model.named_parameters())
    return space.unit_sums({name: of(parameters[name].detach()) for name in space.layer_weights()}, "filters").cpu()
