"""Allocators divide a budget among layers: against brute force, with planted optima, and within a budget of MACs."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from masksearch.core.problem_and_trials import Budget, Problem, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import LayerCoefficients, LevelSwitches, OneTolerance
from masksearch.searchers.level_searcher import RankedUnits
from masksearch.searching.search_function import search
from masksearch.spaces import filter_space
from masksearch.testing.planted_problem import problem
from masksearch.utils.errors import InputError

SPACE = MaskSpace([("a", (10, 4), 10), ("b", (20, 4), 20), ("c", (10, 4), 10)])
MAKES = {
    "spdy": LayerCoefficients.spdy,
    "ziplm": LayerCoefficients.ziplm,
    "legr": LayerCoefficients.legr,
    "evopress": LevelSwitches,
    "fastnas": OneTolerance,
}


class ByWidth:
    """Scorer: minus the sum over layers of weight x share of pruned units; records the share of every proposal."""

    def __init__(self, weights):
        self.weights, self.shares = np.array(weights), []

    def score(self, proposals):
        self.shares += [proposal.share for proposal in proposals]
        return [Score(self.value(proposal.mask)) for proposal in proposals]

    def value(self, mask):
        return -float(self.weights @ (1 - np.array(list(mask.densities().values()))))


def saliency(space, seed=0):
    return torch.rand(space.n_units, generator=torch.Generator().manual_seed(seed)).double()


def first_mask(searcher, space, density, hold="units", **saliencies):
    searcher.start(Problem(space, density, Budget(50), 0, saliencies=saliencies, on_empty="keep_one", hold=hold))
    return searcher.ask()[0].mask


@pytest.mark.parametrize("density", [0.25, 0.5, 0.8])
def test_first_mask_of_ziplm_has_the_levels_of_lowest_relative_loss(density):
    values = saliency(SPACE)
    mask = first_mask(LayerCoefficients.ziplm(), SPACE, density, energy=values)
    assert mask.n_kept == SPACE.count(density)
    ranked = RankedUnits(Problem(SPACE, density, Budget(1), 0, saliencies={"energy": values}, on_empty="keep_one"), 10)
    losses = ranked.relative_losses()
    best = min(
        sum(loss[level] for loss, level in zip(losses, levels, strict=True))
        for levels in itertools.product(*(range(len(loss)) for loss in losses))
        if ranked.levels.numbers(np.array(levels)).sum() <= SPACE.count(density)
    )
    pruned = sum(
        float(values[layer.slice][~mask.bits[layer.slice]].sum() / values[layer.slice].sum()) for layer in SPACE.layers
    )
    assert pruned <= best + 1e-9  # lower where units between two levels fill the budget


def test_ziplm_prunes_a_layer_with_few_large_saliencies_before_an_even_layer():
    values = torch.ones(40).double()
    values[:3] = 1000.0
    kept = first_mask(LayerCoefficients.ziplm(), SPACE, 0.5, energy=values).kept_per_layer()
    assert kept["a"] < kept["c"]
    assert first_mask(LayerCoefficients.ziplm(), SPACE, 0.5, energy=values).bits[:3].all()


def test_first_mask_of_spdy_gives_equal_layers_equal_densities():
    space = MaskSpace([(name, (10, 4), 10) for name in "abcd"])
    mask = first_mask(LayerCoefficients.spdy(), space, 0.6, any=saliency(space))
    assert list(mask.kept_per_layer().values()) == [6] * 4


def test_first_mask_of_legr_is_the_global_ranking():
    values = saliency(SPACE)
    mask = first_mask(LayerCoefficients.legr(), SPACE, 0.4, norm=values)
    assert mask == SPACE.top_k(values, 0.4, on_empty="keep_one")


@pytest.mark.parametrize("name", ["spdy", "ziplm", "legr", "evopress"])
def test_searches_find_the_layer_that_matters_most(name):
    scorer = ByWidth([1.0, 0.1, 5.0])
    history = search(SPACE, MAKES[name](), scorer, 0.5, 300, saliencies={"l1": saliency(SPACE)}, on_empty="keep_one")
    assert history.best_mask.kept_per_layer()["c"] == 10
    assert scorer.value(history.best_mask) > scorer.value(SPACE.top_k(saliency(SPACE), 0.5, "layerwise")) + 1


def test_fastnas_gives_all_layers_the_same_tolerance():
    """Losses weight x pruned share: at a tolerance of .4, layers lose .4, .8 and .2 of their units."""
    scorer = ByWidth([1.0, 0.5, 2.0])
    density = (6 + 4 + 8) / 40
    history = search(SPACE, OneTolerance(), scorer, density, 100, saliencies={"l1": saliency(SPACE)})
    assert list(history.best_mask.kept_per_layer().values()) == [6, 4, 8]
    assert [trial.score.counts for trial in history] == [False] * (len(history) - 1) + [True]
    assert history.best.number == len(history) - 1


def test_fastnas_measures_as_many_levels_as_the_budget_allows():
    history = search(SPACE, OneTolerance(), ByWidth([1.0, 0.5, 2.0]), 0.45, 11, saliencies={"l1": saliency(SPACE)})
    assert len(history) == 11
    assert history.has_best
    with pytest.raises(InputError, match="at least 5"):
        search(SPACE, OneTolerance(), ByWidth([1, 1, 1]), 0.45, 4)


def test_fastnas_reaches_the_density_with_losses_that_are_not_monotone():
    class Odd(ByWidth):
        def value(self, mask):  # layer b loses most if a little of it is pruned
            share = 1 - mask.densities()["b"]
            return super().value(mask) - (1.0 if 0 < share < 0.3 else 0.0)

    history = search(SPACE, OneTolerance(), Odd([1.0, 0.5, 2.0]), 0.45, 100, saliencies={"l1": saliency(SPACE)})
    assert history.best_mask.n_kept == 18


def test_evopress_selects_children_on_growing_shares_of_the_examples():
    scorer = ByWidth([1.0, 0.1, 5.0])
    searcher = LevelSwitches(children=(8, 2, 1), shares=(0.1, 0.5, 1.0))
    history = search(SPACE, searcher, scorer, 0.5, 12 * 4, saliencies={"l1": saliency(SPACE)})
    assert set(scorer.shares) == {0.1, 0.5, 1.0}
    full = [trial.score.value for trial in history if trial.score.counts]
    assert history.best_score == max(full)
    assert searcher.metrics()["current"] == history.best_score
    assert scorer.shares[:12] == [1.0] + [0.1] * 8 + [0.5] * 2 + [1.0]


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("hold", ["macs", "params"])
def test_masks_use_the_budget_of_macs_or_parameters_and_never_exceed_it(name, hold):
    layers = [nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 24, 3, 2), nn.ReLU(), nn.Conv2d(24, 16, 3), nn.Flatten()]
    space = filter_space(nn.Sequential(*layers, nn.Linear(144, 3)), torch.zeros(1, 1, 14, 14))
    searcher = MAKES[name]()
    saliencies = {"l1": saliency(space)}
    searcher.start(Problem(space, 0.35, Budget(100), 0, saliencies=saliencies, on_empty="keep_one", hold=hold))
    scorer, seen = ByWidth([1.0, 2.0, 0.5]), []
    for _ in range(100):
        if not (proposals := searcher.ask(3)):
            break
        searcher.tell(proposals, scorer.score(proposals))
        seen += [proposal.mask for proposal in proposals if not proposal.probe]
    assert seen
    for mask in seen:
        kept = np.array(list(mask.kept_per_layer().values()))
        assert space.fits(kept, 0.35, hold)
        if name != "legr":  # the longest prefix of a ranking
            rooms = [layer.size > k for layer, k in zip(space.layers, kept, strict=True)]
            more = kept + np.eye(len(kept), dtype=int)
            assert not any(room and space.fits(row, 0.35, hold) for room, row in zip(rooms, more, strict=True))


@pytest.mark.parametrize("name", MAKES)
def test_layers_keep_the_units_of_the_highest_saliency(name):
    values = saliency(SPACE)
    searcher = MAKES[name]()
    searcher.start(replace(problem(space=SPACE, density=0.5, scorings=100), saliencies={"l1": values}))
    scorer = ByWidth([1.0, 0.1, 5.0])
    for _ in range(30):
        if not (proposals := searcher.ask()):
            break
        mask = proposals[0].mask
        for layer in SPACE.layers:
            bits, own = mask.bits[layer.slice], values[layer.slice]
            if bits.any() and not bits.all():
                assert own[bits].min() >= own[~bits].max()
        searcher.tell(proposals, scorer.score(proposals))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LayerCoefficients(allocation="none"), "allocation"),
        (lambda: LayerCoefficients(change=0.0), "change"),
        (lambda: LevelSwitches(shares=(0.5, 0.5, 0.5)), "shares"),
        (lambda: LevelSwitches(children=(1, 4), shares=(0.5, 1.0)), "children"),
        (lambda: OneTolerance(levels=1), "levels"),
    ],
)
def test_wrong_settings_of_allocators_raise_input_error(make, named):
    with pytest.raises(InputError, match=named):
        make()
