"""SynFlow, the pruning criterion of Tanaka et al. 2020, and networks prepared for its input of ones."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.batches_and_loss import Batches, first_inputs
from masksearch.criteria.gradient_criteria import maskable
from masksearch.spaces import NetworkSpace
from masksearch.spaces.base_space import on_inner_network
from masksearch.tasks import read_output
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model, map_tensors


@on_inner_network
def synflow(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the SynFlow saliency (n_units,) of each weight, or its sum over each filter, for an input of ones.

    Tanaka et al. 2020. R is the sum of the outputs for one input of ones, in eval mode, with every parameter replaced
    by its absolute value, biases and normalisation scales included. Clipped activations (ReLU6) are replaced by ReLU,
    because R would saturate them. The sum of a filter is over all parameters that its unit removes. The function is one
    round; pruning in one round empties layers, so that ``select`` makes 100 rounds, as in the paper.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        The first example gives the form of an input. Float tensors become ones; integers, such as tokens, stay.
    alive : Mask, optional
        Mask of the network during the evaluation.

    Raises
    ------
    InputError
        If there is no batch, or the flow is too large for float64.
    """
    example = first_inputs(batches, "synflow")
    network = replace_clipped_activations(copy.deepcopy(model).eval().requires_grad_(True))
    if any(parameter.device.type == "mps" for parameter in network.parameters()):
        network.cpu()  # MPS has no float64, and products over many layers exceed float32
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    if alive is not None:
        space.apply(network, alive)
    weights = maskable(network, space)
    device = next(iter(weights.values())).device
    with torch.enable_grad():  # also inside the caller's no_grad
        flow = flow_of_ones(network, example, device)
    gradients = torch.autograd.grad(flow, list(weights.values()), materialize_grads=True)
    saliency = space.unit_sums({n: (g * w).abs() for (n, w), g in zip(weights.items(), gradients, strict=True)}).cpu()
    if not saliency.isfinite().all():
        raise InputError(
            f"synflow: the flow through {type(model).__name__} is too large for float64; give another criterion"
        )
    return saliency


def flow_of_ones(network: nn.Module, example: Nested, device: torch.device) -> Tensor:
    """Return the sum of a network's outputs for one example in which every float input is replaced by ones.

    The network is in float64. Only the first example counts.
    """

    def ones(part: Tensor) -> Tensor:
        if part.is_floating_point():
            return torch.ones(1, *part.shape[1:], dtype=torch.float64, device=device)
        return part[:1].to(device)

    outputs = read_output(call_model(network, map_tensors(ones, example)))
    if not isinstance(outputs, Tensor):
        raise InputError(f"model: returns a {type(outputs).__name__} for an input of ones; a tensor is needed")
    return outputs.sum()


_CLIPPED = (nn.ReLU6, nn.Hardtanh)
_LEVELLING = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.Softmax, nn.LogSoftmax)


def replace_clipped_activations(network: nn.Module) -> nn.Module:
    """Replace clipped activations (ReLU6, Hardtanh) by ReLU, in place, because large values would saturate them."""
    return _replace(network, nn.ReLU, lambda module: isinstance(module, _CLIPPED))


def remove_normalisations(network: nn.Module) -> nn.Module:
    """Remove softmax and normalisation layers that would make all outputs for an input of ones equal, in place."""
    return _replace(network, nn.Identity, _levels)


def _levels(module: nn.Module) -> bool:
    has_no_statistics = isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is None
    return isinstance(module, _LEVELLING) or has_no_statistics


def _replace(network: nn.Module, new: Callable[[], nn.Module], applies: Callable[[nn.Module], bool]) -> nn.Module:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if applies(child):
                setattr(module, name, new())
    return network
