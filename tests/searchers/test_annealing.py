"""Annealing: temperatures, radii, probes, chains, and searches of the layers' densities alone."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from masksearch.core.problem_and_trials import Budget, Problem, Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import Annealing, RandomSearch
from masksearch.spaces import filter_space
from masksearch.testing.planted_problem import SPACE, Planted, drive, problem
from masksearch.utils.errors import InputError


class Decoupled:
    """Scores a mask by a sum over kept units, so that the optimum keeps the units of highest worth."""

    def __init__(self, space, seed=0):
        self.worth = torch.randn(space.n_units, generator=torch.Generator().manual_seed(seed)).double()

    def score(self, proposals):
        return [Score(float(self.worth[proposal.mask.bits].sum())) for proposal in proposals]


def test_annealing_finds_a_planted_optimum_and_random_search_does_not():
    space = MaskSpace([("a", (5, 8), 40), ("b", (4, 10), 40)])
    ends = {}
    for name, searcher in {"annealing": Annealing(), "random": RandomSearch()}.items():
        ends[name] = []
        for seed in range(3):
            scorer = Decoupled(space, seed)
            optimum = scorer.score([Proposal.of(space.top_k(scorer.worth, 0.25, on_empty="allow"))])[0].value
            searcher.start(problem(seed, 0.25, scorings=3000, space=space))
            best = -math.inf
            for _ in range(3000):
                proposals = searcher.ask()
                scores = scorer.score(proposals)
                searcher.tell(proposals, scores)
                best = max(best, scores[0].value)
            assert best <= optimum + 1e-9
            ends[name].append(optimum - best)
    assert max(ends["annealing"]) < 0.3  # of about 25: the optimum, or one swap of near equals away
    assert min(ends["random"]) > 8


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("accept", [0.05, 0.3])
def test_annealing_accepts_about_the_set_share_of_worsening_moves(scale, accept):
    """Losses are drawn from an exponential distribution: its share above a temperature of s p / (1 - p) is p."""
    searcher = Annealing(accept_start=accept, accept_end=accept)
    searcher.start(problem(scorings=6000))
    rng = np.random.default_rng(0)
    current, accepted = 0.0, []
    searcher.tell(searcher.ask(), [Score(current)])
    for _ in range(5999):
        proposals = searcher.ask()
        value = current - scale * rng.exponential()
        before = searcher.incumbent
        searcher.tell(proposals, [Score(value)])
        moved = searcher.incumbent is not before
        if proposals[0].threshold is not None:
            accepted.append(moved)
            assert moved == (value >= proposals[0].threshold)
        if moved:
            current = value
    assert 0.6 * accept < np.mean(accepted) < 1.5 * accept


@pytest.mark.parametrize("searcher", [Annealing(), Annealing(within=0.5), Annealing(densities=True)])
def test_moves_start_at_the_incumbent(searcher):
    searcher.start(problem())
    for _ in range(60):
        incumbent = searcher.incumbent
        assert drive(searcher, Planted(), 1)[0].base is incumbent


def test_schedules_fall_geometrically_with_the_budget():
    searcher = Annealing(0.5, 0.05, accept_start=0.5, accept_end=0.05, probe_first=1, probe_every=1000)
    searcher.start(problem(density=0.5, scorings=101))
    seen = []
    for number in range(101):
        seen.append((searcher.progress, searcher.radius, searcher.temperature))
        searcher.tell(searcher.ask(), [Score(-0.5 * number)])  # the only probe loses 0.5
    assert [round(progress * 101) for progress, _, _ in seen] == list(range(101))
    for progress, radius, temperature in seen:
        assert radius == max(1, round(30 * 0.5 * 0.1**progress))
        accept = 0.5 * 0.1**progress
        expected = 0.5 * accept / (1 - accept) if progress > 1.5 / 101 else 0.0
        assert temperature == pytest.approx(expected)
    assert searcher.progress == 1.0


def test_budget_of_seconds_drives_the_schedules():
    searcher = Annealing()
    searcher.start(Problem(SPACE, 0.3, Budget(seconds=10), 0, on_empty="allow"))
    for _ in range(5):
        searcher.tell(searcher.ask(), [Score(0.0, seconds=1.0)])
    assert searcher.progress == pytest.approx(0.5)


def test_probes_follow_probe_first_and_probe_every():
    searcher = Annealing(probe_first=5, probe_every=10)
    searcher.start(problem(scorings=100))
    thresholds = [proposal.threshold for proposal in drive(searcher, Planted(), 41)]
    assert [i for i, threshold in enumerate(thresholds) if threshold is None] == [0, 1, 2, 3, 4, 5, 10, 20, 30, 40]


def test_losses_in_a_batch_are_measured_from_the_incumbent_at_the_start_of_the_batch():
    searcher = Annealing()
    searcher.start(problem(scorings=100))
    searcher.tell(searcher.ask(), [Score(0.0)])
    proposals = searcher.ask(3)
    searcher.tell(proposals, [Score(10.0), Score(-1.0), Score(11.0)])
    assert searcher.incumbent == proposals[0].mask  # the others start from a past mask
    accept = searcher.accept_start * (searcher.accept_end / searcher.accept_start) ** searcher.progress
    assert searcher.temperature == pytest.approx(1.0 * accept / (1 - accept))  # a loss of 1, not of 11


def test_within_sets_the_share_of_moves_that_keep_layer_densities():
    for within, least, most in (
        (0.0, 0.3, 0.6),
        (0.8, 0.82, 0.95),
        (1.0, 1.0, 1.0),
    ):  # some moves anywhere keep them, too
        searcher = Annealing(within=within, radius_end=0.01)
        searcher.start(problem())
        searcher.tell(searcher.ask(), [Score(0.0)])
        kept = [p.mask.kept_per_layer() == p.base.kept_per_layer() for p in searcher.ask(400)]
        assert least <= np.mean(kept) <= most


class TestDensities:
    def given(self, *names, **more):
        saliencies = {n: torch.randn(60, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(names)}
        return replace(problem(**more), saliencies=saliencies)

    def test_search_of_densities_keeps_the_top_units_of_every_layer(self):
        given = self.given("snip", "grasp")
        searcher = Annealing(densities=True, accept_start=0.5)
        searcher.start(given)
        assert searcher.incumbent == SPACE.top_k(given.saliencies["snip"], 0.3)
        seen = set()
        for proposal in drive(searcher, Planted(), 150):
            kept = proposal.mask.kept_per_layer()
            seen.add(kept["second"])
            own = {layer.name: kept[layer.name] / layer.size for layer in SPACE.layers}
            assert proposal.mask == SPACE.top_k(given.saliencies["snip"], own, on_empty="allow")
        assert len(seen) > 12  # of 19 possible numbers

    def test_search_of_densities_without_saliency_draws_its_ranking_once(self):
        searcher = Annealing(densities=True, accept_start=0.5)
        searcher.start(problem())
        by_density = {}
        for proposal in drive(searcher, Planted(), 150):
            same = by_density.setdefault(proposal.mask.kept_per_layer()["first"], proposal.mask)
            assert proposal.mask == same

    def test_search_of_densities_begins_at_the_start_despite_a_saliency(self):
        start = SPACE.random(0.3, generator=torch.Generator().manual_seed(5))
        searcher = Annealing(densities=True)
        searcher.start(self.given("snip", start=start))
        assert searcher.incumbent == start
        for proposal in drive(searcher, Planted(), 50):
            units, first = proposal.mask.bits & ~start.bits, start.bits & ~proposal.mask.bits
            assert not (
                SPACE.layer_of(units.nonzero().flatten().numpy()) == SPACE.layer_of(first.nonzero().flatten().numpy())
            ).any()  # what one layer gains, another has lost

    def test_search_of_densities_finds_the_best_density(self):
        """The score is minus the distance of the first layer from 6 units; there is no saliency."""
        searcher = Annealing(densities=True)
        searcher.start(problem(scorings=120))
        best = -math.inf
        for _ in range(120):
            proposals = searcher.ask()
            value = -abs(proposals[0].mask.kept_per_layer()["first"] - 6.0)
            searcher.tell(proposals, [Score(value)])
            best = max(best, value)
        assert best == 0

    def test_moves_of_densities_use_up_the_budget_of_macs_or_params(self):
        """Units of the layers have different costs: a move that keeps their number would lose MACs."""
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3))
        space = filter_space(network, torch.zeros(1, 1, 20, 20), include=["0", "2"])
        for hold in ("macs", "params"):
            searcher = Annealing(densities=True, accept_start=0.9)
            searcher.start(Problem(space, 0.5, Budget(200), 0, hold=hold))
            masks = [proposal.mask for proposal in drive(searcher, Planted(space=space), 200)]
            assert len({mask.n_kept for mask in masks}) > 1
            for mask in masks[1:]:
                kept = np.array(list(mask.kept_per_layer().values()))
                assert space.fits(kept, 0.5, hold)
                for layer, one_more in zip(space.layers, kept + np.eye(2, dtype=int), strict=True):
                    assert mask.kept_per_layer()[layer.name] == layer.size or not space.fits(one_more, 0.5, hold)

    def test_search_of_densities_with_given_layer_densities_raises_input_error(self):
        with pytest.raises(InputError, match="none to search"):
            Annealing(densities=True).start(problem(density={"first": 0.25, "second": 0.5}))


class TestChains:
    def test_batch_holds_a_move_of_every_chain(self):
        searcher = Annealing(chains=3)
        searcher.start(problem())
        scorer = Planted()
        starts = searcher.ask(3)
        assert len({proposal.mask.hash for proposal in starts}) == 3
        searcher.tell(starts, scorer.score(starts))
        assert {proposal.base for proposal in searcher.ask(3)} == {proposal.mask for proposal in starts}
        assert [sum(p.base == start.mask for p in searcher.ask(6)) for start in starts] == [2, 2, 2]

    def test_chains_take_turns_of_100_moves_without_batches(self):
        searcher = Annealing(chains=2)
        searcher.start(problem(scorings=10_000))
        drive(searcher, Planted(), 1, 2)
        chains = []
        for _ in range(400):
            masks = [chain.current for chain in searcher.state.chains]
            chains += [masks.index(proposal.base) for proposal in drive(searcher, Planted(), 1)]
        changes = [i for i in range(1, 400) if chains[i] != chains[i - 1]]
        assert [b - a for a, b in itertools.pairwise(changes)] == [100] * (len(changes) - 1)
        assert len(changes) == 4

    def test_worst_chain_restarts_from_the_best_chain_when_chains_meet(self):
        searcher = Annealing(chains=3)
        searcher.start(problem(scorings=200))
        searcher.tell(searcher.ask(3), [Score(1.0), Score(3.0), Score(2.0)])
        before = [chain.current for chain in searcher.state.chains]
        for _ in range(2):
            searcher.tell(searcher.ask(3), [Score(-100.0)] * 3)
        assert [
            chain.current for chain in searcher.state.chains
        ] == before  # chains have not met after 9 of 200 scorings
        searcher.tell(searcher.ask(3), [Score(-100.0)] * 3)
        assert [chain.current for chain in searcher.state.chains] == [before[1], before[1], before[2]]
        assert [chain.value for chain in searcher.state.chains] == [3.0, 3.0, 2.0]


def test_chains_meet_under_a_budget_of_seconds():
    searcher = Annealing(chains=2)
    searcher.start(Problem(SPACE, 0.3, Budget(seconds=100), 0, on_empty="allow"))
    searcher.tell(searcher.ask(2), [Score(1.0, seconds=1.0), Score(2.0, seconds=1.0)])
    assert searcher.incumbent != searcher.state.chains[1].current
    searcher.tell(searcher.ask(1), [Score(-100.0, seconds=4.0)])
    assert searcher.incumbent == searcher.state.chains[1].current


BAD = [
    {"radius_start": 0.0},
    {"radius_end": 1.5},
    {"accept_start": 1.0},
    {"accept_end": -0.1},
    {"accept_end": math.nan},
    {"within": -0.1},
    {"within": math.nan},
    {"densities": True, "within": 0.5},
    {"chains": 0},
    {"probe_first": 0},
    {"probe_every": 0},
    {"scope": "globl"},
]


@pytest.mark.parametrize("settings", BAD, ids=map(str, BAD))
def test_wrong_settings_of_annealing_raise_input_error(settings):
    with pytest.raises(InputError, match="annealing") as caught:
        Annealing(**settings)
    assert "\n" not in str(caught.value)
