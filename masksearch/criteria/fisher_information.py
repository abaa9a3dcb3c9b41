"""Fisher information of heads, neurons and filters: a criterion, and the rearrangement of its masks (Kwon et al. 2022).

A mask variable m_i multiplies the output of unit i; the dense network has m = 1. Its gradient, with the weights w that
read the unit, is dL/dm_i = sum of w dL/dw, since w always occurs as the product w m_i. With the gradients g_b of
examples b and the empirical Fisher information I = sum over b of g_b g_b^T, the loss of a mask that removes the units R
is, to second order and at a minimum of the loss, in proportion to

    (1 - m)^T I (1 - m) = sum over b of (sum over i in R of g_bi)^2.

Section 4.1 of the paper keeps the diagonal of I alone, and finds the mask of the smallest sum over R under a budget of
MACs or of latency. Section 4.2 keeps the blocks of I that belong to one layer, and improves the mask of every layer at
its number of kept units. Section 4.3 solves one scale per kept unit so that layers give the dense outputs;
:func:`masksearch.reconstruct` solves all weights that read kept units for these outputs, and the scales are among its
candidates.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.batches_and_loss import Batches, Loss, loss_batches
from masksearch.spaces import FilterSpace
from masksearch.spaces.base_space import on_inner_network
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import call_model, n_examples, take, to_device


@on_inner_network
def fisher(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Tensor:
    """Return each unit's saliency: squared derivative of the loss w.r.t. a factor on its output, summed over examples.

    It is the diagonal of the empirical Fisher information of the factors (mask variables), float64 (n_units,). Kwon et
    al. 2022, section 4.1: the sum over examples of the squared gradient of the loss in the variable that multiplies the
    unit's output. Under a budget in MACs, the paper's mask has the largest sum of saliencies, scope ``"knapsack"``;
    then :func:`rearranged` exchanges units within layers. ``select`` does both.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        Some hundred training examples; every example has a gradient of its own. The authors' code takes mini-batches of
        32 in their place.
    alive : Mask, optional
        Mask of the network during the evaluation.
    loss : callable, optional
        As for :func:`snip`.

    Raises
    ------
    InputError
        As :func:`mask_gradients`.
    """
    return mask_gradients(model, space, batches, alive=alive, loss=loss).square().sum(0)


@on_inner_network
def rearranged(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    mask: Mask,
    *,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Mask:
    """Return a mask that keeps as many units per layer as ``mask``, but swaps some for others of lower estimated loss.

    The estimate is each layer's Fisher information, in which removed units may cancel. Kwon et al. 2022, section 4.2,
    as in the authors' code: in one pass, kept units of a layer, from the lowest Fisher information on, are added to the
    removed ones; each time, the unit returns whose return leaves the smallest loss of the layer's block, sum over
    examples of (sum over removed units of the gradient)^2. Every layer keeps as many units as before. Units outside of
    ``alive`` stay removed.
    """
    gradients = mask_gradients(model, space, batches, alive=alive, loss=loss)
    bits = mask.bits.clone()
    for layer in space.layers:
        units = torch.arange(layer.start, layer.stop)
        units = units if alive is None else units[alive.bits[units]]
        removed = units[~mask.bits[units]]
        if len(removed) in (0, len(units)):
            continue
        kept = units[mask.bits[units]]
        for unit in kept[gradients[:, kept].square().sum(0).argsort(stable=True)]:
            removed = torch.cat([removed, unit[None]])
            own = gradients[:, removed]
            back = (own.sum(1, keepdim=True) - own).square().sum(0).argmin()
            removed = torch.cat([removed[:back], removed[back + 1 :]])
        bits[units] = True
        bits[removed] = False
    return Mask(space, bits)


def mask_gradients(
    model: nn.Module, space: FilterSpace, batches: Batches, *, alive: Mask | None = None, loss: Loss | None = None
) -> Tensor:
    """Return the derivative of each example's loss w.r.t. a factor on each unit's output: float64 (examples, n_units).

    The variable multiplies the unit's output and is one. The network is in eval mode.

    Raises
    ------
    InputError
        If there is no batch, or no weight reads the units of a layer.
    """
    network = copy.deepcopy(model).eval().requires_grad_(True)
    if alive is not None:
        space.apply(network, alive)
    made = set(space.groups.filters)
    shapes, parameters = space.groups.shapes, dict(network.named_parameters(remove_duplicate=False))
    runs = [
        run
        for run in space.groups.runs
        if run.tensor in parameters and len(shapes[run.tensor]) > 1 and (run.tensor, run.dim) not in made
    ]
    read = torch.zeros(space.n_units + 1, dtype=torch.bool)
    for run in runs:
        read[run.numbers] = True
    for layer in space.layers:
        if not read[layer.slice].all():
            raise InputError(
                f"criterion 'fisher': no weights read the units of layer {layer.name!r}; leave the layer out of the "
                "space with exclude="
            )
    names = list(dict.fromkeys(run.tensor for run in runs))
    weights, device = [parameters[name] for name in names], device_of(network)
    found, examples = [], loss_batches(batches, loss, "fisher")
    for inputs, targets in examples:
        with torch.no_grad():  # an error of the targets names the classes of the whole batch
            examples.of_outputs(call_model(network, to_device(inputs, device)), to_device(targets, device))
        for place in range(n_examples(inputs)):
            own, wanted = (to_device(take(each, slice(place, place + 1)), device) for each in (inputs, targets))
            with torch.enable_grad():
                value = examples.of_outputs(call_model(network, own), wanted)
            gradients = torch.autograd.grad(value, weights, materialize_grads=True)
            products = {n: g * w.detach() for n, g, w in zip(names, gradients, weights, strict=True)}
            row = torch.zeros(space.n_units + 1, dtype=torch.float64, device=device)
            for run in runs:
                sums = products[run.tensor].transpose(0, run.dim).flatten(1).sum(1)
                row.index_add_(0, run.numbers.to(device) % len(row), sums.double())
            found.append(row[:-1].cpu())
    return torch.stack(found)
