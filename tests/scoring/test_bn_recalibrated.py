"""``bn_recalibrated`` against a forward pass by hand; and objectives of a network: equal scores, no side effects."""

import copy

import pytest
import torch
import torch.nn.functional as F
from path_cases import generator
from torch import nn

from masksearch.data import Split
from masksearch.scoring import OBJECTIVES, Scorer
from masksearch.spaces import filter_space

OF_NETWORK = [name for name, row in OBJECTIVES.items() if row.of_network]


def make_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(4 * 16, 3)),
    ).double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator(1))
                module.running_var.uniform_(0.5, 2, generator=generator(2))
    return net.eval()


def make_split(n=20):
    return Split(torch.randn(n, 1, 8, 8, generator=generator(3), dtype=torch.float64), torch.arange(n) % 3)


def state_of(model):
    return (
        copy.deepcopy(model.state_dict()),
        [m.training for m in model.modules()],
        [p.grad for p in model.parameters()],
    )


@pytest.mark.parametrize("name", OF_NETWORK)
def test_objectives_of_a_network_do_not_change_it(name):
    model, split = make_net(), make_split()
    weights, modes, gradients = state_of(model)
    OBJECTIVES[name].of_network(model, split.images, split.labels)
    after = state_of(model)
    assert all(torch.equal(weights[key], after[0][key]) for key in weights)
    assert (after[1], after[2]) == (modes, gradients)
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]


@pytest.mark.parametrize("name", OF_NETWORK)
def test_objectives_of_a_network_give_equal_masks_equal_scores(name):
    model, split = make_net(), make_split()
    space = filter_space(model.float(), split.images[:1].float())
    scorer = Scorer(model, space, Split(split.images.float(), split.labels), name)
    values = [scorer(space.random(0.5, generator=generator(seed))).value for seed in range(6)]
    assert len(set(values)) > 1
    assert values == [scorer(space.random(0.5, generator=generator(seed))).value for seed in range(6)]


@pytest.mark.parametrize(("name", "images"), [("width", 0), ("bn_recalibrated", 20), ("loss", 20)])
def test_score_counts_the_images_of_the_objective(name, images):
    model, split = make_net().float(), make_split()
    split = Split(split.images.float(), split.labels)
    space = filter_space(model, split.images[:1])
    assert Scorer(model, space, split, name)(space.full()).images == images


def test_bn_recalibrated_uses_statistics_of_the_networks_activations():
    """By hand: layer after layer, normalised with the batch's mean and (biased) variance."""
    model, split = make_net(), make_split()
    with torch.no_grad():
        x = split.images
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
                x = (x - mean) / (variance + module.eps).sqrt() * module.weight.view(-1, 1, 1)
                x = x + module.bias.view(-1, 1, 1)
            else:
                x = module(x)
        wanted = -F.cross_entropy(x, split.labels).item()
        stale = -F.cross_entropy(model(split.images), split.labels).item()
    value = OBJECTIVES["bn_recalibrated"].of_network(model, split.images, split.labels)
    assert value == pytest.approx(wanted, rel=1e-9)
    assert value != pytest.approx(stale, rel=1e-3)
