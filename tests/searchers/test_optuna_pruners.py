"""Optuna's pruners stop trials as they would in Optuna's own loop, and stopped trials are never best."""

import math
from functools import partial

import optuna
import pytest
from small_network import NETWORK

from masksearch.loop import search
from masksearch.rungs import RUNGS
from masksearch.searchers.optuna_searcher import PRUNERS, OptunaSearch
from masksearch.searchers.optuna_study import _new_pruner
from masksearch.testing.planted import Planted, problem
from masksearch.trial import Score

stopping = [name for name in PRUNERS if name != "none"]


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
        assert [(trial.mask_hash, trial.score.value, trial.score.exact) for trial in judged] == [
            (trial.mask_hash, trial.score.value, trial.score.exact) for trial in without
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
