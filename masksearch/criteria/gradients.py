"""Criteria that look at gradients of the loss."""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.spaces import WeightSpace

__all__ = ["snip"]

Batches = Iterable[tuple[Tensor, Tensor]]


def snip(
    model: nn.Module,
    space: WeightSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """|(sum over batches of g) w|, (n_units,): how much the loss depends on the unit being there (Lee et al. 2019).

    The gradients are summed before the absolute value is taken. The published setting is one batch of 100 images;
    class-balanced ones are better. Runs on a copy of ``model`` with batch statistics in BatchNorm and dropout off.

    Parameters
    ----------
    alive : Mask, optional
        Evaluate the network under this mask.
    loss : callable
        (outputs, labels) -> scalar tensor.
    """
    network = working_copy(model)
    if alive is not None:
        space.apply(network, alive)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    weights = [parameters[name] for name in space.layer_weights()]
    total = [torch.zeros_like(weight) for weight in weights]
    seen = False
    for images, labels in batches:
        device = weights[0].device
        value = loss(network(images.to(device)), labels.to(device))
        for place, gradient in zip(total, torch.autograd.grad(value, weights, materialize_grads=True), strict=True):
            place += gradient
        seen = True
    if not seen:
        raise InputError("snip: no batches; at least one (images, labels) is needed")
    named = {name: (g * w).abs() for name, g, w in zip(space.layer_weights(), total, weights, strict=True)}
    return space.gather(named).cpu()


def working_copy(model: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers use batch statistics and whose other layers are in eval mode: no random draws."""
    network = copy.deepcopy(model).eval().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return network
