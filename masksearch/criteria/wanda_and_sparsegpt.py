"""Weights rated by their size and by the inputs that they multiply: Wanda, OWL and SparseGPT."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.criteria.batches_and_loss import Batches, Loss, input_batches
from masksearch.pruning.matrix_layers import MatrixLayer, input_sums, matrix_layers
from masksearch.pruning.one_shot import layer_methods, outlier_densities
from masksearch.pruning.one_shot.layer_methods import Kept, inverse_factor, wanda_ranks, weight_shaped
from masksearch.spaces import WeightSpace
from masksearch.spaces.base_space import on_inner_network
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import to_device


@on_inner_network
def wanda(
    model: nn.Module,
    space: WeightSpace,
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
        If a layer of the space is no linear layer, convolution or projection of ``nn.MultiheadAttention``.
    """

    def ranks(layer: MatrixLayer, matrices: Tensor, squares: Tensor) -> Tensor:
        return wanda_ranks((matrices.abs() * squares.sqrt()[:, None]).flatten(0, 1))

    return _rated(model, space, batches, "wanda", lambda rows: rows.square().sum(1), ranks)


@on_inner_network
def owl(
    model: nn.Module,
    space: WeightSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return the OWL saliency: Wanda's ranks, higher in layers of blocks with many outlier weights: (n_units,).

    Yin et al. 2024. One global ranking gives each layer the density that :func:`masksearch.outlier_densities` returns,
    to within one input per output.

    Raises
    ------
    InputError
        If a layer of the space is no linear layer, convolution or projection of ``nn.MultiheadAttention``.
    """
    values = wanda(model, space, batches)
    mean = 0.5  # the layers' distances from the mean are the same at every density
    densities = outlier_densities(model, input_batches(batches, "owl"), mean)
    for layer in space.layers:
        values[layer.slice] += densities.get(layer.name, mean) - mean
    return values


@on_inner_network
def sparsegpt(
    model: nn.Module,
    space: WeightSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return SparseGPT's saliency of each weight: the layer's output error if it is pruned, float64 (n_units,).

    It is (w_ij / U_jj)^2 (Frantar and Alistarh 2023): U is the upper Cholesky factor of the inverse Gram matrix of the
    layer's inputs. It equals the squared error of the layer's outputs after the update of the weights to the right. No
    weight is updated here; :func:`masksearch.one_shot` chooses the mask together with the updates.

    Raises
    ------
    InputError
        If a layer of the space is no linear layer, convolution or projection of ``nn.MultiheadAttention``, or its
        inputs are not finite.
    """

    def costs(layer: MatrixLayer, matrices: Tensor, grams: Tensor) -> Tensor:
        diagonals = torch.stack([inverse_factor(gram).diagonal() for gram in grams])
        return (matrices / diagonals[:, None]).square()

    return _rated(model, space, batches, "sparsegpt", _gram, costs)


@on_inner_network
def sparsegpt_mask(
    model: nn.Module,
    space: WeightSpace,
    batches: Batches,
    mask: Mask,
    *,
    alive: Mask | None = None,
    loss: Loss | None = None,
) -> Mask:
    """Return the weight mask that SparseGPT chooses if it keeps as many weights in each layer as ``mask``.

    Each layer's mask is chosen in blocks of 128 columns together with the optimal-brain update. 2:4 masks stay as they
    are. Weights outside of ``alive`` count as zeros.
    """
    if space.fixed_density is not None:
        return mask
    kept = space.parameter_masks(mask)

    def chosen(layer: MatrixLayer, matrices: Tensor, grams: Tensor) -> Tensor:
        densities = layer.kept_entries(kept[layer.weight_name]).double().mean((1, 2)).tolist()
        parts = zip(matrices, grams, map(Kept, densities), strict=True)
        return torch.stack([layer_methods.sparsegpt(*part)[0] for part in parts])

    return Mask(space, _rated(model, space, batches, "sparsegpt", _gram, chosen, alive=alive))


def _gram(rows: Tensor) -> Tensor:
    return rows.transpose(1, 2) @ rows


@torch.no_grad()
def _rated(
    model: nn.Module,
    space: WeightSpace,
    batches: Batches,
    criterion: str,
    of_rows: Callable[[Tensor], Tensor],
    of_weights: Callable[[MatrixLayer, Tensor, Tensor], Tensor],
    *,
    alive: Mask | None = None,
) -> Tensor:
    """Return values of all weights, (n_units,), from sums over the rows of inputs of each layer.

    ``of_rows`` gets float64 rows (groups, n, k) and returns what is summed over batches. ``of_weights`` gets a layer,
    its matrices (groups, out, k) and the sum, and returns the weights' values in the order of the matrices. Inputs are
    those of the network as it is; weights outside of ``alive`` are zeros in the matrices.
    """
    network, device = copy_network(model).eval(), device_of(model)
    inputs = [to_device(batch, device) for batch in input_batches(batches, criterion)]
    found = {layer.weight_name: layer for layer in matrix_layers(network, inputs[0])}
    for name in space.layer_weights():
        if name not in found:
            raise InputError(
                f"criterion {criterion!r}: {name!r} is of no linear layer or convolution that runs as a module of its "
                "own; leave its layer out of the space with exclude="
            )
    layers = [found[name] for name in space.layer_weights()]
    sums = input_sums(network, {layer.name: layer for layer in layers}, inputs, of_rows)
    if alive is not None:
        space.apply(network, alive)
    values = {}
    for layer in layers:
        matrices = layer.matrix(network.get_submodule(layer.name))[..., :-1]
        rated = of_weights(layer, matrices, sums[layer.name][0].to(matrices.device))
        values[layer.weight_name] = weight_shaped(rated, layer, model.get_parameter(layer.weight_name).shape)
    return space.unit_sums(values).cpu()
