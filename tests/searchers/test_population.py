"""EDA (estimation of distribution) and evolution: behaviour beyond the contract of searchers."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Problem, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import EDA, SEARCHERS, Evolution, RandomSearch
from masksearch.spaces import filter_space
from masksearch.testing import check_searchers as contract
from masksearch.testing.planted_problem import SPACE, Planted, drive, path_of, problem
from masksearch.utils.errors import InputError

MAKES = {
    "eda": EDA,
    "eda, small generations": lambda: EDA(generation=4, elites=2, rate=1.0),
    "eda, erk": lambda: EDA(generation=10, elites=3, scope="erk"),
    "evolution": Evolution,
    "evolution, small": lambda: Evolution(population=5),
    "evolution, crossed by layer": lambda: Evolution(population=8, crossover=1.0, by_layer=1.0),
    "evolution, mutated within layers": lambda: Evolution(population=4, crossover=0.0, within=1.0, radius_most=1.0),
}
every = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
both = pytest.mark.parametrize("make", [lambda: EDA(generation=10, elites=3), lambda: Evolution(population=6)])


def test_eda_and_evolution_are_in_the_catalogue():
    assert SEARCHERS["eda"] is EDA
    assert SEARCHERS["evolution"] is Evolution


@every
def test_eda_and_evolution_keep_the_contract_with_other_settings(make, tmp_path):
    for density in (2 / 60, 0.9, 1.0):
        contract.check_density(make, density, batch=3)
    contract.check_state_round_trip(make, tmp_path, batch=3)
    contract.check_nan(make)
    contract.check_bounds(make)
    contract.check_batches(make)


@every
@pytest.mark.parametrize("on_empty", ["keep_one", "raise"])
def test_eda_and_evolution_empty_no_layer_without_a_start(make, on_empty):
    space = MaskSpace([("wide", (1, 60), 60), *((f"narrow{i}", (1, 3), 3) for i in range(4))])
    searcher = make()
    searcher.start(problem(density=10 / 72, on_empty=on_empty, space=space))
    for proposal in drive(searcher, Planted(10 / 72, space=space), 150, 3):
        assert not proposal.mask.empty_layers()
        assert proposal.mask.n_kept == 10


@pytest.fixture(scope="module")
def filters():
    net = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 14, 3), nn.ReLU(), nn.Conv2d(14, 6, 3))
    return filter_space(net, torch.randn(1, 1, 9, 9))


@both
@pytest.mark.parametrize("hold", ["params", "macs"])
def test_eda_and_evolution_keep_the_budget_of_params_or_macs(make, hold, filters):
    searcher = make()
    searcher.start(Problem(filters, 0.4, Budget(200), 0, on_empty="keep_one", hold=hold))
    proposals = drive(searcher, Planted(0.5, space=filters), 200)
    assert len({proposal.mask for proposal in proposals}) > 20
    for proposal in proposals:
        kept = np.array(list(proposal.mask.kept_per_layer().values()))
        assert kept.all()
        assert filters.fits(kept, 0.4, hold)
        assert len(proposal.dropped) == len(proposal.regrown)
        assert proposal.base.moved(proposal.move) == proposal.mask


@both
@pytest.mark.parametrize("batch", [1, 4])
def test_scores_below_the_threshold_do_not_change_the_search(make, batch):
    """A search with a scorer that stops at thresholds equals a search with a scorer that does not."""

    class Stopping(Planted):
        def _score(self, proposal):
            value = self.value(proposal.mask)
            if proposal.threshold is not None and value < proposal.threshold:
                self.stopped = getattr(self, "stopped", 0) + 1
                return Score(proposal.threshold - 1e-9, exact=False)
            return Score(value)

    exact, stopping = make(), make()
    exact.start(problem())
    stopping.start(problem())
    scorer = Stopping()
    assert path_of(drive(exact, Planted(), 80, batch)) == path_of(drive(stopping, scorer, 80, batch))
    assert scorer.stopped > 10


@both
def test_eda_and_evolution_find_a_planted_mask_and_random_search_does_not(make):
    def best(searcher):
        scorer = Planted()
        searcher.start(problem(scorings=1500))
        return max(scorer.value(proposal.mask) for proposal in drive(searcher, scorer, 1500))

    assert best(make()) == 1.0
    assert best(RandomSearch()) < 0.8


BAD = [
    (EDA, {"elites": 0}),
    (EDA, {"generation": 5, "elites": 6}),
    (EDA, {"rate": 0.0}),
    (EDA, {"rate": 1.5}),
    (EDA, {"margin": 0.0}),
    (EDA, {"trust": math.nan}),
    (EDA, {"scope": "globl"}),
    (Evolution, {"population": 1}),
    (Evolution, {"crossover": 1.1}),
    (Evolution, {"by_layer": -0.1}),
    (Evolution, {"within": math.nan}),
    (Evolution, {"radius_most": 0.0}),
    (Evolution, {"scope": "globl"}),
]


@pytest.mark.parametrize(("kind", "settings"), BAD)
def test_wrong_settings_of_eda_and_evolution_raise_input_error(kind, settings):
    with pytest.raises(InputError, match=kind.__name__.lower()) as caught:
        kind(**settings)
    assert "\n" not in str(caught.value)


class TestEDA:
    def test_eda_keeps_units_with_the_given_probabilities(self):
        """Pareto sampling's shares are nearly exact; those of Gumbel-top-k on the same logits are not."""
        probabilities = torch.linspace(0.02, 0.98, 60, dtype=torch.float64)
        searcher = EDA(generation=4000)
        searcher.start(problem(density=0.5))
        searcher._set(probabilities)
        drawn = sum(proposal.mask.bits.double() for proposal in searcher.ask(4000)) / 4000
        error = (drawn - probabilities).abs().max()
        assert error < 0.035  # 4 standard deviations of a share of 4000 draws
        generator = torch.Generator().manual_seed(0)
        noise = -(-torch.rand(4000, 60, dtype=torch.float64, generator=generator).log()).log()
        ranked = (probabilities.logit() + noise).argsort(descending=True)[:, :30]
        gumbel = torch.zeros(4000, 60, dtype=torch.float64).scatter_(1, ranked, 1.0).mean(0)
        assert (gumbel - probabilities).abs().max() > 2 * error

    def test_probabilities_of_eda_move_by_the_rate_towards_the_elites(self):
        searcher = EDA(generation=10, elites=3, rate=0.25, margin=0.5)
        searcher.start(problem())
        assert torch.allclose(searcher.state.probabilities, torch.tensor(0.3, dtype=torch.float64))
        scorer = Planted()
        masks = [proposal.mask for proposal in drive(searcher, scorer, 10)]
        elites = sorted(masks, key=scorer.value, reverse=True)[:3]
        shares = sum(mask.bits.double() for mask in elites) / 3
        assert torch.allclose(searcher.state.probabilities, 0.75 * 0.3 + 0.25 * shares)
        assert searcher.metrics()["generation"] == 1
        assert searcher.state.probabilities.sum() == pytest.approx(18)

    def test_generation_of_nan_scores_leaves_probabilities_unchanged(self):
        searcher = EDA(generation=10, elites=3, rate=1.0)
        searcher.start(problem())
        before = searcher.state.probabilities.clone()
        drive(searcher, Planted(nan_every=1), 10)
        assert torch.equal(searcher.state.probabilities, before)
        assert searcher.metrics()["generation"] == 1

    def test_probabilities_of_eda_stay_within_the_margin(self):
        searcher = EDA(generation=4, elites=1, rate=1.0, margin=0.3)
        searcher.start(problem())
        entropies = []
        for _ in range(30):
            entropies.append(searcher.metrics()["entropy"])
            drive(searcher, Planted(), 4)
        assert searcher.state.probabilities.min() == pytest.approx(0.3 / 60)
        assert searcher.state.probabilities.max() == pytest.approx(1 - 0.3 / 60)
        assert entropies[-1] < 0.2 * entropies[0]

    def test_learning_rate_of_eda_is_higher_for_short_budgets(self):
        rates = []
        for budget in (Budget(100), Budget(10_000), Budget(100_000), Budget(seconds=1.0)):
            searcher = EDA()
            searcher.start(replace(problem(), budget=budget))
            rates.append(searcher._rate)
        assert rates == [0.5, 40 * 50 / 10_000, 40 * 50 / 100_000, 0.1]

    def test_eda_proposes_the_start_first_and_trust_sets_the_overlap_with_the_start(self):
        start = SPACE.random(0.3, generator=torch.Generator().manual_seed(5))
        shared = []
        for trust in (0.0, 0.5, 1.0):
            searcher = EDA(trust=trust)
            searcher.start(problem(start=start))
            first, *others = searcher.ask(50)
            assert first.mask == start
            shared.append(np.mean([int((p.mask.bits & start.bits).sum()) for p in others]) / 18)
        assert shared == pytest.approx([0.3, 0.65, 1.0], abs=0.05)

    def test_named_saliency_sets_the_first_probabilities_of_eda(self):
        saliency = torch.randn(60, generator=torch.Generator().manual_seed(1))
        given = replace(problem(), saliencies={"snip": saliency, "other": -saliency})
        searcher = EDA(saliency="snip", trust=1.0)
        searcher.start(given)
        probabilities = searcher.state.probabilities[saliency.argsort(descending=True)]
        assert (probabilities.diff() <= 0).all()
        assert probabilities[17] > 0.5 > probabilities[18]
        assert probabilities.sum() == pytest.approx(18, abs=0.5)
        searcher = EDA(saliency="snap")
        with pytest.raises(InputError, match="did you mean 'snip'"):
            searcher.start(given)

    def test_eda_keeps_given_layer_densities(self):
        searcher = EDA(generation=10, elites=3)
        searcher.start(problem(density={"first": 0.25, "second": 0.5}))
        for proposal in drive(searcher, Planted(), 40):
            assert proposal.mask.kept_per_layer() == {"first": 10, "second": 10}


def _evolved(searcher, steps=60, start=None, **saliencies):
    searcher.start(replace(problem(start=start), saliencies=saliencies))
    drive(searcher, Planted(), steps)
    return searcher


class TestEvolution:
    def test_evolution_begins_with_start_saliency_mask_and_swaps_of_both(self):
        start = SPACE.random(0.3, generator=torch.Generator().manual_seed(5))
        saliency = torch.randn(60, generator=torch.Generator().manual_seed(1))
        searcher = Evolution(population=12)
        searcher.start(replace(problem(start=start), saliencies={"snip": saliency}))
        first, second, *others = searcher.ask(12)
        given = [start, SPACE.top_k(saliency, 0.3)]
        assert [first.mask, second.mask] == given
        assert {proposal.base for proposal in others} == set(given)
        assert all(0 < len(proposal.move) <= 4 for proposal in others)  # at most 0.1 of the largest swap, of 18

    def test_child_replaces_the_worse_of_two_members_and_the_better_is_the_parent(self):
        searcher = _evolved(Evolution(population=6))
        scorer = Planted()
        for _ in range(100):
            members = {member.mask: member.value for member in searcher.state.members}
            proposals = searcher.ask(1)
            [proposal], [score] = proposals, scorer.score(proposals)
            assert members[proposal.base] >= proposal.threshold
            assert proposal.threshold in members.values()
            searcher.tell(proposals, [score])
            now = {member.mask: member.value for member in searcher.state.members}
            if proposal.mask in members or score.value < proposal.threshold:
                assert now == members
            else:
                [gone] = set(members) - set(now)
                assert members[gone] == proposal.threshold
                assert now[proposal.mask] == score.value

    @pytest.mark.parametrize("by_layer", [0.0, 1.0])
    def test_crossed_mask_agrees_with_the_parents_where_the_parents_agree(self, by_layer):
        searcher = _evolved(Evolution(population=6, by_layer=by_layer), 6)
        exchanged = []
        for _ in range(200):
            base, other = (searcher.state.members[i] for i in searcher.state.rng.choice(6, 2, replace=False))
            move = searcher._crossed(base, other)
            child = base.mask.moved(move)
            assert len(move.dropped) == len(move.regrown)
            assert not (base.bits[move.regrown] | ~base.bits[move.dropped]).any()
            assert (other.bits[move.regrown] & ~other.bits[move.dropped]).all()
            assert child not in (base.mask, other.mask) or not len(move)
            if len(move):
                exchanged.append(len(move) / base.mask.hamming(other.mask))
        assert np.mean(exchanged) == pytest.approx(0.45, abs=0.1)

    def test_crossover_by_layer_exchanges_whole_layers(self):
        searcher = _evolved(Evolution(population=6, by_layer=1.0), 6)
        single = 0
        for _ in range(50):
            move = searcher._crossed(*searcher.state.members[:2])
            single += len(set(SPACE.layer_of(np.concatenate([move.dropped, move.regrown])))) == 1
        assert single > 10

    def test_mutation_within_layers_keeps_layer_densities(self):
        searcher = _evolved(Evolution(population=6, within=1.0, radius_most=0.5), 6)
        for member in searcher.state.members:
            for _ in range(50):
                move = searcher._mutated(member)
                assert len(move.dropped) == len(move.regrown) > 0
                assert len(np.unique(move.dropped)) == len(move.dropped)
                assert len(np.unique(move.regrown)) == len(move.regrown)
                assert not (member.bits[move.regrown] | ~member.bits[move.dropped]).any()
                assert (member.kept_after(move) == member.kept).all()

    def test_radius_of_mutations_follows_a_power_law(self):
        searcher = _evolved(Evolution(radius_most=0.5), 1)
        counts = Counter(searcher._radius(200) for _ in range(20_000))
        assert set(counts) == set(range(1, 101))
        tail = 1 - 101**-0.5
        for radius in (1, 2, 10):
            share = (radius**-0.5 - (radius + 1) ** -0.5) / tail
            assert counts[radius] / 20_000 == pytest.approx(share, abs=0.012)

    @pytest.mark.parametrize(("kept", "wanted"), [(5, 3), (5, 5), (300, 2), (300, 299)])
    def test_evolution_draws_units_evenly_and_without_repeats(self, kept, wanted):
        space = MaskSpace([("only", (1, 400), 400)])
        units = np.random.default_rng(0).choice(400, kept, replace=False)
        bits = Mask.of_units(space, units).bits.numpy()
        searcher = _evolved(Evolution(), 1)
        counts = np.zeros(400)
        for _ in range(600):
            drawn = searcher._some(bits, True, kept, wanted)
            assert len(np.unique(drawn)) == wanted
            counts[drawn] += 1
        assert not counts[~bits].any()
        share = wanted / kept
        spread = math.sqrt(share * (1 - share) / 600)
        assert np.abs(counts[bits] / 600 - share).max() <= 5 * spread

    @pytest.mark.parametrize("by_layer", [0.0, 1.0])
    def test_crossover_keeps_given_layer_densities(self, by_layer):
        searcher = Evolution(population=6, by_layer=by_layer)
        searcher.start(problem(density={"first": 0.25, "second": 0.5}))
        drive(searcher, Planted(), 6)
        moves = [searcher._crossed(*searcher.state.members[:2]) for _ in range(50)]
        assert sum(len(move) > 0 for move in moves) > 10
        assert all((searcher.state.members[0].kept_after(move) == [10, 10]).all() for move in moves)
