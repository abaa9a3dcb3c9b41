"""Pruning criteria from gradients of the loss, for masks of weights and of filters: SNIP, Taylor and GraSP."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.batches_and_loss import Batches, BatchLoss, Loss, loss_batches
from masksearch.spaces import NetworkSpace
from masksearch.spaces.base_space import on_inner_network

_GRASP_TEMPERATURE = 200.0  # divisor of the logits before the softmax, as in the paper


@on_inner_network
def snip(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Tensor:
    """Return the SNIP saliency (n_units,): |g w| of a weight w with gradient g, or the sum of |g w| over a filter.

    Lee et al. 2019. g is summed over batches before the absolute value is taken. The paper uses one batch of 100
    images; class-balanced ones are better. The sum of a filter is over all parameters that its unit removes.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        A split gives the loss of its task, too.
    alive : Mask, optional
        Mask of the network during the evaluation.
    loss : callable, optional
        (outputs as the network returns them, targets) -> scalar tensor. Default: the loss of the split's task; of plain
        batches, the cross-entropy of integer classes.

    Raises
    ------
    InputError
        If there is no batch, or plain batches have other targets than integer classes and ``loss`` is not given.
    """
    products = _gradients_times_weights(model, space, batches, alive, loss, "snip")
    return space.unit_sums({name: product.abs() for name, product in products.items()}).cpu()


@on_inner_network
def taylor(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Tensor:
    """Return each unit's saliency: |sum of gradient x weight| over all parameters that are removed with the unit.

    The shape is (n_units,). The change of the loss if the whole unit is removed, to first order: terms of opposite sign
    cancel. ``batches`` and ``loss`` are those of :func:`snip`.
    """
    return space.unit_sums(_gradients_times_weights(model, space, batches, alive, loss, "taylor")).abs().cpu()


@on_inner_network
def grasp(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Tensor:
    """Return the GraSP saliency w (H g) of each weight w, or its sum over each filter (gradient g, Hessian H).

    The shape is (n_units,). Wang et al. 2020: the decrease of the squared gradient norm |g|^2 / 2 by removal of the
    unit. The paper removes the largest -(H g) w; here the highest (H g) w are kept. Gradient g and Hessian H are of the
    loss summed over batches, in the parameters that masks can change. The sum of a filter is over all parameters that
    its unit removes.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        Read twice; the graph of one batch at a time is in memory.
    alive : Mask, optional
        Mask of the network during the evaluation; g is 0 at the parameters that it prunes.
    loss : callable, optional
        (outputs as the network returns them, targets) -> scalar tensor. Default: in classification, the cross-entropy
        of logits / 200; in other tasks, the task's loss.
    """
    chosen = loss_batches(batches, loss, "grasp", temperature=_GRASP_TEMPERATURE)
    network = working_copy(model, space, alive)
    weights = maskable(network, space)
    flow = summed_gradients(network, list(weights.values()), chosen)
    if alive is not None:
        for gradient, keep in zip(flow, space.parameter_masks(alive).values(), strict=True):
            gradient.masked_fill_(~keep.to(gradient.device), 0)
    products = _hessian_times(flow, network, list(weights.values()), chosen)
    return space.unit_sums({n: p * w.detach() for (n, w), p in zip(weights.items(), products, strict=True)}).cpu()


def _hessian_times(vector: list[Tensor], network: nn.Module, weights: list[Tensor], batches: BatchLoss) -> list[Tensor]:
    """Return the product H v of the loss's Hessian, summed over batches, as gradient of g . v (Pearlmutter 1994)."""
    total = [torch.zeros_like(v) for v in vector]
    for batch in batches:
        with torch.enable_grad():
            value = batches.loss(network, batch, weights[0].device)
            gradients = torch.autograd.grad(value, weights, create_graph=True, materialize_grads=True)
            along = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        if not along.requires_grad:  # the gradient is constant: H is 0
            continue
        for summed, product in zip(total, torch.autograd.grad(along, weights, materialize_grads=True), strict=True):
            summed += product
    return total


def _gradients_times_weights(
    model: nn.Module, space: NetworkSpace, batches: Batches, alive: Mask | None, loss: Loss | None, criterion: str
) -> dict[str, Tensor]:
    """Return {name: (gradient summed over batches) x parameter} of all parameters that masks can change."""
    network = working_copy(model, space, alive)
    weights = maskable(network, space)
    gradients = summed_gradients(network, list(weights.values()), loss_batches(batches, loss, criterion))
    return {name: g * w.detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}


def working_copy(model: nn.Module, space: NetworkSpace, alive: Mask | None) -> nn.Module:
    """Return a copy of a network under the mask ``alive``: BatchNorm layers are in train mode, others in eval mode."""
    network = copy.deepcopy(model).eval().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    if alive is not None:
        space.apply(network, alive)
    return network


def maskable(network: nn.Module, space: NetworkSpace) -> dict[str, Tensor]:
    """Return {name: parameter} of all parameters of a network that masks of the space can change."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return {name: parameters[name] for name in space.parameter_masks(space.full())}


def summed_gradients(network: nn.Module, weights: list[Tensor], batches: BatchLoss) -> list[Tensor]:
    """Return the loss's gradient, summed over batches: one tensor per weight, 0 where the loss ignores the weight."""
    total = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
    for batch in batches:
        with torch.enable_grad():  # also inside the caller's no_grad
            value = batches.loss(network, batch, weights[0].device)
        for summed, gradient in zip(total, torch.autograd.grad(value, weights, materialize_grads=True), strict=True):
            summed += gradient
    return total
