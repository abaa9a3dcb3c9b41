"""SparseGPT as a criterion: weights rated and chosen by the output error that their optimal-brain update leaves."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.cost.forward_pass import device_of
from masksearch.criteria.batches import Batches, Loss, input_batches
from masksearch.pruning.gram_matrices import MatrixLayer, gram_matrices, matrix_layers
from masksearch.pruning.one_shot.layer_methods import Kept, removal_costs, sparsegpt, weight_shaped
from masksearch.spaces import NetworkSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.nested import to_device

__all__ = ["sparsegpt_costs", "sparsegpt_mask"]


def sparsegpt_costs(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return SparseGPT's cost of pruning each weight, as saliency (higher = keep): float64 (n_units,).

    The cost is the squared error of the layer's outputs after the optimal-brain update of the inputs to the right
    (Frantar and Alistarh 2023), where no other weight is pruned. Weights outside of ``alive`` count as zeros.

    Raises
    ------
    InputError
        If a layer of the space is neither linear nor a convolution that runs as a module of its own.
    """
    values = {}
    for layer, matrices, grams in _layers(model, space, batches, alive):
        costs = torch.stack([removal_costs(matrix, gram) for matrix, gram in zip(matrices, grams, strict=True)])
        values[layer.weight_name] = _shaped(costs, layer, model)
    return space.unit_sums(values)


def sparsegpt_mask(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    mask: Mask,
    *,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Mask:
    """Return SparseGPT's mask with as many weights in each layer as ``mask`` keeps.

    Each layer's mask is chosen in blocks of 128 columns together with the optimal-brain update. 2:4 masks stay as they
    are. Weights outside of ``alive`` count as zeros.
    """
    if space.fixed_density is not None:
        return mask
    kept, values = space.parameter_masks(mask), {}
    for layer, matrices, grams in _layers(model, space, batches, alive):
        parts = zip(matrices, grams, layer.kept_entries(kept[layer.weight_name]), strict=True)
        chosen = [sparsegpt(matrix, gram, Kept(float(keep.double().mean())))[0] for matrix, gram, keep in parts]
        values[layer.weight_name] = _shaped(torch.stack(chosen), layer, model)
    return Mask(space, space.unit_sums(values))


@torch.no_grad()
def _layers(
    model: nn.Module, space: NetworkSpace, batches: Batches, alive: Mask | None
) -> Iterator[tuple[MatrixLayer, Tensor, list[Tensor]]]:
    """Yield (layer, weight matrices (groups, out, k), Gram matrices (k, k) of the groups' inputs) of the space."""
    network, device = copy_network(model).eval(), device_of(model)
    inputs = [to_device(batch, device) for batch in input_batches(batches, "sparsegpt")]
    found = {layer.weight_name: layer for layer in matrix_layers(network, inputs[0])}
    for name in space.layer_weights():
        if name not in found:
            raise InputError(
                f"criterion 'sparsegpt': {name!r} is of no linear layer or convolution that runs as a module of its "
                "own; leave its layer out of the space with exclude="
            )
    layers = [found[name] for name in space.layer_weights()]
    grams = gram_matrices(network, network, layers, inputs)
    if alive is not None:
        space.apply(network, alive)
    for layer in layers:
        parts = zip(grams[layer.name].fitted, grams[layer.name].held_out, strict=True)
        matrices = layer.matrix(network.get_submodule(layer.name))[..., :-1]
        yield layer, matrices, [(fitted.own + held_out.own)[:-1, :-1] for fitted, held_out in parts]


def _shaped(matrices: Tensor, layer: MatrixLayer, model: nn.Module) -> Tensor:
    return weight_shaped(matrices, layer, model.get_parameter(layer.weight_name).shape)
