"""SynFlow: keep what a signal of ones flows through, in a network of absolute values; no data."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.flow import unclipped
from masksearch.criteria.gradients import Batches, maskable
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError

__all__ = ["synflow"]


def synflow(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """|dR/dw w|, float64 (n_units,): what of the synaptic flow R goes through the unit (Tanaka et al. 2020).

    R is the sum of the outputs for one input of ones, in eval mode, with every parameter replaced by its absolute
    value, biases and normalisation scales included. Clipped activations (ReLU6) are ReLU: the
    flow would saturate them. The function is one round, and pruning in one round empties layers:
    ``select`` takes the 100 that are published. A filter's saliency is the sum over all parameters that its unit
    removes.

    Parameters
    ----------
    batches : iterable of (images, labels)
        The first one's images say what shape an input has; their values and labels play no part.
    alive : Mask, optional
        Evaluate the network under this mask.

    Raises
    ------
    InputError
        If there is no batch, or the flow is too large for float64.
    """
    images = next((images for images, _ in batches), None)
    if images is None:
        raise InputError("batches: none; synflow needs one for the shape of its images")
    network = unclipped(copy.deepcopy(model).eval().requires_grad_(True))
    if any(parameter.device.type == "mps" for parameter in network.parameters()):
        network.cpu()  # MPS has no float64, and products over many layers leave float32's range
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    if alive is not None:
        space.apply(network, alive)
    weights = maskable(network, space)
    device = next(iter(weights.values())).device
    with torch.enable_grad():  # also where the caller has switched gradients off
        flow = network(torch.ones(1, *images.shape[1:], dtype=torch.float64, device=device)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()), materialize_grads=True)
    saliency = space.unit_sums({n: (g * w).abs() for (n, w), g in zip(weights.items(), gradients, strict=True)}).cpu()
    if not saliency.isfinite().all():
        raise InputError(f"synflow: the flow through {type(model).__name__} is too large for float64")
    return saliency
