"""Optuna's samplers: parametrisations give exact masks, trials are the whole state, storages get a faithful copy."""

import json
import logging
import math
import subprocess
import sys
import warnings
from functools import partial
from itertools import combinations

import numpy as np
import optuna
import pytest
import torch

from masksearch.errors import InputError
from masksearch.files import load_tree, save_tree
from masksearch.loop import search
from masksearch.rungs import RUNGS
from masksearch.searchers.optuna_cmaes import Cmaes
from masksearch.searchers.optuna_parametrisations import Bits, Blocks, Enumeration, Layers, Mixture
from masksearch.searchers.optuna_searcher import PRUNERS, SAMPLERS, OptunaSearch
from masksearch.searchers.optuna_study import _new_pruner
from masksearch.space import MaskSpace
from masksearch.testing import searchers as contract
from masksearch.testing.searchers import SPACE, Planted, drive, path_of, problem
from masksearch.trial import Budget, Problem, Proposal, Score

NETWORK = MaskSpace([("wide", (20, 30), 600), ("middle", (10, 20), 200), ("narrow", (5, 10), 50)])
TINY = MaskSpace([("a", (2, 3), 6), ("b", (2, 2), 4)])


stopping = [name for name in PRUNERS if name != "none"]


def ranked(seed=0, space=NETWORK):
    return torch.randn(space.n_units, generator=torch.Generator().manual_seed(seed))


def on(space=NETWORK, density=0.1, **settings):
    return Problem(space, density, **{"budget": Budget(200), "seed": 0, "on_empty": "keep_one", **settings})


SALIENCIES = {"first": ranked(1), "second": ranked(2)}
PARAMETRISATIONS = {
    "layers": lambda given: Layers(given, ranked(), 3.0),
    "layers, drawn": lambda given: Layers(given, None, 3.0),
    "mixture": lambda given: Mixture(given, False, 3.0),
    "mixture, densities": lambda given: Mixture(given, True, 3.0),
    "blocks": lambda given: Blocks(given, ranked(), 16),
    "blocks, random": lambda given: Blocks(given, None, 16),
    "bits": Bits,
}
every = pytest.mark.parametrize("make", PARAMETRISATIONS.values(), ids=PARAMETRISATIONS)


class TestParametrisations:
    @every
    @pytest.mark.parametrize("density", [0.005, 0.1, 0.995])
    def test_any_point_gives_a_mask_of_the_exact_density_and_no_empty_layer(self, make, density):
        made = make(on(density=density, saliencies=SALIENCIES))
        rng = np.random.default_rng(0)
        points = [made.low, made.high, *made.starts, *(rng.uniform(made.low, made.high) for _ in range(10))]
        for number, point in enumerate(points):
            mask = made.mask(point, number)
            assert mask.n_kept == NETWORK.count(density)
            assert not mask.empty_layers()

    @every
    def test_points_matter_and_starts_lie_within_the_bounds(self, make):
        made = make(on(saliencies=SALIENCIES))
        rng = np.random.default_rng(0)
        assert len({made.mask(rng.uniform(made.low, made.high), 0).hash for _ in range(10)}) == 10
        for start in made.starts:
            assert (start >= made.low).all()
            assert (start <= made.high).all()

    @pytest.mark.parametrize("saliency", [ranked(), None])
    def test_layers_densities_are_log_odds_apart(self, saliency):
        made = Layers(on(density=0.3), saliency, 3.0)
        densities = np.array(list(made.mask(np.array([0.0, 1.0, -1.0]), 5).densities().values()))
        odds = np.log(densities / (1 - densities))
        assert odds - odds[0] == pytest.approx([0, 1, -1], abs=0.25)  # of 50 units, one is about 0.1

    def test_layers_begin_with_uniform_erk_and_the_saliencys_and_the_starts_own_densities(self):
        saliency = ranked() + torch.cat([torch.zeros(600), torch.ones(250)])
        start = NETWORK.top_k(ranked(7) + torch.cat([torch.ones(600), torch.zeros(250)]), 0.1)
        made = Layers(on(start=start), saliency, 3.0)
        masks = [made.mask(point, 0) for point in made.starts]
        kept = [list(mask.kept_per_layer().values()) for mask in masks]
        assert kept[0] == NETWORK.quotas(0.1, "layerwise")
        assert kept[1] == NETWORK.quotas(0.1, "erk")
        assert masks[2] == NETWORK.top_k(saliency, 0.1)
        assert kept[3] == list(start.kept_per_layer().values())

    def test_within_a_layer_the_saliency_ranks(self):
        saliency = ranked()
        mask = Layers(on(), saliency, 3.0).mask(np.array([1.0, -2.0, 0.3]), 0)
        for layer in NETWORK.layers:
            bits, values = mask.bits[layer.slice], saliency[layer.slice]
            assert values[bits].min() > values[~bits].max()

    def test_without_a_saliency_units_are_drawn_by_number_and_densities_are_not(self):
        made = Layers(on(), None, 3.0)
        point = np.array([1.0, -2.0, 0.3])
        one, other, again = made.mask(point, 1), made.mask(point, 2), made.mask(point, 1)
        assert one == again != other
        assert one.kept_per_layer() == other.kept_per_layer()

    @pytest.mark.parametrize("densities", [False, True])
    def test_a_mixture_begins_with_every_saliency_alone_as_the_criterion_has_it(self, densities):
        scaled = {"first": ranked(1) * 1e6, "second": ranked(2) * 1e-6}
        made = Mixture(on(saliencies=scaled), densities, 3.0)
        for point, saliency in zip(made.starts, scaled.values(), strict=False):
            assert made.mask(point, 0) == NETWORK.top_k(saliency, 0.1)

    def test_a_mixture_with_densities_goes_on_with_every_saliency_as_the_scopes_have_it(self):
        made = Mixture(on(saliencies=SALIENCIES), True, 20.0)
        scoped = [NETWORK.top_k(s, 0.1, scope=scope) for scope in ("erk", "layerwise") for s in SALIENCIES.values()]
        assert [made.mask(point, 0) for point in made.starts[2:6]] == scoped

    def test_blocks_are_kept_whole_but_for_one_and_each_lies_in_one_layer(self):
        made = Blocks(on(on_empty="allow"), ranked(), 16)
        point = np.random.default_rng(0).random(len(made.names))
        bits = made.mask(point, 0).bits
        shares = [bits[made._block_of == block].double().mean().item() for block in range(len(point))]
        assert sum(0 < share < 1 for share in shares) <= 1
        full = [value for value, share in zip(point, shares, strict=True) if share == 1]
        assert min(full) > max(value for value, share in zip(point, shares, strict=True) if share == 0)
        for block in range(len(point)):
            assert len(set(NETWORK.layer_of((made._block_of == block).nonzero().flatten().numpy()))) == 1

    def test_bits_keep_the_units_of_highest_value_and_begin_with_saliencies_and_the_start(self):
        start = NETWORK.random(0.1, generator=torch.Generator().manual_seed(0), on_empty="keep_one")
        made = Bits(on(saliencies=SALIENCIES, start=start))
        point = np.random.default_rng(0).random(850)
        assert made.mask(point, 0) == NETWORK.top_k(torch.from_numpy(point), 0.1, on_empty="keep_one")
        assert made.mask(made.starts[0], 0) == NETWORK.top_k(SALIENCIES["first"], 0.1, on_empty="keep_one")
        assert made.mask(made.starts[2], 0) == start

    def test_costs_are_held_where_the_space_knows_them(self):
        asked = []

        class Costly(MaskSpace):
            def top_k(self, saliency, density, scope="global", generator=None, on_empty="raise", hold="units"):
                asked.append(hold)
                return super().top_k(saliency, density, scope, generator, on_empty)

        space = Costly([("wide", (20, 30), 600), ("middle", (10, 20), 200), ("narrow", (5, 10), 50)])
        for make in PARAMETRISATIONS.values():
            made = make(on(space, saliencies=SALIENCIES, hold="macs"))
            asked.clear()
            made.mask(made.low, 0)
            assert asked == ["macs"]

    def test_densities_per_layer_are_kept_by_what_does_not_search_them(self):
        density = {"wide": 0.05, "middle": 0.2, "narrow": 0.4}
        given = on(density=density, saliencies=SALIENCIES)
        for made in (Mixture(given, False, 3.0), Blocks(given, None, 16), Bits(given)):
            assert list(made.mask(made.high, 0).kept_per_layer().values()) == NETWORK.quotas(density)
        for make in (lambda: Layers(given, None, 3.0), lambda: Mixture(given, True, 3.0)):
            with pytest.raises(InputError, match="densities per layer are given"):
                make()


CHEAP = {sampler: lambda sampler=sampler: OptunaSearch(sampler) for sampler in ("random", "cmaes", "nsga2", "grid")}
SLOW = {
    **{sampler: lambda sampler=sampler: OptunaSearch(sampler) for sampler in ("gp", "tpe", "qmc", "nsga3")},
    "tpe, median": lambda: OptunaSearch("tpe", pruner="median"),
    "nsga2, hyperband": lambda: OptunaSearch("nsga2", pruner="hyperband"),
    "tpe, blocks": lambda: OptunaSearch("tpe", "blocks", blocks=4),
    "cmaes, bits": lambda: OptunaSearch("cmaes", "bits"),
}


class TestContract:
    @pytest.mark.parametrize("make", CHEAP.values(), ids=CHEAP)
    def test_the_contract(self, make, tmp_path):
        contract.check_density(make, batch=5)
        contract.check_batches(make)
        contract.check_arguments_unmodified(make)
        contract.check_same_seed_same_path(make)
        contract.check_state_is_a_snapshot(make)
        contract.check_nan(make)
        contract.check_recovers_from_an_unscorable_start(make)
        contract.check_warm_start(make)
        contract.check_ends(make, 1.0)
        contract.check_empty_layers(make, "raise")

    @pytest.mark.parametrize("make", {**CHEAP, **SLOW}.values(), ids={**CHEAP, **SLOW})
    @pytest.mark.parametrize("batch", [1, 3])
    def test_a_state_from_a_file_continues_the_same_path(self, make, batch, tmp_path):
        whole, scorer = make(), Planted(nan_every=5)
        whole.start(problem(scorings=100))
        numpy_state, torch_state = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        for _ in range(3):
            drive(whole, scorer, 8 // batch, batch)
            save_tree(tmp_path / "state", whole.state_dict())
            taken_up, again = make(), Planted(nan_every=5)
            taken_up.start(problem(scorings=100))
            taken_up.load_state_dict(load_tree(tmp_path / "state"))
            again.scored = list(scorer.scored)
            expected = path_of(drive(whole, scorer, 4, batch))
            assert path_of(drive(taken_up, again, 4, batch)) == expected != []
            assert taken_up.metrics() == whole.metrics()
        assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_state)

    def test_scores_that_are_no_values_teach_nothing(self):
        def path(odd):
            searcher, planted = OptunaSearch("tpe", "bits"), Planted()
            searcher.start(problem())
            made = []
            for number in range(30):
                proposals = searcher.ask()
                searcher.tell(proposals, [odd] if number % 3 == 1 else planted.score(proposals))
                made += path_of(proposals)
            return made

        bad = [Score(math.nan), Score(math.inf), Score(-math.inf), Score(1e6, exact=False), Score(-5.0, exact=False)]
        paths = [path(odd) for odd in bad]
        assert all(other == paths[0] for other in paths)
        assert path(Score(1e6)) != paths[0]

    @pytest.mark.parametrize(
        "sampler", [name for name in SAMPLERS if name not in ("grid", "brute_force", "random", "qmc")]
    )
    def test_samplers_learn(self, sampler):
        """Given one good density per layer, the last proposals are closer to it than the first, random ones."""
        goal = np.array([1.5, -1.0, 0.5])
        searcher = OptunaSearch(sampler)
        scorings = {"gp": 26, "nsga2": 200, "nsga3": 200}.get(sampler, 120)
        searcher.start(on(budget=Budget(scorings)))
        wanted = np.array(list(Layers(on(), None, 3.0).mask(goal, 0).densities().values()))
        losses = []
        for _ in range(scorings):
            [proposal] = searcher.ask()
            densities = np.array(list(proposal.mask.densities().values()))
            losses.append(float(np.abs(densities - wanted).sum()))
            searcher.tell([proposal], [Score(-losses[-1])])
        assert np.median(losses[-15:]) < 0.6 * np.median(losses[2:10])


class TestEnds:
    @pytest.mark.parametrize("batch", [1, 4])
    def test_brute_force_proposes_every_allowed_mask_once(self, batch):
        searcher = OptunaSearch.brute_force()
        searcher.start(on(TINY, 0.3))
        masks = [proposal.mask for proposal in drive(searcher, Planted(0.3, space=TINY), 200, batch)]
        kept = [frozenset(mask.bits.nonzero().flatten().tolist()) for mask in masks]
        whole = {frozenset(c) for c in combinations(range(10), 3) if min(c) < 6 and max(c) >= 6}
        assert len(kept) == len(set(kept))
        assert set(kept) == whole
        assert searcher.ask() == []

    def test_brute_force_within_densities_per_layer(self):
        made = Enumeration(on(TINY, {"a": 0.5, "b": 0.25}))
        assert made.n_points == math.comb(6, 3) * 4

    def test_a_grid_is_as_fine_as_the_budget_allows(self):
        for scorings, points in ((200, 125), (215, 125), (216, 216), (8, 8)):
            searcher = OptunaSearch.grid()
            searcher.start(on(budget=Budget(scorings)))
            assert len(drive(searcher, Planted(0.1, space=NETWORK), 300)) == points
            values = searcher.state_dict()["study"]["values"]
            assert len({tuple(row) for row in values.tolist()}) == points
            assert {-3.0, 3.0} <= set(values[:, 0].tolist())


class TestCmaes:
    def test_told_again_it_stands_where_it_stood(self):
        for n in (1, 3, 120):
            one, other = Cmaes(n, 5, 2), Cmaes(n, 5, 2)
            for number in range(60):
                point = np.full(n, 0.3) if number < 2 else one.ask(number)
                score = None if number % 7 == 3 else -float(((point - 0.4) ** 2).sum())
                one.tell(point, score)
                other.tell(point, score)  # was never asked
            assert np.array_equal(one.ask(60), other.ask(60))
            assert one.step_size == other.step_size

    def test_it_starts_at_the_best_it_was_given_and_restarts_when_nothing_changes(self):
        search = Cmaes(3, 0, 2)
        search.tell(np.array([0.2, 0.2, 0.2]), 1.0)
        search.tell(np.array([0.8, 0.8, 0.8]), 0.0)
        points, populations = [], set()
        for number in range(2, 1200):
            populations.add(search._optimizer.population_size if search._optimizer else 0)
            points.append(search.ask(number))
            search.tell(points[-1], 0.0)
        assert np.mean(points[:7], axis=0) == pytest.approx([0.2] * 3, abs=0.2)
        assert len(populations - {0}) > 1


class TestStorage:
    def drive(self, url, steps, score=lambda value: value, state=None):
        searcher = OptunaSearch("tpe", storage=url)
        searcher.start(problem())
        if state is not None:
            searcher.load_state_dict(state)
        states = []
        for _ in range(steps):
            proposals = searcher.ask()
            values = [score(value.value) for value in Planted().score(proposals)]
            searcher.tell(proposals, [Score(value) for value in values])
            states.append(searcher.state_dict())
        return searcher, states

    def stored(self, url, searcher):
        study = optuna.load_study(study_name=searcher.study_name, storage=url)
        return [(trial.state.name, trial.values, trial.params) for trial in study.trials]

    def own(self, searcher):
        return [(trial.state.name, trial.values, trial.params) for trial in searcher._study.trials]

    def test_a_storage_holds_a_copy_of_the_trials_also_after_a_kill(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        whole, states = self.drive(url, 8)
        assert self.stored(url, whole) == self.own(whole)
        assert optuna.load_study(study_name=whole.study_name, storage=url).direction.name == "MAXIMIZE"
        taken_up, _ = self.drive(url, 2, state=states[4])  # trials 5 to 7 are there, and unknown to the state
        assert self.stored(url, whole) == self.own(whole)
        assert self.own(taken_up) == self.own(whole)[:7]

    def test_a_copy_that_turns_out_different_is_written_anew(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        _, states = self.drive(url, 6)
        other, _ = self.drive(url, 1, score=lambda value: math.nan, state=states[2])
        assert self.stored(url, other) == self.own(other)
        assert self.own(other)[-1][0] == "FAIL"

    def test_two_searches_share_a_storage(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        one = OptunaSearch("random", storage=url)
        other = OptunaSearch("random", spread=2.0, storage=url)
        for searcher in (one, other):
            searcher.start(problem())
            drive(searcher, Planted(), 2)
        assert one.study_name != other.study_name
        assert self.stored(url, one) == self.own(one)
        assert self.stored(url, other) == self.own(other)

    def test_where_a_copy_goes_decides_nothing(self, tmp_path):
        with_copy, without = OptunaSearch("tpe", storage=f"sqlite:///{tmp_path}/studies.db"), OptunaSearch("tpe")
        assert repr(with_copy) == repr(without)

    def test_a_bad_url_is_an_error_of_one_line(self):
        searcher = OptunaSearch("random", storage="nonsense")
        searcher.start(problem())
        with pytest.raises(InputError, match="storage: 'nonsense'") as caught:
            drive(searcher, Planted(), 1)
        assert "\n" not in str(caught.value)


class TestPruners:
    def search(self, pruner, budget=40, sampler="tpe", **settings):
        scorer = Planted(0.1, space=NETWORK)
        searcher = OptunaSearch(sampler, pruner=pruner, **settings)
        history = search(NETWORK, searcher, scorer, 0.1, budget, 3, on_empty="keep_one")
        return history, searcher, scorer

    @pytest.mark.parametrize("pruner", stopping)
    def test_stopped_trials_are_never_best_and_have_no_score(self, pruner):
        history, searcher, scorer = self.search(pruner)
        stopped = [trial for trial in history if not trial.score.exact]
        assert 0 < len(stopped) < 40
        assert all(math.isnan(trial.score.value) and not trial.is_best and trial.mask is None for trial in stopped)
        assert history.best.score.value == max(trial.score.value for trial in history if trial.score.exact)
        assert history.best.score.value == scorer.value(history.best.mask)
        assert [trial.state.name == "PRUNED" for trial in searcher._study.trials] == [
            not trial.score.exact for trial in history
        ]

    @pytest.mark.parametrize("pruner", stopping)
    def test_it_stops_where_optunas_own_loop_does(self, pruner):
        _, searcher, scorer = self.search(pruner)

        def rung_notes(trial):
            return {key: note for key, note in trial.system_attrs.items() if key.startswith("completed_rung")}

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        own = optuna.create_study(study_name="search", direction="maximize", pruner=_new_pruner(pruner))
        for trial, mask in zip(searcher._study.trials, scorer.scored, strict=True):
            told = own.ask()
            for rung in RUNGS:
                told.report(scorer.so_far(mask, rung), rung)
                if told.should_prune():
                    own.tell(told, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                own.tell(told, scorer.value(mask))
            mine = own.trials[-1]
            assert (mine.state, mine.value, mine.intermediate_values, rung_notes(mine)) == (
                *(trial.state, trial.value, trial.intermediate_values),
                rung_notes(trial),
            )

    @pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsga2"])
    def test_one_that_never_stops_changes_nothing(self, sampler, monkeypatch):
        without, _, _ = self.search("none", sampler=sampler)
        monkeypatch.setattr("masksearch.searchers.optuna_study._new_pruner", lambda name: optuna.pruners.NopPruner())
        judged, searcher, _ = self.search("median", sampler=sampler)
        assert [(trial.mask_hash, trial.score) for trial in judged] == [
            (trial.mask_hash, trial.score) for trial in without
        ]
        assert all(len(trial.intermediate_values) == len(RUNGS) for trial in searcher._study.trials)

    @pytest.mark.parametrize("pruner", stopping)
    def test_a_search_taken_up_again_stops_the_same_trials(self, pruner, tmp_path):
        class Stop(Exception):  # noqa: N818
            pass

        def stop_at(number, trial, history, searcher):
            if trial.number == number:
                raise Stop

        def run(folder, callbacks=()):
            searcher = OptunaSearch(pruner=pruner, storage=f"sqlite:///{folder}.db")
            scorer = Planted(0.1, space=NETWORK)
            arguments = {"on_empty": "keep_one", "folder": folder, "callbacks": callbacks, "batch": 2}
            return searcher, search(NETWORK, searcher, scorer, 0.1, 40, 3, **arguments)

        whole, history = run(tmp_path / "whole")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("masksearch.loop._CHECKPOINT_EVERY", -1.0)
            for at in (7, 18, 29):
                with pytest.raises(Stop):
                    run(tmp_path / "parts", [partial(stop_at, at)])
        parts, again = run(tmp_path / "parts")
        assert [(trial.mask_hash, trial.score.exact) for trial in again] == [
            (trial.mask_hash, trial.score.exact) for trial in history
        ]
        trials = [
            [(trial.state, trial.value, trial.intermediate_values, trial.system_attrs) for trial in trials]
            for trials in (
                whole._study.trials,
                parts._study.trials,
                optuna.load_study(study_name=parts.study_name, storage=f"sqlite:///{tmp_path}/parts.db").trials,
            )
        ]
        states = [state.name for state, *_ in trials[0]]
        assert {"COMPLETE", "PRUNED"} == set(states)
        for other in trials[1:]:
            assert [row[:3] for row in other] == [row[:3] for row in trials[0]]

    def test_a_stopped_trial_without_scores_so_far_has_failed(self):
        searcher = OptunaSearch(pruner="median")
        searcher.start(problem())
        searcher.tell(searcher.ask(), [Score(math.nan, exact=False)])
        assert [trial.state.name for trial in searcher._study.trials] == ["FAIL"]


def test_optuna_is_quiet_and_its_logging_as_the_user_left_it(capfd, caplog, tmp_path):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        for sampler in ("random", "tpe", "cmaes", "qmc", "nsga2", "nsga3", "grid", "gp"):
            searcher = OptunaSearch(sampler, storage=f"sqlite:///{tmp_path}/studies.db")
            searcher.start(problem(scorings=30))
            drive(searcher, Planted(nan_every=4), 14 if sampler == "gp" else 5)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_importing_masksearch_does_not_import_optuna():
    script = (
        "import json, sys, masksearch.searchers.optuna_searcher as s\n"
        "print(json.dumps([name for name in ('optuna', 'cmaes', 'sqlalchemy') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


BAD = {
    "did you mean 'tpe'": {"sampler": "tpee"},
    "did you mean 'layers'": {"parametrisation": "layer"},
    "brute_force goes through masks": {"sampler": "brute_force"},
    "did you mean 'median'": {"pruner": "medium"},
    "gp learns from finished trials alone": {"sampler": "gp", "pruner": "median"},
    "spread": {"spread": 0.0},
    "blocks": {"blocks": 1},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items(), ids=BAD)
def test_bad_settings_are_errors_of_one_line(message, settings):
    with pytest.raises(InputError, match=message) as caught:
        OptunaSearch(**settings)
    assert "\n" not in str(caught.value)


ONE_LAYER = MaskSpace([("only", (5, 8), 40)])
LARGE = MaskSpace([("a", (50, 50), 2500), ("b", (50, 50), 2500)])
REFUSED = {
    "pass saliencies=": (OptunaSearch("tpe", "mixture"), on()),
    "the only saliency": (OptunaSearch("tpe", "mixture"), on(saliencies={"first": ranked()})),
    "one layer": (OptunaSearch("tpe"), on(ONE_LAYER)),
    "5000 parameters .bits.; at most 1000, where a proposal takes": (OptunaSearch("tpe", "bits"), on(LARGE)),
    "5000 parameters .bits.; at most 20": (OptunaSearch.brute_force(), on(LARGE)),
    "masks have this density": (OptunaSearch.brute_force(), on(MaskSpace([("only", (4, 5), 20)]), 0.5)),
    "hold: 'params'": (OptunaSearch.brute_force(), on(TINY, 0.3, hold="params")),
    "2 values each are 8 points; at most 7": (OptunaSearch.grid(), on(budget=Budget(7))),
    "unknown saliency": (OptunaSearch("tpe", saliency="third"), on(saliencies=SALIENCIES)),
    "one number per unit": (OptunaSearch("tpe"), on(saliencies={"short": torch.ones(5)})),
}


@pytest.mark.parametrize(("message", "case"), REFUSED.items(), ids=REFUSED)
def test_problems_that_do_not_fit_are_refused_in_one_line(message, case):
    searcher, given = case
    with pytest.raises(InputError, match=message) as caught:
        searcher.start(given)
    assert "\n" not in str(caught.value)


def test_a_mixture_is_never_below_its_criteria_in_search_score():
    searcher = OptunaSearch("tpe", "mixture", densities=True)
    searcher.start(on(saliencies=SALIENCIES))
    scorer = Planted(0.1, space=NETWORK)
    alone = [scorer.value(NETWORK.top_k(saliency, 0.1)) for saliency in SALIENCIES.values()]
    found = [scorer.score([proposal])[0].value for proposal in drive(searcher, scorer, 4)]
    assert max(found) >= max(alone)
    assert found[:2] == alone


def test_proposals_come_from_nowhere():
    searcher = OptunaSearch("random")
    searcher.start(problem())
    [proposal] = searcher.ask()
    assert isinstance(proposal, Proposal)
    assert proposal.threshold is None
    assert proposal.mask.space is SPACE
