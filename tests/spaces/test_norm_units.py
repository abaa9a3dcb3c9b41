"""Channels before GroupNorm, in whole groups, and before InstanceNorm: masked and pruned networks are equal."""

import pytest
import torch
import torch.nn.functional as F
from space_cases import assert_masked_equals_pruned, random_mask, random_network
from torch import nn

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.pruning import load_pruned, prune, save_pruned
from masksearch.scoring.paths.compact import CompactPath
from masksearch.spaces.filter_mask_space import filter_space


class Residual(nn.Module):
    """Block of a diffusion model: x + conv(SiLU(GroupNorm(x)))."""

    def __init__(self, channels, groups):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(groups, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv(F.silu(self.norm(x)))


class Videos(nn.Module):
    """Network that runs an InstanceNorm on the frames of all examples at once."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.h = nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Linear(8, 3)

    def forward(self, x):
        y = self.n(self.a(x.flatten(0, 1))).relu()
        return self.h(y.mean((2, 3)).unflatten(0, (-1, 4)).mean(1))


class Functional(nn.Module):
    """Network that keeps the number of groups as a constant of its code."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.h(self.b(F.group_norm(self.a(x), 4)).mean((2, 3)))


def head(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


def small_net(norm):
    return nn.Sequential(nn.Conv2d(3, 16, 3), norm, nn.SiLU(), nn.Conv2d(16, 6, 3), nn.ReLU(), *head(6))


IMAGES = torch.randn(2, 3, 12, 12)
# name -> (network, input, units of each layer of the space)
NETWORKS = {
    "group norm": (small_net(nn.GroupNorm(4, 16)), IMAGES, {"0": 4, "3": 6}),
    "group norm without parameters": (small_net(nn.GroupNorm(4, 16, affine=False)), IMAGES, {"0": 4, "3": 6}),
    "group norm of single channels": (small_net(nn.GroupNorm(16, 16)), IMAGES, {"0": 16, "3": 6}),
    "one group": (small_net(nn.GroupNorm(1, 16)), IMAGES, {"3": 6}),
    "number of groups in the code": (Functional(), IMAGES, {"b": 6}),
    "residual blocks": (
        nn.Sequential(nn.Conv2d(3, 16, 3), Residual(16, 8), Residual(16, 4), *head(16)),
        IMAGES,
        {"0": 4},
    ),
    "affine instance norm": (small_net(nn.InstanceNorm2d(16, affine=True)), IMAGES, {"0": 16, "3": 6}),
    "instance norm with running statistics": (
        small_net(nn.InstanceNorm2d(16, track_running_stats=True)),
        IMAGES,
        {"0": 16, "3": 6},
    ),
    "affine instance norm with running statistics": (
        small_net(nn.InstanceNorm2d(16, affine=True, track_running_stats=True)),
        IMAGES,
        {"0": 16, "3": 6},
    ),
    "instance norm of volumes": (
        nn.Sequential(
            nn.Conv3d(1, 6, 3, padding=1),
            nn.InstanceNorm3d(6, affine=True),
            nn.LeakyReLU(),
            nn.ConvTranspose3d(6, 5, 2, stride=2),
            nn.InstanceNorm3d(5, affine=True),
            nn.Conv3d(5, 2, 1),
        ),
        torch.randn(2, 1, 6, 6, 6),
        {"0": 6, "3": 5},
    ),
    "instance norm of frames": (Videos(), torch.randn(2, 4, 3, 8, 8), {"a": 8}),
}


def build(name, seed=0):
    net, x, units = NETWORKS[name]
    return random_network(net, seed=seed), x, units


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_of_group_norm_and_channels_of_instance_norm_are_units(name):
    net, x, units = build(name)
    space = filter_space(net, x)
    assert {layer.name: layer.size for layer in space.layers} == units


@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("name", NETWORKS)
def test_masked_network_with_group_or_instance_norm_equals_pruned_network(name, density):
    net, x, _ = build(name)
    space = filter_space(net, x)
    assert_masked_equals_pruned(net, space, random_mask(space, density), x)


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_networks_with_group_or_instance_norm_are_trained_saved_and_loaded(name, tmp_path):
    net, x, _ = build(name)
    space = filter_space(net, x)
    mask = random_mask(space, 0.5)
    small = prune(net, space, mask)
    optimizer = torch.optim.SGD(small.train().parameters(), 0.1)
    small(x).square().mean().backward()
    optimizer.step()
    save_pruned(tmp_path, small.eval(), space, mask)
    loaded = load_pruned(tmp_path, build(name, seed=1)[0])
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), small(x))


def test_pruned_group_norm_equals_the_published_formula():
    """Wu and He 2018, eq. 1, on the groups that stay; the removed group changes nothing in the others."""
    net, x, _ = build("group norm")
    net, x = net.double(), x.double()
    space = filter_space(net, x)
    small = prune(net, space, Mask(space, torch.arange(space.n_units) != 1))
    assert (small[1].num_groups, small[1].num_channels) == (3, 12)
    kept = torch.tensor([*range(4), *range(8, 16)])
    y = F.conv2d(x, net[0].weight[kept], net[0].bias[kept])
    groups = y.reshape(2, 3, 4, 10, 10)
    mean = groups.mean((2, 3, 4), keepdim=True)
    variance = (groups - mean).square().mean((2, 3, 4), keepdim=True)
    y = ((groups - mean) / (variance + net[1].eps).sqrt()).reshape(2, 12, 10, 10)
    y = y * net[1].weight[kept, None, None] + net[1].bias[kept, None, None]
    y = F.conv2d(F.silu(y), net[3].weight[:, kept], net[3].bias).relu().mean((2, 3))
    torch.testing.assert_close(small(x), y @ net[7].weight.T + net[7].bias, rtol=0, atol=1e-12)


def test_channels_before_a_norm_of_a_single_group_are_left_out_with_the_reason():
    net, x, _ = build("one group")
    assert "normalises over channels" in dict(filter_space(net, x).left_out)["0"]


def test_compact_path_with_group_norm_equals_pruned_network():
    net, x, _ = build("group norm")
    space = filter_space(net, x)
    mask = random_mask(space, 0.5)
    with torch.no_grad():
        logits = CompactPath(net, space, x, 2).logits(Proposal.of(mask))
        torch.testing.assert_close(logits, prune(net, space, mask)(x))
