"""GraSP: keep what the flow of gradients depends on."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.gradients import Batches, Loss, maskable, summed_gradients, working_copy
from masksearch.spaces import NetworkSpace

__all__ = ["grasp"]

_TEMPERATURE = 200.0  # published: logits are divided by it before the softmax


def _softened(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits / _TEMPERATURE, labels)


def grasp(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Loss = _softened,
) -> Tensor:
    """Saliency (H g) w, (n_units,), of either sign: what |g|^2 / 2 loses with the unit, first order (Wang et al. 2020).

    The paper removes the largest -(H g) w; here the highest are kept. Gradient g and Hessian H are of the sum over
    batches, in the parameters that masks touch. A filter's saliency is the sum over all parameters that its unit
    removes.

    Parameters
    ----------
    batches : iterable of (images, labels)
        Gone through twice. One batch's graph is in memory at a time.
    alive : Mask, optional
        Evaluate the network under this mask; g is that of the parameters that it keeps.
    loss : callable
        (outputs, labels) -> scalar tensor; by default the cross-entropy of logits / 200.
    """
    batches = list(batches)
    network = working_copy(model, space, alive)
    weights = maskable(network, space)
    flow = summed_gradients(network, list(weights.values()), batches, loss)
    if alive is not None:
        for gradient, keep in zip(flow, space.parameter_masks(alive).values(), strict=True):
            gradient.masked_fill_(~keep.to(gradient.device), 0)
    products = _hessian_times(flow, network, list(weights.values()), batches, loss)
    return space.unit_sums({n: p * w.detach() for (n, w), p in zip(weights.items(), products, strict=True)}).cpu()


def _hessian_times(
    vector: list[Tensor], network: nn.Module, weights: list[Tensor], batches: Batches, loss: Loss
) -> list[Tensor]:
    """Sum over batches of H v, as the gradient of g . v with v held constant (Pearlmutter 1994)."""
    total = [torch.zeros_like(v) for v in vector]
    for images, labels in batches:
        device = weights[0].device
        with torch.enable_grad():
            value = loss(network(images.to(device)), labels.to(device))
            gradients = torch.autograd.grad(value, weights, create_graph=True, materialize_grads=True)
            along = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        if not along.requires_grad:  # the gradient is the same whatever the weights: H is 0
            continue
        for place, product in zip(total, torch.autograd.grad(along, weights, materialize_grads=True), strict=True):
            place += product
    return total
