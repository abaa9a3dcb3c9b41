"""Criteria that look at gradients of the loss."""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.spaces import NetworkSpace

__all__ = ["snip", "taylor"]

Batches = Iterable[tuple[Tensor, Tensor]]


def snip(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """|(sum over batches of g) w|, (n_units,): how much the loss depends on the unit being there (Lee et al. 2019).

    The gradients are summed before the absolute value is taken. The published setting is one batch of 100 images;
    class-balanced ones are better. A filter's is the sum over all parameters that its unit removes.

    Parameters
    ----------
    alive : Mask, optional
        Evaluate the network under this mask.
    loss : callable
        (outputs, labels) -> scalar tensor.
    """
    products = _gradients_times_weights(model, space, batches, alive, loss)
    return space.unit_sums({name: product.abs() for name, product in products.items()}).cpu()


def taylor(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """|sum of g w| over all parameters that the unit removes, (n_units,) (Molchanov et al. 2019, eq. 8, first order).

    To first order, how much the loss changes if the whole unit goes: terms of opposite sign cancel.
    """
    return space.unit_sums(_gradients_times_weights(model, space, batches, alive, loss)).abs().cpu()


def _gradients_times_weights(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    alive: Mask | None,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Parameter name -> (sum over batches of the loss's gradient) x parameter, of all parameters that masks touch.

    Runs on a copy of ``model`` with batch statistics in BatchNorm and dropout off.
    """
    network = working_copy(model)
    if alive is not None:
        space.apply(network, alive)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    names = list(space.parameter_masks(space.full()))
    weights = [parameters[name] for name in names]
    total = [torch.zeros_like(weight) for weight in weights]
    seen = False
    for images, labels in batches:
        device = weights[0].device
        with torch.enable_grad():  # also where the caller has switched gradients off
            value = loss(network(images.to(device)), labels.to(device))
        for place, gradient in zip(total, torch.autograd.grad(value, weights, materialize_grads=True), strict=True):
            place += gradient
        seen = True
    if not seen:
        raise InputError("batches: none; at least one (images, labels) is needed")
    return {name: (g * w).detach() for name, g, w in zip(names, total, weights, strict=True)}


def working_copy(model: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers use batch statistics and whose other layers are in eval mode: no random draws."""
    network = copy.deepcopy(model).eval().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return network
