"""``norms=True``: channels before a LayerNorm or RMSNorm are units; norms use statistics of the kept channels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from space_cases import random_mask, random_network
from torch import nn

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.criteria.gradient_criteria import taylor
from masksearch.pruning import load_pruned, prune, save_pruned
from masksearch.scoring.paths.compact import CompactPath
from masksearch.spaces.filter_mask_space import filter_space
from masksearch.training.own_loop_mask import keep_mask


class RMS(nn.Module):
    """RMSNorm, written as in language models."""

    def __init__(self, size):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, states):
        return self.scale * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6)


class LayerNorm2d(nn.LayerNorm):
    """A LayerNorm over the channels of images."""

    def forward(self, x):
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, norm, size, hidden):
        super().__init__()
        self.norm, self.up, self.down = norm, nn.Linear(size, hidden), nn.Linear(hidden, size)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Pool(nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True)


class Scaled(nn.Module):
    """Block of a ConvNeXt."""

    def __init__(self, size):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(size, size, 3, padding=1, groups=size), LayerNorm2d(size)
        self.up, self.down = nn.Conv2d(size, 20, 1), nn.Conv2d(20, size, 1)
        self.gamma = nn.Parameter(torch.full((size, 1, 1), 1e-6))

    def forward(self, x):
        return x + self.gamma * self.down(F.gelu(self.up(self.norm(self.depthwise(x)))))


class Mixer(nn.Module):
    """Linear patches, a position table, blocks, a last norm."""

    def __init__(self, make_norm):
        super().__init__()
        self.embed, self.positions = nn.Linear(12, 16), nn.Parameter(torch.zeros(1, 5, 16))
        self.blocks = nn.Sequential(Block(make_norm(16), 16, 24), Block(make_norm(16), 16, 20))
        self.norm, self.head = make_norm(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.embed(x) + self.positions)).mean(1))


class Twice(nn.Module):
    """Gated block on an embedding; its norm runs twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 16), RMS(16)
        self.up, self.gate, self.down = nn.Linear(16, 20), nn.Linear(16, 20), nn.Linear(20, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        y = self.embed(x)
        return self.head(y + self.down(F.silu(self.up(self.norm(y))) * self.gate(self.norm(y)))).mean(1)


TOKENS = torch.randn(3, 5, 12)
UNITS = {"embed": 16, "blocks.0.up": 24, "blocks.1.up": 20}
NETWORKS = {
    "layer norm": (Mixer(nn.LayerNorm), TOKENS, UNITS),
    "layer norm without bias": (Mixer(lambda size: nn.LayerNorm(size, bias=False)), TOKENS, UNITS),
    "torch's RMSNorm": (Mixer(nn.RMSNorm), TOKENS, UNITS),
    "RMSNorm written out": (Mixer(RMS), TOKENS, UNITS),
    "norm that runs twice": (Twice(), TOKENS, {"embed": 16, "up": 20}),
    "norm without parameters": (
        Mixer(lambda size: nn.LayerNorm(size, elementwise_affine=False)),
        TOKENS,
        {name: size for name, size in UNITS.items() if name != "embed"},
    ),
    "ConvNeXt": (
        nn.Sequential(
            nn.Conv2d(3, 12, 2, 2),
            LayerNorm2d(12),
            Scaled(12),
            LayerNorm2d(12),
            nn.Conv2d(12, 16, 2, 2),
            Scaled(16),
            Pool(),
            LayerNorm2d(16),
            nn.Flatten(),
            nn.Linear(16, 4),
        ),
        torch.randn(2, 3, 12, 12),
        {"0": 12, "2.up": 20, "4": 16, "5.up": 20},
    ),
}


def build(name, seed=0):
    net, x, units = NETWORKS[name]
    return random_network(net, seed=seed), x, units


def difference(one, other):
    return float((one - other).abs().max() / one.std())


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_true_adds_channels_before_norms_as_units(name):
    net, x, units = build(name)
    space = filter_space(net, x, norms=True)
    assert {layer.name: layer.size for layer in space.layers} == units
    with_norms = {layer.name for layer in space.layers if space.norm_units[layer.slice].any()}
    assert with_norms == {layer for layer in units if "up" not in layer}
    assert ("kept channels" in str(space)) == bool(with_norms)
    plain = filter_space(net, x)
    assert not plain.norm_units.any()
    assert {layer.name for layer in plain.layers} == {layer for layer in units if "up" in layer}


@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("name", NETWORKS)
def test_masked_network_with_norms_equals_pruned_network(name, density):
    net, x, _ = build(name)
    space = filter_space(net, x, norms=True)
    mask = random_mask(space, density)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        net, inputs = net.to(dtype), x.to(dtype)
        small = prune(net, space, mask)
        with torch.no_grad():
            dense, pruned = net(inputs), small(inputs)
            with space.applied(net, mask):
                assert difference(net(inputs), pruned) <= tolerance
            torch.testing.assert_close(net(inputs), dense)  # the hooks are gone
            masked = copy.deepcopy(net)
            space.apply(masked, mask)
            assert difference(masked(inputs), pruned) <= tolerance
            assert difference(copy.deepcopy(masked)(inputs), pruned) <= tolerance
            assert difference(prune(masked, space, mask)(inputs), pruned) <= tolerance
        assert sum(each.numel() for each in small.parameters()) == space.kept_params(mask)


def layer_norm_of_kept(x, keep, weight, bias):
    """Ba, Kiros and Hinton 2016, eq. 3, over the positions that ``keep`` (channels,) selects; zero elsewhere."""
    n = keep.sum()
    mean = (x * keep).sum(-1, keepdim=True) / n
    variance = ((x - mean).square() * keep).sum(-1, keepdim=True) / n
    return keep * ((x - mean) / (variance + 1e-5).sqrt() * weight + bias)


def rms_norm_of_kept(x, keep, weight, bias):
    """Zhang and Sennrich 2019, eq. 4, over the positions that ``keep`` (channels,) selects."""
    return keep * x / ((x.square() * keep).sum(-1, keepdim=True) / keep.sum() + 1e-6).sqrt() * weight


@pytest.mark.parametrize(
    ("name", "formula"), [("layer norm", layer_norm_of_kept), ("RMSNorm written out", rms_norm_of_kept)]
)
def test_masked_norms_equal_the_published_formulas(name, formula):
    net, x, _ = build(name)
    net, x = net.double(), x.double()
    space = filter_space(net, x, norms=True)
    mask = random_mask(space, 0.5)
    kept = dict(zip(UNITS, mask.bits.split(list(UNITS.values())), strict=True))
    keep = kept["embed"]

    def normalised(states, norm):
        weights = [*norm.parameters(), None]
        return formula(states, keep, weights[0], weights[1])

    y = keep * (net.embed(x) + net.positions)
    for number, block in enumerate(net.blocks):
        hidden = F.gelu(block.up(normalised(y, block.norm))) * kept[f"blocks.{number}.up"]
        y = y + keep * block.down(hidden)
    expected = net.head(normalised(y, net.norm).mean(1))
    with torch.no_grad(), space.applied(net, mask):
        assert difference(net(x), expected) < 1e-12


@pytest.mark.parametrize("name", ["layer norm", "RMSNorm written out", "ConvNeXt"])
def test_training_under_a_mask_equals_training_of_the_pruned_network(name):
    net, x, _ = build(name)
    net, x = net.double(), x.double()
    space = filter_space(net, x, norms=True)
    mask = random_mask(space, 0.5)
    small = prune(net, space, mask)
    keep = keep_mask(net, space, mask)
    for each in (net, small):
        optimizer = torch.optim.SGD(each.train().parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            each(x).square().mean().backward()
            optimizer.step()
            keep()
    with torch.no_grad():
        assert difference(net.eval()(x), small.eval()(x)) < 1e-9


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_networks_with_norms_are_saved_loaded_and_exported(name, tmp_path):
    net, x, _ = build(name)
    space = filter_space(net, x, norms=True)
    mask = random_mask(space, 0.5)
    small = prune(net, space, mask)
    save_pruned(tmp_path, small, space, mask)
    loaded = load_pruned(tmp_path, build(name, seed=1)[0])
    torch.testing.assert_close(loaded(x), small(x))
    torch.testing.assert_close(torch.export.export(small, (x,)).module()(x), small(x))


def test_taylor_of_a_masked_network_with_norms_equals_taylor_of_the_pruned_network():
    net, x, _ = build("layer norm")
    space = filter_space(net, x, norms=True)
    mask = random_mask(space, 0.5)
    batches = [(x, torch.tensor([0, 1, 2]))]
    masked, pruned = taylor(net, space, batches, alive=mask), prune(net, space, mask)
    small = taylor(pruned, filter_space(pruned, x, norms=True), batches)
    torch.testing.assert_close(masked[mask.bits], small)
    space.apply(net, mask)
    assert filter_space(net, x, norms=True).fingerprint == space.fingerprint


def test_norm_without_kept_channels_returns_zero():
    net, x, _ = build("layer norm")
    space = filter_space(net, x, norms=True)
    bits = torch.ones(space.n_units, dtype=torch.bool)
    bits[:16] = False
    with torch.no_grad(), space.applied(net, Mask(space, bits)):
        torch.testing.assert_close(net(x), net.head.bias.expand(3, 4))


@pytest.mark.parametrize("name", ["layer norm", "RMSNorm written out"])
def test_compact_path_with_norms_equals_pruned_network(name):
    net, x, _ = build(name)
    space = filter_space(net, x, norms=True)
    mask = random_mask(space, 0.5)
    with torch.no_grad():
        logits = CompactPath(net, space, x, len(x)).logits(Proposal.of(mask))
        torch.testing.assert_close(logits, prune(net, space, mask)(x))
