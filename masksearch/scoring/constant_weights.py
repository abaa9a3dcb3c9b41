"""Networks whose weights keep their signs and lose their magnitudes."""

import copy

import torch
from torch import nn

from masksearch.spaces import NetworkSpace


def signed_constants(model: nn.Module, space: NetworkSpace) -> nn.Module:
    """Return a copy of a network whose weights are sign(w) times the standard deviation of their layer's weights.

    Only the layers of ``space`` change. Zhou et al. 2019, section 5. Only the mask and the signs distinguish such a
    network from others.
    """
    model = copy.deepcopy(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in space.layer_weights():
            weight = parameters[name]
            weight.copy_(weight.sign() * weight.std())
    return model
