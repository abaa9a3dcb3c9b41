"""SparseGPT's mask for given densities of layers: it is chosen together with the optimal-brain update."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.cost.forward_pass import device_of
from masksearch.criteria.batches import Batches, Loss, input_batches
from masksearch.pruning.gram_matrices import MatrixLayer, gram_matrices, matrix_layers
from masksearch.pruning.one_shot.layer_methods import Kept, sparsegpt, weight_shaped
from masksearch.spaces import NetworkSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.nested import to_device


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
