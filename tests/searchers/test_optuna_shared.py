"""Optuna searches that share a stored study: each learns from the trials of all searches, and from no trial twice."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from small_network import NETWORK, SALIENCIES, on, ranked

from masksearch.core.problem_and_trials import Score
from masksearch.searchers.optuna.optuna_search import SAMPLERS, OptunaSearch
from masksearch.searching.search_function import search
from masksearch.testing.planted_problem import Planted, drive, path_of
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, save_tree

SHARED = {"storage": "sqlite:///studies.db", "study": "all"}
SHARING = [name for name, sampler in SAMPLERS.items() if not sampler.unshared]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


def joined(url, seed, sampler="tpe", given=None, **settings):
    searcher = OptunaSearch(sampler, storage=url, study="all", **settings)
    searcher.start(replace(given or on(saliencies={"first": ranked(1)}), seed=seed))
    return searcher


def planted(**settings):
    return Planted(0.1, space=NETWORK, **settings)


def trials_of(searcher):
    return [(trial.state.name, trial.values, trial.params) for trial in searcher.state.study.trials]


def stored(url):
    return [
        (trial.state.name, trial.values, trial.params)
        for trial in optuna.load_study(study_name="all", storage=url).trials
    ]


class TestSharing:
    @pytest.mark.parametrize("sampler", SHARING)
    def test_each_search_reads_the_other_searches_trials_before_its_next_proposal(self, sampler, url):
        one, other = joined(url, 1, sampler), joined(url, 2, sampler)
        scorer = planted(nan_every=4)
        for steps, batch in ((2, 1), (1, 3), (3, 1)):
            for searcher in (one, other):
                drive(searcher, scorer, steps, batch)
                assert sorted(map(repr, trials_of(searcher))) == sorted(map(repr, stored(url)))
        study = optuna.load_study(study_name="all", storage=url)
        assert Counter(trial.user_attrs["seed"] for trial in study.trials) == {1: 8, 2: 8}
        assert {trial.state.name for trial in study.trials} == {"COMPLETE", "FAIL"}
        one.ask()
        assert len(stored(url)) == 16, "a proposal that waits for its score is in the study"

    @pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp"])
    def test_tpe_and_gp_learn_from_trials_of_other_searches(self, sampler, tmp_path):
        paths = []
        for sign in (1, -1):
            url = f"sqlite:///{tmp_path}/{sign}.db"
            one, other = joined(url, 1, sampler), joined(url, 2, sampler)
            for number in range(9):  # fewer trials than TPE and GP begin to learn with, so these points are the same
                [proposal] = one.ask()
                one.tell([proposal], [Score(sign * number)])
            paths.append(path_of(drive(other, planted(), 6)))
        assert (paths[0] == paths[1]) == (sampler in ("random", "qmc"))

    def test_shared_study_changes_the_proposals_of_a_search(self, url):
        alone = joined(url.replace("studies", "alone"), 2)
        expected = path_of(drive(alone, planted(), 15))
        one, other = joined(url, 1), joined(url, 2)
        drive(one, planted(), 10)
        found = path_of(drive(other, planted(), 15))
        assert len(set(found) & set(expected)) <= len(other._points.starts)

    @pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
    def test_nsga_population_counts_the_trials_of_all_searches(self, sampler, url):
        searchers, scorer = [joined(url, seed, sampler) for seed in (1, 2)], planted()
        for searcher in searchers:
            drive(searcher, scorer, 27)
        generations = [
            next(note for key, note in trial.system_attrs.items() if key.endswith(":generation"))
            for trial in optuna.load_study(study_name="all", storage=url).trials
        ]
        assert generations == [0] * 50 + [1] * 4

    def test_only_the_first_search_scores_the_starts_and_points_give_the_same_masks(self, url):
        given = on(saliencies=SALIENCIES)
        searchers = [joined(url, seed, "random", given, parametrisation="mixture") for seed in (1, 2)]
        hashes = [path_of(drive(searcher, planted(), 2)) for searcher in searchers]
        assert len(set(hashes[0] + hashes[1])) == 4
        blocks = [joined(url.replace("studies", "blocks"), seed, parametrisation="blocks") for seed in (1, 2)]
        point = blocks[0]._points.low + 0.5
        point[::2] = 0.25
        assert blocks[0]._points.mask(point, 0) == blocks[1]._points.mask(point, 0)

    def test_shared_study_holds_the_costs_of_all_searches(self, url):
        one, other = (joined(url, seed, "tpe", on(cost="units", density=1.0)) for seed in (1, 2))
        for searcher in (one, other, one):
            drive(searcher, planted(), 9)
        assert {state for state, *_ in stored(url)} == {"COMPLETE"}
        assert sorted(map(repr, trials_of(one))) == sorted(map(repr, stored(url)))
        assert optuna.load_study(study_name="all", storage=url).metric_names == ["score", "cost"]

    def test_two_processes_share_a_study_at_once(self, url):
        script = (
            "import sys; from masksearch.searchers.optuna.optuna_search import OptunaSearch\n"
            "from masksearch.testing.planted_problem import Planted, drive, problem\n"
            f"searcher = OptunaSearch('random', storage={url!r}, study='all')\n"
            "searcher.start(problem(seed=int(sys.argv[1])))\n"
            "drive(searcher, Planted(), 20)\n"
        )
        running = [subprocess.Popen([sys.executable, "-c", script, str(seed)]) for seed in (1, 2)]
        assert [process.wait(timeout=120) for process in running] == [0, 0]
        trials = optuna.load_study(study_name="all", storage=url).trials
        assert [trial.number for trial in trials] == list(range(40))
        assert Counter(trial.user_attrs["seed"] for trial in trials) == {1: 20, 2: 20}


class TestResume:
    @pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
    def test_resumed_search_keeps_its_past_trials_and_adds_later_stored_trials(self, sampler, url, tmp_path):
        scorer = planted(nan_every=5)
        one, other = joined(url, 1, sampler), joined(url, 2, sampler)
        drive(one, scorer, 4)
        drive(other, scorer, 5)
        drive(one, scorer, 3)
        save_tree(tmp_path / "state", one.state_dict())
        past = trials_of(one)
        drive(one, scorer, 2)  # not in the saved state, but in the storage
        drive(other, scorer, 3)
        resumed = joined(url, 1, sampler)
        resumed.load_state_dict(load_tree(tmp_path / "state"))
        assert repr(trials_of(resumed)) == repr(past)
        drive(resumed, scorer, 1)
        assert repr(trials_of(resumed)[: len(past)]) == repr(past)
        assert len(past) == 12
        assert resumed.metrics() == {"foreign_trials": 5 + 3}, "its own trials that the state has not are not foreign"
        assert sorted(map(repr, trials_of(resumed))) == sorted(map(repr, stored(url)))
        assert len(stored(url)) == 18

    def test_resumed_search_without_new_stored_trials_makes_the_same_proposals(self, url, tmp_path):
        one, other = joined(url, 1), joined(url, 2)
        for searcher in (one, other, one):
            drive(searcher, planted(), 7)
        save_tree(tmp_path / "state", one.state_dict())
        resumed = joined(url, 1)
        resumed.load_state_dict(load_tree(tmp_path / "state"))
        assert path_of(resumed.ask(3)) == path_of(one.ask(3))

    def test_history_of_a_resumed_search_holds_only_trials_of_that_search(self, url, tmp_path):
        class Stop(Exception):  # noqa: N818
            pass

        def stop(trial, history, searcher):
            if trial.number == 5:
                raise Stop

        def run(seed, callbacks=()):
            searcher = OptunaSearch("tpe", storage=url, study="all")
            arguments = {"on_empty": "keep_one", "folder": tmp_path / str(seed), "callbacks": callbacks}
            return search(NETWORK, searcher, planted(), 0.1, 10, seed, **arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("masksearch.searching.history_store.HistoryFile.checkpoint_seconds", -1.0)
            with pytest.raises(Stop):
                run(1, [stop])
            assert len(run(2)) == 10
            history = run(1)
        assert len(history) == 10
        counts = Counter(t.user_attrs["seed"] for t in optuna.load_study(study_name="all", storage=url).trials)
        assert counts == {
            1: 11,
            2: 10,
        }  # the trial scored after the last checkpoint is in the study, and not in the history

    def test_resuming_with_a_storage_without_the_trials_raises_input_error(self, url):
        one = joined(url, 1)
        drive(one, planted(), 3)
        elsewhere = joined(url.replace("studies", "others"), 1)
        with pytest.raises(InputError, match="is another study than the one with 3 trials"):
            elsewhere.load_state_dict(one.state_dict())

    def test_failing_storage_raises_input_error(self, url):
        one = joined(url, 1)
        drive(one, planted(), 3)
        Path(url.removeprefix("sqlite:///")).unlink()
        with pytest.raises(InputError, match=r"study: 'all' can't be read or written .*run again later") as caught:
            drive(one, planted(), 3)
        assert "\n" not in str(caught.value)

    def test_deleted_study_raises_input_error_and_its_successor_cannot_resume_the_search(self, url):
        """Also where the storage gives the deleted study's id to the new study."""
        one = joined(url, 1)
        drive(one, planted(), 3)
        state = one.state_dict()
        optuna.delete_study(study_name="all", storage=url)
        with pytest.raises(InputError, match="study: 'all' was deleted from the storage"):
            one.ask()
        other = joined(url, 2)
        drive(other, planted(), 5)
        with pytest.raises(InputError, match="is another study than the one with 3 trials"):
            joined(url, 1).load_state_dict(state)

    @pytest.mark.parametrize("sampler", SHARING)
    def test_killed_search_without_a_saved_state_proposes_its_starts_again(self, sampler, url):
        given = on(saliencies=SALIENCIES)  # each alone, and their sum
        paths = [path_of(drive(joined(url, 1, sampler, given, parametrisation="mixture"), planted(), 3)) for _ in "ab"]
        assert paths[0] == paths[1]
        assert len(stored(url)) == 6

    def test_numpy_integer_seed_is_stored(self, url):
        """The storage takes only plain numbers."""
        drive(joined(url, np.int64(1)), planted(), 2)
        assert len(joined(url, 2).state.shared.new_trials()) == 2


OTHERS = {
    "its density is 0.1, and this search has 0.2": {"given": on(density=0.2)},
    "its on_empty is keep_one, and this search has allow": {"given": on(on_empty="allow")},
    "its cost is False, and this search has units": {"given": on(cost="units")},
    "its saliencies is none, and this search has first ": {"given": on(saliencies={"first": ranked()})},
    "its space is": {"given": on(type(NETWORK)([("a", (20, 30), 600), ("b", (25, 10), 250)]))},
    "its searcher is .*'sampler': 'random'": {"sampler": "random"},
    "its parameters is 3, .* and this search has 3, ": {"spread": 2.0},
    "its searcher is .*'parametrisation': 'bits'": {"parametrisation": "bits"},
}


class TestErrors:
    @pytest.mark.parametrize(("message", "differing"), OTHERS.items(), ids=OTHERS)
    def test_joining_a_study_of_different_searches_raises_input_error_at_start(self, message, differing, url):
        joined(url, 1, given=on())
        with pytest.raises(
            InputError, match=f"study: 'all' in the storage belongs to other searches: .*{message}"
        ) as caught:
            joined(url, 2, **{"given": on(), **differing})
        assert "\n" not in str(caught.value)

    def test_joining_a_study_with_saliencies_in_another_order_raises_input_error(self, url):
        one, other = ranked(), ranked().flip(0)
        # The first saliency ranks.
        joined(url, 1, given=on(saliencies={"one": one, "other": other}))
        with pytest.raises(InputError, match=r"its saliencies is one .*, other .*, and this search has other .*, one "):
            joined(url, 2, given=on(saliencies={"other": other, "one": one}))

    def test_joining_a_study_of_another_program_raises_input_error(self, url):
        study = optuna.create_study(study_name="all", storage=url)
        study.add_trial(optuna.create_trial(value=1.0))
        with pytest.raises(InputError, match="'all' in the storage was not made by a search of masksearch"):
            joined(url, 1)

    def test_trial_of_another_program_in_the_study_raises_input_error(self, url):
        searcher = joined(url, 1)
        optuna.load_study(study_name="all", storage=url).add_trial(optuna.create_trial(value=1.0))
        with pytest.raises(InputError, match="study: its trial 0 has other parameters"):
            searcher.ask()

    @pytest.mark.parametrize(
        ("message", "settings"),
        {
            "a shared study needs a name and a URL": {"study": "all"},
            "'' in storage": {"study": "", "storage": "sqlite:///x.db"},
            "cmaes can't share a study .*; random, tpe, gp, qmc, nsga2, nsga3 can": {**SHARED, "sampler": "cmaes"},
        }.items(),
    )
    def test_search_that_cannot_share_a_study_raises_input_error(self, message, settings):
        OptunaSearch(**{**settings, "study": None})  # valid without a shared study
        with pytest.raises(InputError, match=message) as caught:
            OptunaSearch(**settings)
        assert "\n" not in str(caught.value)
