"""N:M spaces: every group keeps exactly n of m weights, in rankings, draws, searches and trainings."""

import time

import numpy as np
import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch.criteria import select
from masksearch.data import Split
from masksearch.searchers import Annealing, Evolution, RandomSearch
from masksearch.searchers.moves.in_groups import GroupPartition
from masksearch.utils.errors import InputError


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 12),
        nn.ReLU(),
        nn.Linear(12, 3),
    )


def split(n=48):
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, 1, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator))


def per_group(mask, m=4):
    return mask.bits.view(-1, m).sum(1)


def test_nm_space_has_layers_with_a_multiple_of_m_inputs():
    space = ms.nm_space(network())
    assert [layer.name for layer in space.layers] == ["2", "5", "7"]
    assert dict(space.left_out)["0"] == "an output has 9 inputs, not a multiple of 4"
    assert "2:4" in repr(space)
    assert space.fingerprint == ms.nm_space(network()).fingerprint
    others = [ms.nm_space(network(), 1, 4).fingerprint, ms.weight_space(network(), exclude="0").fingerprint]
    assert space.fingerprint not in others


def test_weights_with_outputs_last_are_left_out():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 8, 2))
    assert dict(ms.nm_space(model).left_out)["1"] == "its weight is stored with the outputs last"


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (5, 8)])
def test_rankings_keep_the_best_n_of_every_group(n, m):
    model = nn.Linear(16, 6)
    space = ms.nm_space(model, n, m)
    saliency = torch.randn(space.n_units)
    mask = space.top_k(saliency)
    best = saliency.view(-1, m).topk(n).indices
    assert torch.equal(mask.bits.view(-1, m), torch.zeros(space.n_units // m, m, dtype=bool).scatter(1, best, True))
    assert mask == space.top_k(saliency, n / m, "layerwise")
    assert space.has_pattern(mask)
    assert not space.has_pattern(space.full())


def test_ties_and_random_masks_are_uniform_within_groups():
    space = ms.nm_space(nn.Linear(4, 5000))
    for mask in (space.top_k(torch.zeros(space.n_units)), space.random()):
        assert (per_group(mask) == 2).all()
        shares = mask.bits.view(-1, 4).double().mean(0)
        assert ((shares - 0.5).abs() < 0.05).all()


@pytest.mark.parametrize("arguments", [{"density": 0.3}, {"sparsity": 0.9}, {"scope": "erk"}, {"hold": "params"}])
def test_other_densities_scopes_and_holds_of_nm_spaces_raise_input_error(arguments):
    space = ms.nm_space(network())
    with pytest.raises(InputError, match=r"keep 0\.5 of every layer|allows only 'units'"):
        space.random(**arguments)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (2.0, 4), (3, 2)])
def test_invalid_patterns_raise_input_error(n, m):
    with pytest.raises(InputError, match=r"^n: "):
        ms.nm_space(network(), n, m)
    with pytest.raises(InputError, match="multiple of 5"):
        ms.nm_space(nn.Linear(4, 4), 2, 5)


@pytest.mark.parametrize("name", ["magnitude", "snip", "grasp", "synflow", "random", "lamp"])
def test_masks_of_criteria_keep_the_pattern(name):
    model, space = network(), ms.nm_space(network())
    mask = select(name, model, space, split())
    assert (per_group(mask) == 2).all()


@pytest.mark.parametrize(
    "searcher",
    [RandomSearch(), Annealing(radius_start=0.1), Annealing(within=0.5, chains=2), Evolution(population=6)],
    ids=["random", "annealing", "chains", "evolution"],
)
def test_searches_keep_the_pattern(searcher):
    model = network()
    space = ms.nm_space(model)
    seen = []
    scorer = ms.Scorer(model, space, split(), "loss")

    class Recorded:
        def score(self, proposals):
            seen.extend(proposal.mask for proposal in proposals)
            return scorer.score(proposals)

    ms.search(space, searcher, Recorded(), budget=60)
    assert len({mask.hash for mask in seen}) > 30
    assert all((per_group(mask) == 2).all() for mask in seen)
    slow = ms.Scorer(model, space, split(), "loss", fast=False)
    assert scorer(seen[-1]).value == pytest.approx(slow(seen[-1]).value, rel=1e-5)


def test_moves_in_groups_have_the_radius_and_are_equally_likely():
    space = ms.nm_space(nn.Linear(8, 1))
    rng = np.random.default_rng(0)
    counts = np.zeros(space.n_units)
    partition = GroupPartition(space.random(generator=torch.Generator().manual_seed(0)))
    kept = partition.mask().bits.numpy()
    for _ in range(4000):
        move = partition.draw(2, rng)
        assert len(move.dropped) == len(move.regrown) == 2
        assert (np.sort(move.dropped // 4) == np.sort(move.regrown // 4)).all()
        assert kept[move.dropped].all()
        assert not kept[move.regrown].any()
        counts[move.dropped] += 1
        counts[move.regrown] += 1
    assert abs(counts / 4000 - 0.5).max() < 0.05
    partition.make(move)
    assert partition.mask() == space.random(generator=torch.Generator().manual_seed(0)).moved(move)


def test_100_moves_of_a_million_groups_take_below_a_second():
    space = ms.nm_space(nn.Linear(2048, 2048))
    mask = space.random()
    partition, rng = GroupPartition(mask), np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(100):
        partition.make(partition.draw(100, rng))
    assert time.perf_counter() - start < 1


def test_start_mask_without_the_pattern_raises_input_error():
    space = ms.nm_space(nn.Linear(4, 2))
    bits = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0], dtype=torch.bool)
    with pytest.raises(InputError, match="keep 0 to 4 units"):
        GroupPartition(ms.Mask(space, bits))


def test_training_keeps_pruned_weights_at_zero():
    model = network()
    space = ms.nm_space(model)
    mask = space.random(generator=torch.Generator().manual_seed(0))
    settings = ms.TrainSettings(epochs=2, batch_size=16)
    before = model[2].weight.detach().clone()
    space.apply(model, mask)
    ms.train(model, split(), settings, seed=0, masks=space.parameter_masks(mask))
    assert not torch.equal(before, model[2].weight)
    for name, keep in space.parameter_masks(mask).items():
        assert not model.get_parameter(name)[~keep].any()
        assert model.get_parameter(name)[keep].all()


def test_network_without_a_layer_for_nm_masks_raises_the_first_layers_reason():
    with pytest.raises(
        ms.InputError, match="no layer for 2:4 masks: the network: an output has 3 inputs, not a multiple"
    ):
        ms.nm_space(nn.Linear(3, 3))
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(3, 4, 1))
    with pytest.raises(ms.InputError, match="0: its weight is stored with the outputs last, and 1 more"):
        ms.nm_space(model)
