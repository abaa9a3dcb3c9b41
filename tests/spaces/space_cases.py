"""Small networks of a function and layers, and a test that masked and pruned networks are equal."""

import copy

import torch
from torch import Tensor, nn

from masksearch.pruning.physical import prune
from masksearch.spaces.filter_mask_space import FilterSpace

IMAGE, SIGNAL, VOLUME = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8), torch.zeros(2, 3, 4, 4, 4)


class Net(nn.Module):
    """Layers by name, and a function of (net, inputs)."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(self, inputs)


def assert_exact(net: nn.Module, space: FilterSpace, example: Tensor) -> None:
    """Assert that masked and pruned copies of a network with random weights have equal outputs, and run in training."""
    net = copy.deepcopy(net).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=generator)
    inputs = torch.randn(3, *example.shape[1:], generator=generator, dtype=torch.float64)
    for density in (0.75, 0.5):
        mask = space.random(density, "layerwise", generator, on_empty="keep_one")
        small = prune(net, space, mask)
        with torch.no_grad():
            with space.applied(net, mask):
                masked = net(inputs)
            assert (small(inputs) - masked).abs().max() <= 1e-9 * masked.std()
        assert space.kept_params(mask) == sum(parameter.numel() for parameter in small.parameters())
        small.train()(inputs).sum().backward()
