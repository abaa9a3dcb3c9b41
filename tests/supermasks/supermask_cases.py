"""Networks, images and scores for the tests of supermasks."""

from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import nn

from masksearch.supermasks import SUPERMASKS, ScoredNetwork, SupermaskSettings

F64 = torch.float64
SHORT = SupermaskSettings(epochs=2, batch_size=32)
METHODS = list(SUPERMASKS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_split(n=150, channels=1, seed=0, classes=10):
    g = generator(seed)
    centres = torch.randn(classes, channels, 8, 8, generator=generator(99))
    labels = torch.randint(0, classes, (n,), generator=g)
    return SimpleNamespace(inputs=centres[labels] + torch.randn(n, channels, 8, 8, generator=g), targets=labels)


def make_conv(seed=0):
    """Odd sizes, groups, biases, a transposed convolution, BatchNorm, dropout; one bias is not trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, (1, 3), groups=3, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 3, 2),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(105, 13),
            nn.ReLU(),
            nn.Linear(13, 10),
        )
    net[8].bias.requires_grad_(False)
    return net


def make_mlp(*sizes, seed=0, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Flatten()]
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out, bias=False, dtype=dtype), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def scored(name, model, space, density, scope="layerwise", power=0.0, seed=0):
    row = SUPERMASKS[name]
    kept = space.quotas(density, scope) if scope != "global" else [space.count(density)]
    parameters = dict(model.named_parameters())
    scores = [row.start(parameters[weight], generator(seed)) for weight in space.layer_weights()]
    return ScoredNetwork(model, space, scores, kept, row.draw, row.rank, power)


def ones_of(masks):
    return [int(mask.sum()) for mask in masks]


# Gradients
