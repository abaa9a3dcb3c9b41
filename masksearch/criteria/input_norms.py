"""Wanda: weights rated by their magnitude times the norm of their inputs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.cost.forward_pass import device_of
from masksearch.criteria.batches import Batches, input_batches
from masksearch.pruning.matrix_layers import input_squares, matrix_layers
from masksearch.pruning.one_shot.layer_methods import wanda_ranks, weight_shaped
from masksearch.spaces import NetworkSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.nested import to_device


@torch.no_grad()
def wanda(
    model: nn.Module,
    space: NetworkSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the Wanda saliency, (n_units,): each weight's rank by |w| x input norm among weights of the same output.

    Sun et al. 2024: |X_j| is the L2 norm of input j over all examples and positions. As ranks within an output are
    compared, every output of a layer keeps the same number of inputs, to within one.

    Raises
    ------
    InputError
        If a layer of the space is neither linear nor a 1-D or 2-D convolution.
    """
    network, device = copy_network(model).eval(), device_of(model)
    inputs = [to_device(batch, device) for batch in input_batches(batches, "wanda")]
    layers = {layer.name: layer for layer in matrix_layers(network, inputs[0])}
    for layer in space.layers:
        if layer.name not in layers:
            raise InputError(
                f"criterion 'wanda': layer {layer.name!r} is no linear layer or convolution that runs as a module of "
                "its own; leave it out of the space with exclude="
            )
    squares = input_squares(network, {layer.name: layers[layer.name] for layer in space.layers}, inputs)
    values = {}
    for layer, weight in zip(space.layers, space.layer_weights(), strict=True):
        matrices = layers[layer.name].matrix(model.get_submodule(layer.name))[..., :-1]
        products = matrices.abs() * squares[layer.name][0].sqrt().to(matrices.device)[:, None]
        values[weight] = weight_shaped(wanda_ranks(products.flatten(0, 1)), layers[layer.name], layer.shape)
    return space.unit_sums(values).cpu()
