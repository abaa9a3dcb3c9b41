"""Small networks of a function and layers, and a check that masked and pruned networks are equal."""

import copy

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
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


def random_network(net: nn.Module, spread: float = 1.0, seed: int = 0) -> nn.Module:
    """Return a copy in eval mode with uniform parameters in [-spread, spread] and random buffers."""
    net, generator = copy.deepcopy(net).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-spread, spread, generator=generator)
        for name, buffer in net.named_buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5 if "var" in name else -0.5, 1.5, generator=generator)
    return net


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Add normal noise to the parameters of a model, in place; return the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model.eval()


def random_mask(space: FilterSpace, density: float, seed: int = 0) -> Mask:
    """Return a random mask whose layers keep different numbers of units."""
    generator = torch.Generator().manual_seed(seed)
    return space.top_k(torch.rand(space.n_units, generator=generator), density, "global", on_empty="keep_one")


def assert_masked_equals_pruned(net: nn.Module, space: FilterSpace, mask: Mask, example: Tensor) -> None:
    """Assert that masked and pruned networks have equal outputs in float32 and float64, and as many parameters."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        net, inputs = net.to(dtype), example.to(dtype) if example.is_floating_point() else example
        small = prune(net, space, mask)
        with torch.no_grad(), space.applied(net, mask):
            masked, pruned = net(inputs), small(inputs)
        assert (masked - pruned).abs().max() <= tolerance * masked.std()
        assert sum(each.numel() for each in small.parameters()) == space.kept_params(mask)


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
