"""Criteria that look at gradients of the loss, and what they share."""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError

__all__ = ["maskable", "snip", "summed_gradients", "taylor", "working_copy"]

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def snip(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Loss = F.cross_entropy,
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
    loss: Loss = F.cross_entropy,
) -> Tensor:
    """|sum of g w| over all parameters that the unit removes, (n_units,) (Molchanov et al. 2019, eq. 8, first order).

    To first order, how much the loss changes if the whole unit goes: terms of opposite sign cancel.
    """
    return space.unit_sums(_gradients_times_weights(model, space, batches, alive, loss)).abs().cpu()


def _gradients_times_weights(
    model: nn.Module, space: NetworkSpace, batches: Batches, alive: Mask | None, loss: Loss
) -> dict[str, Tensor]:
    """Parameter name -> (sum over batches of the loss's gradient) x parameter, of all parameters that masks touch."""
    network = working_copy(model, space, alive)
    weights = maskable(network, space)
    gradients = summed_gradients(network, list(weights.values()), batches, loss)
    return {name: g * w.detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}


def working_copy(model: nn.Module, space: NetworkSpace, alive: Mask | None) -> nn.Module:
    """A copy under ``alive``, in eval mode but for BatchNorm, which uses batch statistics: no random draws."""
    network = copy.deepcopy(model).eval().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    if alive is not None:
        space.apply(network, alive)
    return network


def maskable(network: nn.Module, space: NetworkSpace) -> dict[str, Tensor]:
    """Name -> parameter, of all parameters that masks touch."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return {name: parameters[name] for name in space.parameter_masks(space.full())}


def summed_gradients(network: nn.Module, weights: list[Tensor], batches: Batches, loss: Loss) -> list[Tensor]:
    """Sum over batches of the loss's gradient; 0 where the loss doesn't depend on a weight."""
    total = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
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
    return total
