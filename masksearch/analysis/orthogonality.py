"""How far masked weights are from preserving lengths and angles, which goes with training slowly."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from masksearch.mask import Mask
from masksearch.spaces import NetworkSpace

__all__ = ["orthogonality_score", "weights_orthogonality"]


def orthogonality_score(model: nn.Module, space: NetworkSpace, mask: Mask | None = None) -> float:
    """Sum over the space's layers of the mean of (W^T W - I)^2, with W (out, in) the layer's masked weights.

    The thesis of 2020 takes it at initialisation. I is (in, in), and a convolution's ``in`` is its channels times its
    kernel. 0 for weights with orthonormal columns, which a layer with fewer outputs than inputs can't have.

    Parameters
    ----------
    model : nn.Module
        Its weights; only read.
    mask : Mask, optional
        Nothing is masked if left out.

    Raises
    ------
    InputError
        If mask or model are not of this space.
    """
    with space.applied(model, space.full() if mask is None else mask), torch.no_grad():
        return weights_orthogonality(model.get_parameter(name) for name in space.layer_weights())


def weights_orthogonality(weights: Iterable[Tensor]) -> float:
    """The same of the weights of some layers, as they are."""
    score = 0.0
    for tensor in weights:
        weight = tensor.detach().flatten(1).double()  # (out, in)
        gram = weight.T @ weight
        gram.diagonal().sub_(1)
        score += float(gram.square().mean())
    return score
