"""Networks whose layers are pruned one-shot at any density per layer; each layer is pruned once per density.

EvoPress (Sieberling et al. 2025) searches the densities with scores of such networks. The scores contain SparseGPT's
update, which the pruned network will have, too.
"""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.pruning.gram_matrices import LayerGrams, calibration_batches, gram_matrices
from masksearch.pruning.matrix_layers import matrix_layers
from masksearch.pruning.one_shot.layer_methods import METHODS, Kept
from masksearch.spaces import WeightSpace
from masksearch.utils.copies import copy_network
from masksearch.utils.errors import InputError
from masksearch.utils.forward_passes import device_of
from masksearch.utils.nested import Nested
from masksearch.utils.registry import choose

__all__ = ["LayerLevels"]

_CACHED = 1 << 28  # numbers in the cached layers: 1 GiB in float32


class LayerLevels:
    """One-shot pruned networks for a search over layer densities: each layer is pruned once per density and cached.

    A mask only says how many weights each layer keeps; ``method`` chooses which ones, and updates them. All layers are
    pruned for the dense network's inputs. A scorer takes the object as ``calibration=``, with the objective
    ``"reconstructed"``; :func:`masksearch.one_shot` then prunes block after block at the densities found.

    Memory: a Gram matrix (k, k) in float64 per layer, k = inputs x kernel size, and up to 1 GiB of pruned layers.

    Parameters
    ----------
    model : nn.Module
        The trained network of the space. It does not change.
    space : WeightSpace
        Space of the weights of linear layers and convolutions.
    examples : tensor (n, ...), tuple or dict of tensors, or iterable of batches of them
        Inputs without targets, as for :func:`masksearch.one_shot`. At least 8.
    method : {"sparsegpt", "wanda", "magnitude"}
        Method that prunes a layer.

    Raises
    ------
    InputError
        If the network does not call a layer of the space, the method is unknown, or there are too few examples.
    """

    @torch.no_grad()
    def __init__(
        self, model: nn.Module, space: WeightSpace, examples: Nested | Iterable[Nested], method: str = "sparsegpt"
    ) -> None:
        self.space, self.method = space, choose("method", method, list(METHODS))
        self.dense = copy_network(model).eval()
        batches = calibration_batches(examples, device_of(model))
        found = {layer.mask_name: layer for layer in matrix_layers(self.dense, batches[0])}
        others = [layer.name for layer in space.layers if layer.name not in found]
        if others:
            raise InputError(f"space: the network doesn't call layer {others[0]!r}; name it in the space's exclude=")
        self._layers = {layer.name: found[layer.name] for layer in space.layers}
        grams = gram_matrices(self.dense, self.dense, list(self._layers.values()), batches)
        self._grams = {name: _whole(grams.pop(layer.name)) for name, layer in self._layers.items()}
        self._cached: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._n_cached = 0

    @torch.no_grad()
    def __call__(self, mask: Mask, *, small: bool = False) -> nn.Module:
        """Return the network with as many weights per layer as the mask keeps, in eval mode, of full size with zeros.

        Raises
        ------
        InputError
            If the mask is of another space.
        """
        self.space.check_mask(mask)
        network = copy_network(self.dense)
        for layer, n_kept in zip(self.space.layers, mask.kept_per_layer().values(), strict=True):
            if n_kept < layer.size:
                own = self._layers[layer.name]
                own.store(network.get_submodule(own.name), self._pruned(layer.name, n_kept, n_kept / layer.size))
        return network

    def _pruned(self, name: str, n_kept: int, density: float) -> Tensor:
        """Return the matrices (groups, out, k + 1) of a layer that keeps ``n_kept`` weights."""
        key = (name, n_kept)
        if key in self._cached:
            self._cached.move_to_end(key)
            return self._cached[key]
        layer = self._layers[name]
        matrix = layer.matrix(self.dense.get_submodule(layer.name))
        new = matrix.clone()
        for group, gram in enumerate(self._grams[name]):
            _, new[group, :, :-1] = METHODS[self.method](matrix[group, :, :-1], gram, Kept(density))
        self._cached[key] = new.float()
        self._n_cached += new.numel()
        while self._n_cached > _CACHED:
            self._n_cached -= self._cached.popitem(last=False)[1].numel()
        return self._cached[key]


def _whole(grams: LayerGrams) -> list[Tensor]:
    """Return the Gram matrices (k, k) of all batches, one per group, without the column of ones."""
    return [
        (fitted.own + held_out.own)[:-1, :-1] for fitted, held_out in zip(grams.fitted, grams.held_out, strict=True)
    ]
