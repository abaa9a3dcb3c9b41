"""Optuna's samplers: the contract, learning from scores, resuming from trials, and studies in storages."""

import json
import logging
import math
import subprocess
import sys
import warnings
from contextlib import nullcontext

import numpy as np
import optuna
import pytest
import torch
from small_network import NETWORK, SALIENCIES, on, ranked

from masksearch.core.problem_and_trials import Budget, Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import RandomSearch
from masksearch.searchers.optuna.cmaes_optimizer import Cmaes
from masksearch.searchers.optuna.optuna_search import SAMPLERS, OptunaSearch
from masksearch.searchers.optuna.parametrisations import Layers
from masksearch.searching.search_function import search
from masksearch.testing import check_searchers as contract
from masksearch.testing.planted_problem import SPACE, Planted, drive, path_of, problem
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, save_tree

CHEAP = {sampler: lambda sampler=sampler: OptunaSearch(sampler) for sampler in ("random", "cmaes", "nsga2")}
SLOW = {
    **{sampler: lambda sampler=sampler: OptunaSearch(sampler) for sampler in ("gp", "tpe", "qmc", "nsga3")},
    "tpe, blocks": lambda: OptunaSearch("tpe", "blocks", blocks=4),
    "cmaes, bits": lambda: OptunaSearch("cmaes", "bits"),
}


class TestContract:
    @pytest.mark.parametrize("make", CHEAP.values(), ids=CHEAP)
    def test_samplers_keep_the_contract(self, make, tmp_path):
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
    def test_sampler_restored_from_a_file_continues_the_same_path(self, make, batch, tmp_path):
        whole, scorer = make(), Planted(nan_every=5)
        whole.start(problem(scorings=100))
        numpy_state, torch_state = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        for _ in range(3):
            drive(whole, scorer, 8 // batch, batch)
            save_tree(tmp_path / "state", whole.state_dict())
            resumed, again = make(), Planted(nan_every=5)
            resumed.start(problem(scorings=100))
            resumed.load_state_dict(load_tree(tmp_path / "state"))
            again.scored = list(scorer.scored)
            expected = path_of(drive(whole, scorer, 4, batch))
            assert path_of(drive(resumed, again, 4, batch)) == expected != []
            assert resumed.metrics() == whole.metrics()
        assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_state)

    def test_state_of_an_older_version_continues_the_same_path(self):
        whole, resumed = OptunaSearch("tpe"), OptunaSearch("tpe")
        whole.start(problem())
        drive(whole, Planted(), 12)
        older = {name: whole.state_dict()["state"][name] for name in ("study", "start_is_due")}
        resumed.start(problem())
        resumed.load_state_dict(older)
        assert path_of(drive(resumed, Planted(), 5)) == path_of(drive(whole, Planted(), 5))

    def test_state_of_another_searcher_raises_input_error(self):
        other, searcher = RandomSearch(), OptunaSearch("random")
        other.start(problem())
        searcher.start(problem())
        with pytest.raises(InputError, match="can't be resumed; start it again in another folder") as caught:
            searcher.load_state_dict(other.state_dict())
        assert "\n" not in str(caught.value)

    def test_samplers_ignore_nan_infinite_and_inexact_scores(self):
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

    @pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("random", "qmc")])
    def test_last_proposals_are_closer_to_the_optimum_than_the_first_proposals(self, sampler):
        """With good densities of layers as goal, the last proposals are closer to it than the first, random ones."""
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


class TestCmaes:
    def test_cmaes_after_replayed_scores_proposes_the_same_points(self):
        for n in (1, 3, 120):
            one, other = Cmaes(n, 5, 2), Cmaes(n, 5, 2)
            for number in range(60):
                point = np.full(n, 0.3) if number < 2 else one.ask(number)
                score = None if number % 7 == 3 else -float(((point - 0.4) ** 2).sum())
                one.tell(point, score)
                other.tell(point, score)  # without ask
            assert np.array_equal(one.ask(60), other.ask(60))
            assert one.step_size == other.step_size

    def test_cmaes_starts_at_the_best_given_point_and_restarts_on_stagnation(self):
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
        searcher.finish()
        return searcher, states

    def stored(self, url, searcher, number=""):
        study = optuna.load_study(study_name=searcher.study_name + number, storage=url)
        return [(trial.state.name, trial.values, trial.params) for trial in study.trials]

    def trials_of(self, searcher):
        return [(trial.state.name, trial.values, trial.params) for trial in searcher.state.study.trials]

    def test_study_is_stored_when_the_search_ends_or_is_interrupted(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"

        def stop(trial, history, searcher):
            assert not (tmp_path / "studies.db").exists()
            if trial.number == 5:
                raise KeyboardInterrupt

        for folder, callbacks, trials in (("whole", [], 8), ("interrupted", [stop], 6)):
            (tmp_path / "studies.db").unlink(missing_ok=True)
            searcher = OptunaSearch("random", storage=url, label=folder)
            arguments = {"on_empty": "allow", "callbacks": callbacks}
            with pytest.raises(KeyboardInterrupt) if callbacks else nullcontext():
                search(SPACE, searcher, Planted(), 0.3, 8, **arguments)
            assert self.stored(url, searcher) == self.trials_of(searcher)
            assert len(self.trials_of(searcher)) == trials

    def test_stored_study_names_its_values_score_and_cost(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        for given, names in ((on(), ["score"]), (on(density=1.0, cost="units"), ["score", "cost"])):
            searcher = OptunaSearch("random", storage=url, label=names[-1])
            searcher.start(given)
            drive(searcher, Planted(0.1, space=NETWORK), 2)
            searcher.finish()
            study = optuna.load_study(study_name=searcher.study_name, storage=url)
            assert study.metric_names == names
            assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"][: len(names)]

    def test_resumed_search_completes_its_stored_study(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        whole, states = self.drive(url, 8)
        assert self.stored(url, whole) == self.trials_of(whole)
        resumed, _ = self.drive(url, 2, state=states[4])  # trials 5 to 7 are in the storage, and not in the state
        assert self.stored(url, whole) == self.trials_of(whole)
        assert self.trials_of(resumed) == self.trials_of(whole)[:7]
        longer, _ = self.drive(url, 5, state=states[4])
        assert self.stored(url, whole) == self.trials_of(longer)
        assert len(self.trials_of(longer)) == 10

    def test_larger_budget_adds_trials_to_the_same_study(self, tmp_path):
        searcher = OptunaSearch("random", storage=f"sqlite:///{tmp_path}/studies.db")
        for budget in (5, 12):
            search(SPACE, searcher, Planted(), 0.3, budget, folder=tmp_path / "search")
        [study] = optuna.get_all_study_summaries(searcher.storage)
        assert study.n_trials == 12

    def test_trials_with_nan_scores_are_stored_as_failed(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        searcher, _ = self.drive(url, 3, score=lambda value: math.nan)
        assert [state for state, *_ in self.stored(url, searcher)] == ["FAIL"] * 3

    def test_proposal_without_a_score_is_not_stored(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        searcher, _ = self.drive(url, 3)
        searcher.ask()
        searcher.finish()
        assert len(self.stored(url, searcher)) == 3

    def test_diverging_trials_go_to_a_numbered_study_of_the_same_name(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        first, states = self.drive(url, 6)
        for number, score in ((2, math.nan), (3, 7.0)):
            other, others = self.drive(url, 3, score=lambda value, score=score: score, state=states[2])
            assert self.stored(url, other, f" ({number})") == self.trials_of(other)
            assert self.stored(url, first) == self.trials_of(first)
        again, _ = self.drive(url, 1, score=lambda value: 7.0, state=others[1])
        assert self.stored(url, again, " (3)")[: len(self.trials_of(again))] == self.trials_of(again)
        assert len(optuna.get_all_study_names(url)) == 3

    def test_label_gives_equal_searchers_different_study_names(self):
        names = []
        for label in ("", "accuracy", "loss"):
            searcher = OptunaSearch("tpe", label=label)
            searcher.start(problem())
            names.append(searcher.study_name)
        assert [name.rpartition(" ")[0] for name in names] == ["tpe layers", "accuracy", "loss"]

    def test_two_searches_store_studies_in_the_same_storage(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        one = OptunaSearch("random", storage=url)
        other = OptunaSearch("random", spread=2.0, storage=url)
        for searcher in (one, other):
            searcher.start(problem())
            drive(searcher, Planted(), 2)
            searcher.finish()
        assert one.study_name != other.study_name
        assert self.stored(url, one) == self.trials_of(one)
        assert self.stored(url, other) == self.trials_of(other)

    def test_repr_of_a_searcher_does_not_depend_on_the_storage(self, tmp_path):
        stored, without = OptunaSearch("tpe", storage=f"sqlite:///{tmp_path}/studies.db"), OptunaSearch("tpe")
        assert repr(stored) == repr(without)

    def test_unwritable_storage_warns_and_the_search_returns_the_same_result(self, tmp_path):
        arguments = {"on_empty": "allow"}
        plain = search(SPACE, OptunaSearch("random"), Planted(), 0.3, 5, **arguments)
        searcher = OptunaSearch("random", storage=f"sqlite:///{tmp_path}/no/folder.db")
        with pytest.warns(UserWarning, match=r"study 'random layers .*' can't be written there \(") as given:
            history = search(SPACE, searcher, Planted(), 0.3, 5, **arguments)
        assert len(given) == 1
        assert history.best.mask == plain.best.mask

    def test_invalid_storage_url_raises_input_error(self):
        searcher = OptunaSearch("random", storage="nonsense")
        with pytest.raises(InputError, match="storage: 'nonsense'") as caught:
            searcher.start(problem())
        assert "\n" not in str(caught.value)


def test_optuna_prints_nothing_and_its_log_level_does_not_change(capfd, caplog, tmp_path):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        for sampler in ("random", "tpe", "cmaes", "qmc", "nsga2", "nsga3", "gp"):
            searcher = OptunaSearch(sampler, storage=f"sqlite:///{tmp_path}/studies.db")
            searcher.start(problem(scorings=30))
            drive(searcher, Planted(nan_every=4), 14 if sampler == "gp" else 5)
            searcher.finish()
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_importing_masksearch_does_not_import_optuna():
    script = (
        "import json, sys, masksearch.searchers.optuna.optuna_search as s\n"
        "print(json.dumps([name for name in ('optuna', 'cmaes', 'sqlalchemy') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


BAD = {
    "did you mean 'tpe'": {"sampler": "tpee"},
    "did you mean 'layers'": {"parametrisation": "layer"},
    "spread": {"spread": 0.0},
    "blocks": {"blocks": 1},
}


@pytest.mark.parametrize(("message", "settings"), BAD.items(), ids=BAD)
def test_wrong_settings_of_optuna_search_raise_input_error(message, settings):
    with pytest.raises(InputError, match=message) as caught:
        OptunaSearch(**settings)
    assert "\n" not in str(caught.value)


ONE_LAYER = MaskSpace([("only", (5, 8), 40)])
LARGE = MaskSpace([("a", (50, 50), 2500), ("b", (50, 50), 2500)])
REFUSED = {
    "pass saliencies=": (OptunaSearch("tpe", "mixture"), on()),
    "the only saliency": (OptunaSearch("tpe", "mixture"), on(saliencies={"first": ranked()})),
    "only layer has the given density": (OptunaSearch("tpe"), on(ONE_LAYER)),
    "5000 parameters .bits.; at most 1000 are allowed, with which a proposal takes": (
        OptunaSearch("tpe", "bits"),
        on(LARGE),
    ),
    "unknown saliency": (OptunaSearch("tpe", saliency="third"), on(saliencies=SALIENCIES)),
}


@pytest.mark.parametrize(("message", "case"), REFUSED.items(), ids=REFUSED)
def test_unsuitable_problems_of_optuna_search_raise_input_error(message, case):
    searcher, given = case
    with pytest.raises(InputError, match=message) as caught:
        searcher.start(given)
    assert "\n" not in str(caught.value)


def test_mixture_proposes_the_masks_of_its_saliencies_first():
    searcher = OptunaSearch("tpe", "mixture", densities=True)
    searcher.start(on(saliencies=SALIENCIES))
    scorer = Planted(0.1, space=NETWORK)
    alone = [scorer.value(NETWORK.top_k(saliency, 0.1)) for saliency in SALIENCIES.values()]
    found = [scorer.score([proposal])[0].value for proposal in drive(searcher, scorer, 4)]
    assert max(found) >= max(alone)
    assert found[:2] == alone


def test_proposals_of_optuna_search_have_no_threshold():
    searcher = OptunaSearch("random")
    searcher.start(problem())
    [proposal] = searcher.ask()
    assert isinstance(proposal, Proposal)
    assert proposal.threshold is None
    assert proposal.mask.space is SPACE
