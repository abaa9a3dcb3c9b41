"""Scores less what masks cost: by counting the pruned network, with thresholds in the same terms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from masksearch import cost
from masksearch.data import Split
from masksearch.errors import InputError
from masksearch.loop import search
from masksearch.pruning import prune
from masksearch.scoring import CostWeighted, Scorer
from masksearch.searchers import Annealing
from masksearch.spaces import filter_space, weight_space
from masksearch.trial import Proposal


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten()),
        nn.Linear(16 * 4, 3),
    )
    split = Split(torch.randn(60, 1, 8, 8, generator=generator()), torch.randint(0, 3, (60,), generator=generator(1)))
    return model.eval(), filter_space(model, split.images[:1]), split


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("weight", [0.0, 0.7, 30.0])
def test_the_pruned_networks_cost_is_taken_off(network, of, weight):
    model, space, split = network
    plain = Scorer(model, space, split)
    weighted = CostWeighted(plain, weight, of)
    count = {"macs": lambda net: int(cost.macs(net, split.images[:1])), "params": cost.params}[of]
    for seed in range(4):
        mask = space.random(0.5, generator=generator(seed), on_empty="keep_one")
        share = count(prune(model, space, mask)) / count(model)
        assert weighted(mask).value == pytest.approx(plain(mask).value - weight * share, abs=1e-12)


def test_decisions_at_thresholds_are_those_of_exact_scores(network):
    model, space, split = network
    exact = CostWeighted(Scorer(model, space, split, fast=False), 0.3)
    weighted = CostWeighted(Scorer(model, space, split, batch_size=5), 0.3)
    masks = [space.random(0.5, generator=generator(seed), on_empty="keep_one") for seed in range(30)]
    values = [exact(mask).value for mask in masks]
    bounds = 0
    for mask, value in zip(masks, values, strict=True):
        for threshold in (*values[:8], value):
            [score] = weighted.score([replace(Proposal.of(mask), threshold=threshold)])
            assert (score.value >= threshold and score.exact) == (value >= threshold)
            assert score.value == value if score.exact else score.value >= value - 1e-12
            bounds += not score.exact
    assert bounds


def test_a_search_with_a_weight_finds_cheaper_masks_of_as_many_filters(network):
    model, space, split = network

    def found(weight):
        scorer = CostWeighted(Scorer(model, space, split, "loss"), weight)
        return search(space, Annealing(), scorer, 0.5, 300, on_empty="keep_one").best.mask

    free, charged = found(0.0), found(10.0)
    assert charged.n_kept == free.n_kept
    assert space.kept_macs(charged) < space.kept_macs(free)


@pytest.mark.parametrize(
    ("weight", "of", "message"),
    [
        (-1.0, "macs", "cost_weight: -1.0; a finite number"),
        (math.nan, "macs", "cost_weight: nan"),
        (1.0, "mac", "did you mean 'macs'"),
    ],
)
def test_weights_that_can_not_be(network, weight, of, message):
    model, space, split = network
    with pytest.raises(InputError, match=message):
        CostWeighted(Scorer(model, space, split), weight, of)


def test_weights_of_weights_are_refused(network):
    model, _, split = network
    with pytest.raises(InputError, match="all weights cost the same"):
        CostWeighted(Scorer(model, weight_space(model), split), 1.0)
