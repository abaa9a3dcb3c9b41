"""Small networks and batches in float64, for the tests of criteria against independent derivations."""

from itertools import pairwise

import torch
from torch import nn

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp(*sizes, bias=False, activation=nn.ReLU, dtype=F64):
    """Linear layers, an activation between them, weights of both signs."""
    layers = []
    g = generator(sum(sizes))
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out, bias=bias, dtype=dtype), activation()]
    net = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=dtype) / parameter.shape[-1] ** 0.5)
    return net


def make_batches(features, n=1, classes=3):
    g = generator(7)
    return [
        (torch.randn(6, features, generator=g, dtype=F64), torch.randint(0, classes, (6,), generator=g))
        for _ in range(n)
    ]


def by_layer(values, space):
    return [values[layer.slice].view(layer.shape) for layer in space.layers]


def initial_of(model, seed=3):
    """Weights at initialisation that differ from the network's, in sign too."""
    g = generator(seed)
    return {
        name: t.detach() + 0.3 * torch.randn(t.shape, generator=g, dtype=t.dtype)
        for name, t in model.named_parameters()
    }


def flow_of(model, features):
    """R of a chain of linear layers without biases, as a product of matrices."""
    x = torch.ones(features, 1, dtype=F64)
    for module in model:
        if isinstance(module, nn.Linear):
            x = module.weight.detach().double().abs() @ x
    return x.sum()
