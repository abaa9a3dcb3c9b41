"""Numbers of channels in attributes of modules: found, changed in the pruned network, and checked by running it."""

import copy

import pytest
import torch
from space_cases import IMAGE, Net, assert_exact
from torch import nn

from masksearch.pruning.physical import load_pruned, prune, save_pruned
from masksearch.spaces.filter_mask_space import filter_space


class Owner(Net):
    """A network with numbers and tuples of numbers in its attributes."""

    def __init__(self, forward, numbers, **layers):
        super().__init__(forward, **layers)
        vars(self).update(numbers)


class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.shape = (channels, 1, 1)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x * self.gamma.view(self.shape)


class HuggingFaceConv1D(nn.Module):
    """A linear layer whose weight is (in, out), as in GPT-2."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.zeros(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view((*x.size()[:-1], self.nf))


def two_parts(s, x):
    left, right = s.a(x).split(s.sizes, 1)
    return s.h(torch.cat([s.b(left), s.c(right)], 1).mean((2, 3)))


NETWORKS = {
    "a stored shape": (
        Net(lambda s, x: s.h(s.s(s.a(x)).mean((2, 3))), a=nn.Conv2d(3, 8, 3), s=Scale(8), h=nn.Linear(8, 2)),
        IMAGE,
        {"a": 8},
        {("s", "shape"): (4, 1, 1)},
    ),
    "split into equal parts": (
        Owner(
            lambda s, x: s.h(torch.mul(*s.a(x).split((s.c, s.c), 1)).mean((2, 3))),
            {"c": 8},
            a=nn.Conv2d(3, 16, 3),
            h=nn.Linear(8, 2),
        ),
        IMAGE,
        {"a": 8},
        {("", "c"): 4},
    ),
    "split into parts of different sizes": (
        Owner(
            two_parts,
            {"sizes": [8, 16]},
            a=nn.Conv2d(3, 24, 3),
            b=nn.Conv2d(8, 4, 1),
            c=nn.Conv2d(16, 2, 1),
            h=nn.Linear(6, 2),
        ),
        IMAGE,
        {"a": 8, "a#2": 16, "b": 4, "c": 2},
        {("", "sizes"): [4, 8]},
    ),
    "features to maps": (
        Owner(
            lambda s, x: s.b(s.a(s.fc(x).relu().view(-1, s.width, 4, 4))),
            {"width": 8},
            fc=nn.Linear(5, 8 * 16),
            a=nn.ConvTranspose2d(8, 6, 4, 2, 1),
            b=nn.Conv2d(6, 2, 3),
        ),
        torch.zeros(2, 5),
        {"fc": 8, "a": 6},
        {("", "width"): 4},
    ),
    "nn.Unflatten": (
        nn.Sequential(nn.Linear(5, 128), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 2, 4, 2, 1)),
        torch.zeros(2, 5),
        {"0": 8},
        {("1", "unflattened_size"): (4, 4, 4)},
    ),
    "maps to features": (
        Owner(
            lambda s, x: s.h(s.a(x).view(-1, s.features)),
            {"features": 8 * 36},
            a=nn.Conv2d(3, 8, 3),
            h=nn.Linear(8 * 36, 2),
        ),
        IMAGE,
        {"a": 8},
        {("", "features"): 4 * 36},
    ),
    "Conv1D of Hugging Face": (
        Net(
            lambda s, x: s.h(s.p(s.f(x).relu()).mean(1)),
            f=HuggingFaceConv1D(16, 6),
            p=HuggingFaceConv1D(6, 16),
            h=nn.Linear(6, 2),
        ),
        torch.zeros(2, 5, 6),
        {"f": 16, "p": 6},
        {("f", "nf"): 8, ("p", "nf"): 3},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_network_has_new_numbers_of_channels_in_attributes(name, tmp_path):
    net, example, units, numbers = NETWORKS[name]
    before = copy.deepcopy(net)
    space = filter_space(net, example)
    assert {layer.name: layer.size for layer in space.layers} == units
    assert_exact(net, space, example)
    mask = space.random(0.5, "layerwise", torch.Generator().manual_seed(0))
    small = prune(net, space, mask)
    for (module, attribute), number in numbers.items():
        assert getattr(small.get_submodule(module), attribute) == number
        assert getattr(net.get_submodule(module), attribute) == getattr(before.get_submodule(module), attribute)
    save_pruned(tmp_path / "small", small, space, mask)
    inputs = torch.randn(3, *example.shape[1:])
    torch.testing.assert_close(load_pruned(tmp_path / "small", before)(inputs), small.eval()(inputs))


def test_layer_with_a_number_of_channels_in_code_is_left_out_with_advice():
    net = Net(
        lambda s, x: s.h(s.b(s.a(x)).view(-1, 128)), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 8, 3), h=nn.Linear(128, 2)
    )
    space = filter_space(net, IMAGE)
    assert [layer.name for layer in space.layers] == ["a"]
    assert "write -1, flatten(1)" in dict(space.left_out)["b"]


def test_layers_that_need_different_values_of_an_attribute_are_left_out():
    net = Owner(
        lambda s, x: s.h(s.b(s.a(x).view(-1, s.c, 6, 6)).view(-1, s.c, 4, 4).mean((2, 3))),
        {"c": 8},
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(8, 8, 3),
        h=nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)),
    )
    space = filter_space(net, IMAGE)
    assert [layer.name for layer in space.layers] == ["h.0"]
