"""Options of filter spaces: include, exclude, min_units and multiple_of; and advice on computed weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import masksearch as ms
from masksearch.core.problem_and_trials import Problem
from masksearch.utils.errors import InputError

IMAGE = torch.zeros(1, 3, 8, 8)


def plain(first=None):
    layers = [first or nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 30, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(30, 10))


@pytest.mark.parametrize(
    ("choice", "layers"),
    [
        ({"exclude": "0"}, ["2", "4"]),
        ({"exclude": ["0", "4"]}, ["2"]),
        ({"exclude": "[24]"}, ["0"]),
        ({"include": ["0", "2"]}, ["0", "2"]),
        ({"include": "*", "exclude": "2"}, ["0", "4"]),
        ({"exclude": "8"}, ["0", "2", "4"]),  # the output layer has no units anyway
    ],
)
def test_include_and_exclude_choose_layers_by_name(choice, layers):
    space = ms.filter_space(plain(), IMAGE, **choice)
    assert [layer.name for layer in space.layers] == layers
    assert {"0", "2", "4", "8"} - set(layers) == {name for name, _ in space.left_out}


def test_exclude_accepts_a_module_and_excludes_coupled_layers():
    net = ms.build_model("resnet20", (3, 16, 16))
    images = torch.zeros(1, 3, 16, 16)
    names = [layer.name for layer in ms.filter_space(net, images).layers]
    inside = names[-1]
    block = net.get_submodule(inside.rpartition(".")[0])
    left = [layer.name for layer in ms.filter_space(net, images, exclude=block).layers]
    assert set(left) < set(names)
    assert inside not in left


def test_patterns_without_a_match_and_wrong_limits_raise_input_error():
    with pytest.raises(InputError, match="exclude: 'layer9' fits no layer; the layers are 0, 2, 4, 8"):
        ms.filter_space(plain(), IMAGE, exclude="layer9")
    with pytest.raises(InputError, match="include: a Conv2d that is no module of the network"):
        ms.filter_space(plain(), IMAGE, include=nn.Conv2d(1, 1, 1))
    with pytest.raises(InputError, match=r"min_units: 1\.5"):
        ms.filter_space(plain(), IMAGE, min_units=1.5)
    with pytest.raises(InputError, match="multiple_of: 0"):
        ms.filter_space(plain(), IMAGE, multiple_of=0)


@pytest.mark.parametrize("hold", ["units", "params", "macs"])
@pytest.mark.parametrize("scope", ["global", "layerwise", "erk"])
def test_masks_keep_min_units_multiple_of_and_the_budget(scope, hold):
    space = ms.filter_space(plain(), IMAGE, min_units=0.25, multiple_of=8)
    assert space.fingerprint == ms.filter_space(plain(), IMAGE).fingerprint
    for seed, density in enumerate((0.5, 0.7, 0.9, 1.0)):
        mask = space.random(density, scope, torch.Generator().manual_seed(seed), hold=hold)
        kept = mask.kept_per_layer()
        assert kept["0"] in (8, 16)
        assert kept["2"] in (8, 16, 24)
        assert kept["4"] in (8, 16, 24, 30)
        assert space.share(mask, hold) <= density
        if hold == "units":
            assert mask.n_kept > density * space.n_units - 8 or density == 1
    assert space.random(1.0, scope, hold=hold) == space.full()


def test_ranking_with_multiple_of_keeps_the_steps_of_highest_saliency():
    space = ms.filter_space(plain(), IMAGE, multiple_of=8)
    saliency = torch.arange(70.0)
    mask = space.top_k(saliency, 54 / 70)
    assert mask.kept_per_layer() == {"0": 8, "2": 16, "4": 30}
    assert mask.bits[8:16].all()  # the highest 8 of the first layer


def test_rankings_and_problems_keep_min_units():
    space = ms.filter_space(plain(), IMAGE, min_units=5)
    saliency = torch.cat([torch.zeros(16), torch.ones(54)])
    mask = space.top_k(saliency, 0.5)
    assert mask.n_kept == 35
    assert mask.kept_per_layer()["0"] == 5
    problem = Problem(space, 0.3, budget=10)
    assert problem.allows(np.array([5, 5, 11]))
    assert not problem.allows(np.array([4, 6, 11]))
    with pytest.raises(
        InputError, match="density: 14 units is too low for min_units and multiple_of, with which at least 15 of 70"
    ):
        space.top_k(saliency, 0.2)


class Checking:
    """Scorer that asserts that the limits of the space allow every mask."""

    def score(self, proposals):
        for proposal in proposals:
            kept = np.array(list(proposal.mask.kept_per_layer().values()))
            assert proposal.mask.space.limits.allow(kept)
        return [ms.Score(float(proposal.mask.bits.nonzero().sum())) for proposal in proposals]


SEARCHERS = ["annealing", "annealing_thesis_mlp", "evolution", "eda", "random_search", "optuna_tpe", "optuna_cmaes"]


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_searches_with_scope_layerwise_keep_multiple_of(searcher):
    space = ms.filter_space(plain(), IMAGE, multiple_of=8)
    amount = ms.Amount(0.6, scope="layerwise")
    if searcher in ("annealing_thesis_mlp", "optuna_tpe", "optuna_cmaes"):
        with pytest.raises(InputError, match="densit"):
            ms.search(space, searcher, Checking(), amount, budget=30)
        return
    ms.search(space, searcher, Checking(), amount, budget=30)


class Counting(Checking):
    """Checks limits and the budget, and collects the layers' numbers of kept units."""

    def __init__(self, space, amount):
        self.space, self.amount, self.numbers = space, amount, set()

    def score(self, proposals):
        for proposal in proposals:
            kept = tuple(proposal.mask.kept_per_layer().values())
            assert self.space.share(proposal.mask, self.amount.hold) <= self.amount.density
            self.numbers.add(kept)
        return super().score(proposals)


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("hold", ["units", "macs", "params"])
def test_searches_move_multiples_of_units_between_layers(searcher, hold):
    space = ms.filter_space(plain(), IMAGE, multiple_of=8, min_units=2)
    amount = ms.Amount(0.7, hold=hold, on_empty="keep_one")
    scorer = Counting(space, amount)
    history = ms.search(space, searcher, scorer, amount, budget=60)
    assert len(scorer.numbers) >= 2
    assert history.best_mask.n_kept % 8 in (0, 6)  # all of the last layer are 30 = 3 x 8 + 6 units


def test_annealing_with_multiple_of_reaches_many_widths_that_fill_the_budget():
    space = ms.filter_space(plain(), IMAGE, multiple_of=8)
    scorer = Counting(space, ms.Amount(40 / 70))
    ms.search(space, "annealing", scorer, 40 / 70, budget=200)
    assert {sum(kept) for kept in scorer.numbers} <= {38, 40}  # 38 with all 30 units of the last layer
    assert scorer.numbers >= {(8, 24, 8), (16, 8, 16), (8, 8, 24), (8, 16, 16), (16, 16, 8)}


def test_annealing_of_densities_refuses_multiple_of():
    space = ms.filter_space(plain(), IMAGE, multiple_of=8)
    with pytest.raises(InputError, match="densities in a space with multiple_of"):
        ms.search(space, ms.searchers.Annealing(densities=True), Checking(), 0.6, budget=10)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_searches_keep_min_units(searcher):
    space = ms.filter_space(plain(), IMAGE, min_units=6)
    ms.search(space, searcher, Checking(), 0.35, budget=30)


@pytest.mark.parametrize(
    ("compute", "call"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), r"torch\.nn\.utils\.prune\.remove"),
        (parametrizations.weight_norm, "remove_parametrizations"),
        (parametrizations.spectral_norm, "remove_parametrizations"),
        (weight_norm, "remove_weight_norm"),
        (spectral_norm, "remove_spectral_norm"),
    ],
)
def test_computed_weights_are_left_out_with_advice_to_make_the_weights_permanent(compute, call):
    space = ms.filter_space(plain(compute(nn.Conv2d(3, 16, 3))), IMAGE)
    assert [layer.name for layer in space.layers] == ["2", "4"]
    [reason] = [reason for layer, reason in space.left_out if layer == "0"]
    assert "make it permanent" in reason
    with pytest.raises(InputError, match=f"no channels that can be removed .0: .*make it permanent with .*{call}"):
        ms.filter_space(nn.Sequential(compute(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 4))


def test_float32_example_for_a_half_precision_network_raises_input_error():
    with pytest.raises(InputError, match=r"torch.float32, and Sequential has parameters of torch.float16; give"):
        ms.filter_space(plain().half(), IMAGE)
    assert ms.filter_space(plain().half(), IMAGE.half()).n_units == 70
