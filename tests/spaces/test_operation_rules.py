"""Rules for channels of operations: masked and pruned networks are equal, and no unit is missing."""

import pytest
import torch
from space_cases import IMAGE, SIGNAL, VOLUME, Net, assert_exact
from torch import nn

from masksearch.spaces.filter_mask_space import filter_space


def non_local(s, x):
    x = s.a(x).relu()
    query, key, value = (layer(x).flatten(2) for layer in (s.q, s.k, s.v))
    weights = torch.softmax(query.transpose(1, 2) @ key, -1)
    joined = (value @ weights.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
    return s.h((x + s.o(joined)).mean((2, 3)))


def filtered(s, x):
    spectrum = torch.fft.rfft2(s.a(x).relu())
    return s.h(torch.fft.irfft2(spectrum * spectrum.abs(), s=x.shape[2:]))


# name -> (network, example, units of every layer of the space)
NETWORKS = {
    "pixel_shuffle": (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        IMAGE,
        {"0": 4},
    ),
    "pixel_unshuffle": (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PixelUnshuffle(2), nn.Conv2d(16, 2, 3)),
        IMAGE,
        {"0": 4},
    ),
    "upsampling, linear": (
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.Upsample(scale_factor=2, mode="linear"), nn.Conv1d(4, 2, 3)),
        SIGNAL,
        {"0": 4},
    ),
    "upsampling, trilinear": (
        nn.Sequential(nn.Conv3d(3, 4, 3), nn.Upsample(scale_factor=2, mode="trilinear"), nn.Conv3d(4, 2, 3)),
        VOLUME,
        {"0": 4},
    ),
    "upsampling, nearest-exact": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(4, 2, 3)),
        IMAGE,
        {"0": 4},
    ),
    "Fourier transforms": (
        Net(filtered, a=nn.Conv2d(3, 4, 3, padding=1), h=nn.Conv2d(4, 2, 1)),
        IMAGE,
        {"a": 4},
    ),
    "circular padding": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")),
        IMAGE,
        {"0": 4},
    ),
    "grouped transposed convolution": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 4, 2, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 3)),
        IMAGE,
        {"0": 2, "1": 3},
    ),
    "depthwise transposed convolution": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 4, 2, groups=8), nn.ReLU(), nn.Conv2d(16, 2, 3)),
        IMAGE,
        {"0": 8},
    ),
    "einsum": (
        Net(
            lambda s, x: s.h(torch.einsum("bchw,oc->bohw", s.a(x), s.weight).relu().mean((2, 3))),
            a=nn.Conv2d(3, 8, 3),
            weight=nn.Parameter(torch.zeros(6, 8)),
            h=nn.Linear(6, 2),
        ),
        IMAGE,
        {"a": 8, "weight": 6},
    ),
    "products of activations": (
        Net(
            non_local,
            a=nn.Conv2d(3, 8, 3),
            q=nn.Conv2d(8, 4, 1),
            k=nn.Conv2d(8, 4, 1),
            v=nn.Conv2d(8, 6, 1),
            o=nn.Conv2d(6, 8, 1),
            h=nn.Linear(8, 2),
        ),
        IMAGE,
        {"a": 8, "q": 4, "v": 6},
    ),
    "features to maps": (
        Net(
            lambda s, x: s.b(s.a(s.fc(x).relu().view(len(x), s.a.in_channels, 4, 4))),
            fc=nn.Linear(5, 8 * 16),
            a=nn.ConvTranspose2d(8, 6, 4, 2, 1),
            b=nn.Conv2d(6, 2, 3),
        ),
        torch.zeros(2, 5),
        {"fc": 8, "a": 6},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_through_all_operations_are_units_and_pruned_exactly(name):
    net, example, units = NETWORKS[name]
    space = filter_space(net, example)
    assert {layer.name: layer.size for layer in space.layers} == units
    assert_exact(net, space, example)


def test_channels_last_network_has_the_space_of_the_plain_network():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    plain = filter_space(net, IMAGE)
    last = torch.channels_last
    assert filter_space(net.to(memory_format=last), IMAGE.to(memory_format=last)).fingerprint == plain.fingerprint


def test_product_of_activations_without_zero_at_pruned_channels_is_left_out():
    gate = Net(
        lambda s, x: s.h(torch.bmm(s.a(x).sigmoid().flatten(2).transpose(1, 2), s.b(x).sigmoid().flatten(2)).mean(1)),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(3, 4, 3),
        h=nn.Sequential(nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 2)),
    )
    space = filter_space(gate, IMAGE)
    assert [layer.name for layer in space.layers] == ["h.0"]
    assert "not equal" in dict(space.left_out)["a"]
