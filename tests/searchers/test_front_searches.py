"""Searches for a front of score and cost: exact densities, two directions, costs of the space, resuming."""

import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import optuna
import pytest
import torch
from torch import nn

from masksearch.analysis import pareto_front
from masksearch.core.problem_and_trials import Budget, Problem, Score
from masksearch.core.space import MaskSpace
from masksearch.cost import params
from masksearch.cost.timing import timing_of
from masksearch.pruning.physical import prune
from masksearch.scoring import LatencyShare
from masksearch.searchers import SEARCHERS, Annealing, OptunaSearch
from masksearch.searchers.optuna.parametrisations import RANGE, Bits, Blocks, FreeDensity, Layers, Mixture
from masksearch.searching.history_store import HistoryFile, read_rows
from masksearch.searching.search_function import search
from masksearch.spaces import filter_space
from masksearch.testing.planted_problem import Planted, drive
from masksearch.utils.errors import InputError

NETWORK = MaskSpace([("wide", (20, 30), 600), ("middle", (10, 20), 200), ("narrow", (5, 10), 50)])
ABLE = [name for name, make in SEARCHERS.items() if make().supports_costs]
every = pytest.mark.parametrize("name", ABLE)


@cache
def filters():
    """A small network, and the space of its filters."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10)]
    model = nn.Sequential(*layers).eval()
    return model, filter_space(model, torch.zeros(1, 1, 8, 8))


class Spread:
    """Scores masks higher for more units and more even layers; some masks score NaN."""

    def score(self, proposals):
        return [Score(self.value(proposal.mask)) for proposal in proposals]

    def value(self, mask):
        if mask.hash % 11 == 0:
            return math.nan
        densities = np.array(list(mask.densities().values()))
        return float(np.sqrt(densities).mean() - densities.std())


def run(name, **changes):
    options = {"density": 1.0, "budget": 30, "cost": "macs", "hold": "macs", **changes}
    return search(filters()[1], SEARCHERS[name](), Spread(), **options)


def ranked(seed=0):
    return torch.randn(NETWORK.n_units, generator=torch.Generator().manual_seed(seed))


PARAMETRISATIONS = {
    "layers": lambda given: Layers(given, ranked(), 3.0),
    "layers, drawn": lambda given: Layers(given, None, 3.0),
    "mixture, densities": lambda given: Mixture(given, True, 3.0),
    "blocks": lambda given: Blocks(given, ranked(), 16),
    "bits": Bits,
}


@pytest.mark.parametrize("make", PARAMETRISATIONS.values(), ids=PARAMETRISATIONS)
@pytest.mark.parametrize("density", [1.0, 0.25])
def test_free_density_is_exact_and_no_layer_is_empty(make, density):
    saliencies = {"first": ranked(1), "second": ranked(2)}
    given = Problem(NETWORK, density, Budget(9), 0, saliencies=saliencies, on_empty="allow", cost="units")
    made = FreeDensity(given, make)
    rng = np.random.default_rng(0)
    points = [made.low, made.high, *made.starts, *(rng.uniform(made.low, made.high) for _ in range(10))]
    for number, point in enumerate(points):
        mask = made.mask(point, number)
        assert mask.n_kept == round(math.exp(point[0]) * NETWORK.n_units)
        assert not mask.empty_layers()
    kept = [made.mask(point, 0).n_kept for point in made.starts]
    assert kept[:2] == [NETWORK.count(density), NETWORK.count(density / RANGE)]  # both ends of the front
    assert set(kept[2:]) == {NETWORK.count(density / part) for part in (2, 4, 8)}


def test_mask_of_free_density_in_macs_is_the_longest_ranking_that_fits():
    _, space = filters()
    given = Problem(space, 1.0, Budget(9), 0, hold="macs", cost="macs")
    made = FreeDensity(given, lambda at: Layers(at, None, 3.0))
    assert math.exp(made.low[0]) >= 1 / RANGE
    point = np.array([math.log(0.3), 0.5, -0.5])
    assert made.mask(point, 4) == space.top_k(made.saliency(point, 4), 0.3, on_empty="keep_one", hold="macs")
    for number in range(20):  # also at the least density there is a mask
        assert space.share(made.mask(made.low, number), "macs") <= math.exp(made.low[0])


@every
def test_front_holds_the_undominated_trials_with_costs_counted_by_the_space(name):
    _, space = filters()
    scorings = {"optuna_gp": 13}.get(name, 30)
    history = run(name, budget=scorings)
    assert len(history) == scorings
    trials = [trial for trial in history if not math.isnan(trial.score.value)]
    points = [(trial.score.value, trial.score.cost) for trial in trials]
    front = {points[place] for place in pareto_front(*zip(*points, strict=True))}
    assert {(trial.score.value, trial.score.cost) for trial in history.front} == front
    assert len(front) > 2
    for trial in history.front:
        assert trial.score.cost == space.kept_macs(trial.mask) / space.kept_macs(space.full())
        assert trial.score.value == Spread().value(trial.mask)
        assert not trial.mask.empty_layers()
    assert len({trial.mask_hash for trial in history}) > 10


def test_cost_can_be_params_units_or_a_function():
    _, space = filters()
    for trial in run("optuna_random", cost="params", hold="units").front:
        assert trial.score.cost == space.kept_params(trial.mask) / space.kept_params(space.full())
    for trial in run("optuna_random", cost=lambda mask: mask.densities()["0"]).front:
        assert trial.score.cost == trial.mask.densities()["0"]
    weights = search(NETWORK, SEARCHERS["optuna_random"](), Spread(), 0.5, 20, cost="units")
    assert max(trial.score.cost for trial in weights) == 0.5
    assert all(trial.score.cost == trial.mask.density for trial in weights.front)


@pytest.mark.parametrize("name", [name for name in ABLE if name != "optuna_gp"])
@pytest.mark.parametrize("batch", [1, 3])
def test_resumed_search_ends_with_the_front_of_an_uninterrupted_search(name, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)
    whole = run(name, folder=tmp_path / "whole", batch=batch, seed=3)

    def stop(trial, history, searcher):
        if trial.number == 19:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(name, folder=tmp_path / "parts", batch=batch, seed=3, callbacks=[stop])
    parts = run(name, folder=tmp_path / "parts", batch=batch, seed=3)
    assert [(t.mask_hash, t.score.cost) for t in parts] == [(t.mask_hash, t.score.cost) for t in whole]
    assert [(t.number, t.mask) for t in parts.front] == [(t.number, t.mask) for t in whole.front]
    again = run(name, folder=tmp_path / "parts", batch=batch, seed=3)  # no scorings are left
    assert [(t.number, t.mask) for t in again.front] == [(t.number, t.mask) for t in whole.front]
    assert [row.score.cost for row in read_rows(tmp_path / "parts")] == [t.score.cost for t in whole]


def test_fronts_of_tpe_and_nsga2_cover_more_than_the_front_of_random_points():
    """At equal scorings, the fronts of TPE and NSGA-II cover more than that of random points."""
    space = MaskSpace([(f"layer{i}", (10, 10), 100) for i in range(6)])
    worth = np.array([5.0, 0.0, 3.0, 0.0, 0.0, 1.0])

    class Weighted:
        def score(self, proposals):
            return [Score(float(worth @ np.sqrt(list(p.mask.densities().values())))) for p in proposals]

    def covered(name, budget):
        history = search(space, SEARCHERS[name](), Weighted(), 1.0, budget, cost="units")
        corners = [(t.score.cost, t.score.value) for t in history.front]
        ends = [cost for cost, _ in corners[1:]] + [1.0]
        return sum((end - cost) * value for (cost, value), end in zip(corners, ends, strict=True))

    for name, budget in (("optuna_tpe", 120), ("optuna_nsga2", 500)):  # a generation of NSGA-II has 50 trials
        assert covered(name, budget) > 1.02 * covered("optuna_random", budget)


def test_stored_study_of_a_front_search_has_two_directions_and_both_values(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    searcher = OptunaSearch("nsga2", storage=url)
    searcher.start(Problem(NETWORK, 0.5, Budget(9), 0, cost="units"))
    made = drive(searcher, Planted(0.1, space=NETWORK), 9)  # a scorer without costs
    searcher.finish()
    study = optuna.load_study(study_name=searcher.study_name, storage=url)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [trial.values[1] for trial in study.trials] == [proposal.mask.density for proposal in made]
    other = OptunaSearch("nsga2")
    other.start(Problem(NETWORK, 0.5, Budget(9), 0))
    assert other.study_name != searcher.study_name


def test_front_search_scores_a_start_of_any_density_first():
    start = NETWORK.random(0.1, generator=torch.Generator().manual_seed(0))
    history = search(NETWORK, OptunaSearch("tpe"), Spread(), 0.5, 5, start=start, cost="units")
    assert history.first == start
    with pytest.raises(InputError, match=r"start: the mask keeps 85 units, and density 0\.05 needs 42"):
        search(NETWORK, OptunaSearch("tpe"), Spread(), 0.05, 5, start=start, cost="units")


class TestLatency:
    def test_latency_share_is_pruned_latency_over_dense_latency(self, monkeypatch):
        """With a clock of a millisecond per parameter."""

        def timed(runs, device, seconds):
            assert [run().shape for run in runs.values()] == [(64, 10), (64, 10)]
            return {name: timing_of([1e-3 * params(run.args[0])]) for name, run in runs.items()}

        monkeypatch.setattr("masksearch.scoring.latency.time_runs", timed)
        model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(1152, 10))
        space = filter_space(model, torch.zeros(1, 8, 16, 16))
        latency = LatencyShare(model, space, torch.zeros(1, 8, 16, 16))
        mask = space.random(0.3, on_empty="keep_one")
        assert latency(mask) == pytest.approx(params(prune(model, space, mask)) / params(model))
        assert latency(space.full()) == 1.0
        empty = space.top_k(torch.arange(space.n_units).float(), 2 / space.n_units, on_empty="allow")
        assert empty.empty_layers()
        assert latency(empty) == 1.0
        assert model.training

    def test_resumed_search_reuses_measured_latencies(self, tmp_path):
        model, space = filters()
        latency = LatencyShare(model, space, torch.zeros(1, 1, 8, 8), batch_size=2, seconds=0.0)
        history = run("optuna_tpe", cost=latency, budget=8, folder=tmp_path)
        again = run("optuna_tpe", cost=latency, budget=8, folder=tmp_path)
        assert [trial.score.cost for trial in again] == [trial.score.cost for trial in history]
        assert all(trial.score.cost > 0 for trial in history)
        assert history.seconds > 0

    def test_latency_share_with_batch_size_0_raises_input_error(self):
        model, space = filters()
        with pytest.raises(InputError, match="batch_size: 0"):
            LatencyShare(model, space, torch.zeros(1, 1, 8, 8), batch_size=0)


REFUSED = {
    "this Annealing considers only scores; optuna_random, optuna_tpe": (Annealing, {}),
    "this OptunaSearch considers only scores": (partial(OptunaSearch, "cmaes"), {}),
    "unknown cost 'mac': did you mean 'macs'": (OptunaSearch, {"cost": "mac"}),
    "density: one per layer; where masks have a cost": (
        OptunaSearch,
        {"density": {layer.name: 0.5 for layer in NETWORK.layers}, "cost": "units"},
    ),
    "cost: 'macs'; a weight space counts only 'units'": (OptunaSearch, {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_search_without_a_possible_front_raises_input_error(message, tmp_path):
    make, changes = REFUSED[message]
    options = {"density": 0.5, "budget": 9, "cost": "macs", "folder": tmp_path / "run", **changes}
    with pytest.raises(InputError, match=message) as caught:
        search(NETWORK, make(), Spread(), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_problem_prices_each_score_only_once():
    priced_masks = []
    given = Problem(NETWORK, 0.5, Budget(9), 0, cost=lambda mask: priced_masks.append(mask) or 0.25)
    mask = NETWORK.random(0.1, generator=torch.Generator().manual_seed(0))
    priced = given.priced(mask, Score(1.0))
    assert given.priced(mask, priced) is priced
    assert priced.cost == 0.25
    assert priced_masks == [mask]
    assert replace(given, cost=None).priced(mask, Score(1.0)).cost is None
