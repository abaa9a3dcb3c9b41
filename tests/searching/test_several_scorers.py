"""Several workers score the masks of a search: in fixed order with equal histories, or as finished without losses."""

import json
import multiprocessing
import pickle
import time
import warnings

import pytest
import torch
from loop_cases import SPACE, Overlap
from sleeping_scorers import Broken, Counting, Dying, DyingAtStart, Noisy, Sleeping, Unloadable

import masksearch as ms
from masksearch.core.problem_and_trials import Budget
from masksearch.scoring.parallel.scorer_processes import gpus_of
from masksearch.searchers import SEARCHERS, Annealing, EnergyAnnealing, Evolution, RandomSearch
from masksearch.searching.history_store import HistoryFile
from masksearch.testing.planted_problem import PlantedEnergy
from masksearch.utils.errors import InputError

LATE = {
    "annealing": Annealing,
    "chains": lambda: Annealing(chains=4, probe_first=5),
    "evolution": lambda: Evolution(population=10),
    "eda": SEARCHERS["eda"],
    "random_search": RandomSearch,
    "optuna_tpe": SEARCHERS["optuna_tpe"],
    "optuna_nsga2": SEARCHERS["optuna_nsga2"],
}
late = pytest.mark.parametrize("make", LATE.values(), ids=LATE)


def trials_of(history):
    """Return all fields of a history but seconds."""
    rows = []
    for trial in history:
        score, metrics = trial.score, {name: float(value) for name, value in trial.metrics.items()}
        rows.append((trial.mask_hash, score.exact, score.images, trial.is_best, trial.is_repeat))
        rows.append((repr(score.value), repr(metrics)))  # NaN equals NaN
    return rows


def run(scorer, make="annealing", **options):
    searcher = make if isinstance(make, str) else make()
    given = {"density": 0.3, "budget": 40, "seed": 3, "on_empty": "allow", "energy": PlantedEnergy(SPACE)}
    return ms.search(SPACE, searcher, scorer, **(given | options))


def coroutines(scorer, workers=4, order="as_finished"):
    return ms.ParallelScorer(scorer, workers, order, "coroutines")


# Fixed order.


@pytest.mark.parametrize("name", SEARCHERS)
def test_history_of_workers_in_fixed_order_equals_history_of_a_single_scorer(name):
    options = {"batch": 5, "budget": 12 if name == "optuna_gp" else 40}
    make = {"energy_annealing": lambda: EnergyAnnealing(moves=2000)}.get(name, SEARCHERS[name])
    inline = trials_of(run(Overlap(), make, **options))
    for workers in (1, 2, 5):
        assert trials_of(run(coroutines(Sleeping(), workers, "fixed"), make, **options)) == inline


def test_history_of_worker_processes_does_not_depend_on_their_number():
    data = ms.load_data("digits")
    model = ms.build_model("conv2:0.25", data, seed=0)
    space = ms.weight_space(model)
    scorer = ms.Scorer(model, space, data.search, "loss")
    found = [
        ms.search(space, "annealing", ms.ParallelScorer(scorer, workers), 0.3, 12, batch=3, on_empty="allow")
        for workers in (1, 2)
    ]
    assert trials_of(found[0]) == trials_of(found[1])
    assert found[0].seconds > 0
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("objective", ["accuracy", "loss"])
def test_pickled_scorer_gives_equal_scores(objective):
    data = ms.load_data("digits")
    for network in ("conv2:0.25", "lenet_300_100:0.2"):
        model = ms.build_model(network, data, seed=0)
        space = ms.weight_space(model)
        scorer = ms.Scorer(model, space, data.search, objective)
        copied, copied_space = pickle.loads(pickle.dumps((scorer, space)))
        for seed in range(3):
            mask = space.random(0.5, generator=torch.Generator().manual_seed(seed))
            assert copied(ms.Mask(copied_space, mask.bits)).value == scorer(mask).value
        assert copied.path_name == scorer.path_name


def test_resumed_search_of_workers_in_fixed_order_equals_uninterrupted_search(tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)

    def stop(trial, history, searcher):
        if trial.number == 21:
            raise KeyboardInterrupt

    whole = run(Overlap(), batch=4)
    with pytest.raises(KeyboardInterrupt):
        run(coroutines(Sleeping(), 4, "fixed"), batch=4, folder=tmp_path, callbacks=[stop])
    assert trials_of(run(coroutines(Sleeping(), 2, "fixed"), batch=4, folder=tmp_path)) == trials_of(whole)


# As finished.


@late
def test_workers_in_order_as_finished_score_every_mask_once(make):
    scorer, called = Sleeping(), []
    history = run(coroutines(scorer, 6), make, budget=60, callbacks=[lambda trial, *_: called.append(trial.number)])
    assert called == list(range(60))
    hashes = [trial.mask_hash for trial in history]
    assert {mask.hash for mask in scorer.scored} == set(hashes)
    assert len(scorer.begun) == len(scorer.scored)
    repeats = sum(trial.is_repeat for trial in history)
    assert 60 - repeats <= len(scorer.scored) <= 60
    assert 1 < scorer.most <= 6
    assert hashes != [trial.mask_hash for trial in run(Overlap(), make, budget=60)] or make is RandomSearch


@late
@pytest.mark.parametrize("often", [True, False], ids=["checkpoints", "last moment"])
def test_resumed_search_of_workers_scores_open_proposals_first(make, often, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0 if often else 1e9)
    scorer = Sleeping()

    def stop(proposals, score=scorer.score):
        if len(scorer.scored) >= 25:
            raise KeyboardInterrupt
        return score(proposals)

    scorer.score = stop
    with pytest.raises(KeyboardInterrupt):
        run(coroutines(scorer, 6), make, folder=tmp_path)
    before = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    finished = {int(row["mask"], 16) for row in before}
    waited = [number for number in scorer.begun if number not in finished]
    again = Sleeping()
    history = run(coroutines(again, 3), make, folder=tmp_path)
    assert len(before) >= 15
    assert [trial.mask_hash for trial in history][: len(before)] == [int(row["mask"], 16) for row in before]
    assert [trial.number for trial in history] == list(range(40))
    assert set(waited) <= {mask.hash for mask in again.scored[: len(waited) + 3]}
    assert len(again.scored) <= 40 - len(before)
    rows = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(rows) == 40
    assert trials_of(run(Overlap(), make, folder=tmp_path / "other"))  # another folder is another search
    with pytest.raises(InputError, match="order"):
        run(Overlap(), make, folder=tmp_path, budget=50)


def test_resumed_tpe_accepts_scores_of_open_proposals(tmp_path):
    searcher = SEARCHERS["optuna_tpe"]()
    searcher.start(ms.Problem(SPACE, 0.3, 20, 0, on_empty="allow"))
    proposals = [searcher.ask(1)[0] for _ in range(4)]
    state = searcher.state_dict()
    again = SEARCHERS["optuna_tpe"]()
    again.start(searcher.problem)
    again.load_state_dict(state)
    again.tell([ms.Proposal.of(proposals[2].mask)], [ms.Score(0.7)])
    assert [trial.values for trial in again.state.study.trials] == [None, None, [0.7], None]
    assert [trial.state.name for trial in again.state.study.trials] == ["RUNNING", "RUNNING", "COMPLETE", "RUNNING"]


def test_budget_of_seconds_with_workers_is_wall_clock_time():
    began = time.perf_counter()
    history = run(coroutines(Sleeping(0.02), 8), budget=Budget(seconds=0.3))
    assert 0.3 <= history.seconds <= time.perf_counter() - began < 10  # wall-clock, not the sum over workers
    assert len(history) > 8


def test_search_of_a_front_with_workers_has_a_front():
    history = run(coroutines(Sleeping(), 4), "optuna_tpe", density=1.0, cost="units", on_empty=None)
    assert len(history) == 40
    assert history.front


def test_searcher_without_late_scores_warns_and_runs_in_fixed_order():
    with pytest.warns(UserWarning, match="LevelSwitches needs the scores in the order .* with 4 masks at once"):
        history = run(coroutines(Sleeping()), "evopress")
    assert trials_of(history) == trials_of(run(Overlap(), "evopress", batch=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(coroutines(Sleeping()), "annealing")


# Workers that fail.


@pytest.mark.parametrize("order", ["fixed", "as_finished"])
def test_killed_worker_is_replaced_and_the_mask_is_scored_again(order, tmp_path):
    scorer = ms.ParallelScorer(Dying(str(tmp_path), deaths=2), 2, order)
    history = run(scorer, batch=4, budget=16)
    assert len(list(tmp_path.iterdir())) == 2
    assert [trial.number for trial in history] == list(range(16))
    if order == "fixed":
        assert trials_of(history) == trials_of(run(Overlap(), batch=4, budget=16))
    assert not multiprocessing.active_children()


def test_worker_that_dies_at_start_is_restarted_up_to_three_times(tmp_path):
    history = run(ms.ParallelScorer(DyingAtStart(str(tmp_path), deaths=2), 1), budget=4)
    assert trials_of(history) == trials_of(run(Overlap(), budget=4))
    with pytest.raises(InputError, match="a process ended with code -9 as it started, 3 times; give fewer workers"):
        run(ms.ParallelScorer(DyingAtStart(str(tmp_path), deaths=100), 1), budget=4)
    assert not multiprocessing.active_children()


def test_mask_that_kills_three_workers_raises_input_error(tmp_path):
    with pytest.raises(InputError, match=r"a process ended with code -9, 3 times at the same mask"):
        run(ms.ParallelScorer(Dying(str(tmp_path), deaths=1000), 1), budget=4)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (Broken(), "scorer: ZeroDivisionError in a worker: broken at once"),
        (Unloadable(), "scorer: ValueError in a worker: invalid literal for int"),
        (lambda: Overlap(), "a function has no score"),
    ],
)
def test_scorer_that_raises_in_a_worker_raises_input_error(scorer, message):
    with pytest.raises(InputError, match=message):
        run(ms.ParallelScorer(scorer, 1))
    assert not multiprocessing.active_children()


def test_scorers_and_settings_unsuitable_for_workers_raise_input_error():
    class Local(Overlap):
        pass

    with pytest.raises(InputError, match=r"can't be sent to worker processes .* at the top level of a module"):
        run(ms.ParallelScorer(Local(), 1))
    with pytest.raises(InputError, match="scores of this Counting depend on earlier scorings"):
        ms.ParallelScorer(Counting(), 2)
    with pytest.raises(InputError, match=r"one mask got the scores 0\.\d+ and 0\.\d+"):
        run(coroutines(Noisy(), 2, "fixed"), batch=2)
    assert len(run(coroutines(Noisy(), 2), budget=10)) == 10
    with pytest.raises(InputError, match="batch: 2 with 3 workers in fixed order"):
        run(coroutines(Overlap(), 3, "fixed"), batch=2)
    with pytest.raises(InputError, match="unknown order of scores 'first'"):
        ms.ParallelScorer(Overlap(), 2, "first")
    with pytest.raises(InputError, match="unknown backend 'threads'"):
        ms.ParallelScorer(Overlap(), 2, backend="threads")

    def objective(model, inputs, targets):
        return 0.0

    objective.depends_on_order = True
    data = ms.load_data("digits")
    model = ms.build_model("lenet_300_100:0.1", data, seed=0)
    with pytest.raises(InputError, match="depend on earlier scorings"):
        ms.ParallelScorer(ms.Scorer(model, ms.weight_space(model), data.search, objective), 2)


def test_parallel_scorer_scores_masks_outside_of_a_search():
    scorer = coroutines(Overlap(), 2, "fixed")
    masks = [SPACE.random(0.3, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert [score.value for score in scorer.score(masks)] == [Overlap()._score(mask).value for mask in masks]
    assert scorer(masks[0]).value == Overlap()._score(masks[0]).value
    assert scorer.score([]) == []
    scorer.close()
    scorer.close()


def test_workers_are_assigned_gpus_in_turn():
    assert gpus_of(1, 1, None) is None
    assert [gpus_of(number, 3, None) for number in range(4)] == ["0,1,2", "1,2,0", "2,0,1", "0,1,2"]
    assert gpus_of(1, 2, "5,7") == "7,5"


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
class TestRay:
    def test_history_of_ray_actors_equals_history_of_a_single_scorer(self):
        history = run(ms.ParallelScorer(Overlap(), 2, backend="ray"), batch=4)
        assert trials_of(history) == trials_of(run(Overlap(), batch=4))
        assert len(run(ms.ParallelScorer(Overlap(), 2, "as_finished", "ray"))) == 40

    def test_killed_ray_actor_is_replaced(self, tmp_path):
        scorer = ms.ParallelScorer(Dying(str(tmp_path), deaths=1), 2, backend="ray")
        assert trials_of(run(scorer, batch=4)) == trials_of(run(Overlap(), batch=4))

    def test_more_workers_than_cpus_of_the_ray_cluster_raise_input_error(self):
        with pytest.raises(InputError, match="workers: 3 with 1 CPU threads each, and the Ray cluster has 2 CPUs"):
            run(ms.ParallelScorer(Overlap(), 3, backend="ray"), batch=4)
