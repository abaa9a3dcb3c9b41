"""Objectives that look at the masked network: statistics taken anew, and proxies for how well it will train.

Each is ``f(model, images, labels) -> float`` for a masked network in eval mode, and leaves it as it was. Parameters
that are 0 count as pruned: those that the mask has zeroed are not to be trained.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["KERNEL_IMAGES", "bn_recalibrated", "gradient_flow", "ntk_condition", "synflow_flow"]

KERNEL_IMAGES = 16  # of which the tangent kernel is taken


def bn_recalibrated(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Minus the mean cross-entropy, in nats, with BatchNorm statistics of these images under the mask.

    Pruning shifts what later layers see, and the running statistics of a trained network no longer fit (Li et al. 2020,
    EagleEye). All images go through as one batch, so that its statistics are those that re-estimation would end with.
    """
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.train()
            norm.momentum, norm.num_batches_tracked = 0.0, None  # the running statistics stay as they are
        with torch.no_grad():
            return -float(F.cross_entropy(model(images), labels))
    finally:
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.eval()
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def gradient_flow(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Euclidean norm of the mean loss's gradient in the kept parameters (Evci et al. 2022, gradient flow)."""
    parameters = _trainable(model)
    with torch.enable_grad():
        loss = F.cross_entropy(model(images), labels)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    squares = [g.masked_fill(p == 0, 0).square().sum() for g, p in zip(gradients, parameters, strict=True)]
    return math.sqrt(float(torch.stack(squares).sum()))


def synflow_flow(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Log of the synaptic flow R (Tanaka et al. 2020): the outputs' sum for an input of ones and absolute parameters.

    By their conservation law, R is the sum of |dR/dw w| over any cut of the network. No images are looked at. Minus
    infinity where nothing reaches the outputs, of the input or of a bias.
    """
    network = copy.deepcopy(model).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
        flow = float(network(torch.ones(1, *images.shape[1:], dtype=torch.float64, device=images.device)).sum())
    return math.log(flow) if flow > 0 else -math.inf


def ntk_condition(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Minus log10 of the neural tangent kernel's condition number (Chen et al. 2021, TE-NAS), of the first 16 images.

    The kernel is that of the summed logits, in the kept parameters. Minus infinity where it is singular.
    """
    parameters = _trainable(model)
    rows = []
    for image in images[:KERNEL_IMAGES]:
        with torch.enable_grad():
            gradients = torch.autograd.grad(model(image[None]).sum(), parameters, materialize_grads=True)
        rows.append(torch.cat([g.masked_fill(p == 0, 0).flatten() for g, p in zip(gradients, parameters, strict=True)]))
    jacobian = torch.stack(rows).double()
    eigenvalues = torch.linalg.eigvalsh(jacobian @ jacobian.T)  # ascending
    if not eigenvalues[0] > 1e-12 * eigenvalues[-1]:
        return -math.inf
    return -math.log10(float(eigenvalues[-1] / eigenvalues[0]))


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
