"""Pruning criteria for filters: L1 and L2 norms, geometric median, BatchNorm scales, errors after a repair.

A unit is a group of channels that must be removed together. If residual additions couple channels of several layers to
one unit, its saliency is taken over the filters of all these layers.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.batches_and_loss import Batches, input_batches
from masksearch.pruning.energy_after_repair import repair_energy
from masksearch.spaces import FilterSpace
from masksearch.spaces.base_space import on_inner_network
from masksearch.utils.errors import InputError


@on_inner_network
def filter_l1(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the L1 norm of each unit's filters as its saliency (higher = keep): (n_units,), on the CPU.

    Li et al. 2017; the paper ranks layer by layer.
    """
    return _filter_sums(model, space, torch.abs)


@on_inner_network
def filter_l2(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the Euclidean norm of each unit's filters as its saliency (higher = keep): (n_units,), on the CPU.

    He et al. 2018; the paper ranks layer by layer.
    """
    return _filter_sums(model, space, torch.square).sqrt()


@on_inner_network
def fpgm(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return each filter's sum of Euclidean distances to the other filters of its layer, as saliency: (n_units,).

    He et al. 2019, eq. 4 (FPGM): a filter near the geometric median of its layer can be replaced by the others. The
    paper ranks layer by layer. With ``alive``, distances are to the filters that this mask keeps.
    """
    parameters = dict(model.named_parameters())
    keep = space.parameter_masks(alive) if alive is not None else {}
    distances = {}
    for name, dim in space.groups.filters:
        weight = parameters[name].detach()
        weight = weight.float() if weight.dtype.itemsize < 4 else weight  # torch has no distances in half precision
        filters = weight.transpose(0, dim).flatten(1)  # (filters, entries)
        alive_filters = filters if name not in keep else filters[keep[name].transpose(0, dim).flatten(1).any(1)]
        sums = torch.zeros_like(filters)
        # The first entry of every filter holds its sum. Matrix products would cancel for nearly equal filters.
        sums[:, 0] = torch.cdist(filters, alive_filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        distances[name] = sums.view_as(weight.transpose(0, dim)).transpose(0, dim)
    return space.unit_sums(distances, "filters").cpu()


@on_inner_network
def bn_scale(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches = (),
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the mean BatchNorm scale |gamma| of each unit's channels as its saliency (higher = keep): (n_units,).

    Liu et al. 2017 (network slimming), which ranks all layers together. For that, a sum over BatchNorm layers would
    favour units with channels in several layers.

    Raises
    ------
    InputError
        If a layer has units without a BatchNorm scale.
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
            raise InputError(
                f"bn_scale: channels of layer {layer.name!r} pass through no BatchNorm with a scale; "
                "give another criterion"
            )
    return (space.unit_sums({name: scale.abs() for name, scale in scales.items()}) / covered).cpu()


@on_inner_network
def energy(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return each filter's place in the order of greedy pruning as saliency: 0 for the first, least harmful filter.

    The unit whose removal, after the best least-squares repair of the layers that read it, adds least to their relative
    squared errors goes first; then the others are rated anew (optimal brain surgery of groups; ZipLM, Kurtic et al.
    2023). The last unit of each layer ranks above all other units.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        Some hundred training examples; targets are not read. See :func:`masksearch.repair_energy`.
    alive : Mask, optional
        Mask at which the removal begins; units that it prunes have -1.

    Raises
    ------
    InputError
        As :func:`masksearch.repair_energy`.
    """
    return repair_energy(model, space, input_batches(batches, "energy")).saliency(alive)


def _filter_sums(model: nn.Module, space: FilterSpace, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the sums of ``function(weight)`` over every unit's filters: (n_units,), on the CPU."""
    parameters = dict(model.named_parameters())
    return space.unit_sums(
        {name: function(parameters[name].detach()) for name in space.layer_weights()}, "filters"
    ).cpu()
