"""Networks whose weights keep their signs and lose their magnitudes."""

import copy

import torch
from torch import nn

from masksearch.spaces import NetworkSpace

__all__ = ["signed_constants"]


def signed_constants(model: nn.Module, space: NetworkSpace) -> nn.Module:
    """A copy of ``model`` in which every weight of the space's layers is sign(w) times its layer's standard deviation.

    Zhou et al. 2019, section 5. Only the mask and the signs distinguish such a network from others.
    """
    model = copy.deepcopy(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in space.layer_weights():
            weight = parameters[name]
            weight.copy_(weight.sign() * weight.std())
    return model
