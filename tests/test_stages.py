"""Searches in stages: other images, other scores, and nothing of the earlier ones left."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from masksearch import loop
from masksearch.data import Data, search_subsets
from masksearch.errors import InputError
from masksearch.loop import search
from masksearch.scoring import Scorer
from masksearch.searchers import EDA, SEARCHERS, Annealing, Evolution, RandomSearch
from masksearch.spaces import weight_space
from masksearch.stages import Stages
from masksearch.testing.planted import SPACE, Planted
from masksearch.trial import Budget, Score

GOALS, BUDGET = (11, 22, 33), 240  # of the stages, 80 scorings each
ABLE = {
    **{name: make for name, make in SEARCHERS.items() if make().holds is not None},
    "annealing, chains": lambda: Annealing(chains=3, tabu=4, reheat_after=0.05),
    "eda, small": lambda: EDA(generation=15, elites=6),
    "evolution, small": lambda: Evolution(population=6),
}
able = pytest.mark.parametrize("make", ABLE.values(), ids=ABLE)


class Planning:
    """Makes scorers of planted problems, and remembers them."""

    def __init__(self, nan_every=0):
        self.made, self._nan_every = [], nan_every

    def __call__(self, goal):
        self.made.append(Planted(goal=goal, nan_every=self._nan_every))
        return self.made[-1]


def staged(make, planning=None, **options):
    stages = Stages(planning or Planning(), GOALS)
    return search(SPACE, make(), stages, **{"density": 0.3, "budget": BUDGET, "seed": 3, "on_empty": "allow"} | options)


@pytest.mark.parametrize("name", SEARCHERS)
def test_every_searcher_goes_through_stages_or_is_refused_by_name_before_any_work(name, tmp_path):
    planning, searcher = Planning(), SEARCHERS[name]()
    if name in ABLE:
        assert len(staged(SEARCHERS[name], planning)) == BUDGET
        return
    message = f"this {type(searcher).__name__} goes by .*; annealing, random_search, .* can do it"
    with pytest.raises(InputError, match=message) as caught:
        staged(SEARCHERS[name], planning, folder=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not planning.made
    assert not (tmp_path / "run").exists()


def test_those_that_are_made_for_it_can_do_it():
    assert {"annealing", "random_search", "eda", "evolution"} <= set(ABLE)


@able
@pytest.mark.parametrize("batch", [1, 7])
def test_stages_are_equal_shares_and_all_scorings_are_charged(make, batch):
    planning = Planning()
    history = staged(make, planning, batch=batch)
    assert [trial.stage for trial in history] == [0] * 80 + [1] * 80 + [2] * 80
    assert [len(scorer.scored) for scorer in planning.made] == [
        sum(not trial.is_repeat for trial in history if trial.stage == stage) for stage in range(3)
    ]


@able
def test_a_stage_begins_with_new_scores_for_what_is_held_and_for_the_best(make):
    planning, held = Planning(), []

    def look(trial, history, searcher):
        if trial.number in (79, 159):
            held.append([mask.hash for mask in dict.fromkeys([*searcher.held(), history.best.mask])])

    staged(make, planning, callbacks=[look])
    for scorer, hashes in zip(planning.made[1:], held, strict=True):
        assert [mask.hash for mask in scorer.scored[: len(hashes)]] == hashes


def test_annealing_counts_all_scorings_and_knows_the_best_mask_s_new_score():
    """Also where no chain stands on the best mask any more as a stage begins."""
    left = set()
    for seed in range(6):
        annealing = Annealing()

        def look(trial, history, searcher):
            if trial.number in (79, 159):
                left.add(history.best.mask not in searcher.held())

        history = staged(lambda annealing=annealing: annealing, seed=seed, callbacks=[look])
        assert (annealing._told, annealing.progress) == (len(history), 1)
        assert annealing._best == history.best.score.value
    assert True in left


@able
def test_the_best_masks_are_those_of_the_last_stage_alone(make):
    history = staged(make)
    last = Planted(goal=GOALS[-1])
    assert all(trial.stage == 2 and trial.score.value == last.value(trial.mask) for trial in history.top)
    assert history.best.score.value == max(trial.score.value for trial in history if trial.stage == 2)
    assert sum(trial.mask is not None for trial in history) == len(history.top) == 5
    begins = [history.best_so_far()[number] for number in (0, 80, 160)]
    assert begins == [history.trials[number].score.value for number in (0, 80, 160)]


class StopError(Exception):
    pass


def test_a_checkpoint_is_taken_as_a_stage_begins_also_where_scorers_carry_much_over(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY", -1.0)

    def carrying(goal):
        made.append(Planted(goal=goal))
        made[-1].refresh_every = 1000
        return made[-1]

    def stop(trial, history, searcher):
        if trial.number == 200:
            raise StopError

    made = []
    with pytest.raises(StopError):
        staged(Annealing, carrying, folder=tmp_path, callbacks=[stop])
    made.clear()
    whole, parts = staged(Annealing), staged(Annealing, carrying, folder=tmp_path)
    assert [trial.mask_hash for trial in parts] == [trial.mask_hash for trial in whole]
    assert sum(len(scorer.scored) for scorer in made) <= 80  # from 160 on


@pytest.mark.parametrize(("population", "entered"), [(20, 4), (50, 1)])
def test_a_stage_is_entered_only_if_there_are_seconds_for_more_than_its_beginning(population, entered):
    """At a tenth of a second a scoring, 20 seconds in 4 stages are 50 scorings each."""

    class Slow(Planted):
        def score(self, proposals):
            return [replace(score, seconds=0.1) for score in super().score(proposals)]

    stages = Stages(lambda goal: Slow(goal=goal), (11, 22, 33, 44))
    history = search(SPACE, Evolution(population=population), stages, 0.3, Budget(seconds=20.0), on_empty="allow")
    trials = Counter(trial.stage for trial in history)
    assert len(trials) == entered
    assert min(trials.values()) > population + 2
    assert history.seconds < 20.2


@able
@pytest.mark.parametrize(
    ("every", "stops"), [(-1.0, (40, 79, 80, 83, 161, 220)), (1e9, (83,))], ids=["checkpoints", "no checkpoints"]
)
def test_an_interrupted_search_goes_on_to_the_same_end_in_every_stage(make, every, stops, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY", every)
    for module in ("files", "history_file"):
        monkeypatch.setattr(f"masksearch.{module}.os.fsync", lambda handle: None)
    whole = staged(make, folder=tmp_path / "whole")
    for at in stops:

        def stop(trial, history, searcher, at=at):
            if trial.number == at and len(history) == at + 1:
                raise StopError

        place, planning = tmp_path / str(at), Planning()
        with pytest.raises(StopError):
            staged(make, folder=place, callbacks=[stop])
        parts = staged(make, planning, folder=place)
        assert (place / "moves.i32").read_bytes() == (tmp_path / "whole" / "moves.i32").read_bytes()
        assert rows_without_seconds(place) == rows_without_seconds(tmp_path / "whole")
        assert [trial.mask for trial in parts.top] == [trial.mask for trial in whole.top]
        assert parts.best_so_far()[-1] == whole.best_so_far()[-1]
        if every < 0:
            assert sum(len(scorer.scored) for scorer in planning.made) < BUDGET - at + 60  # it did not begin anew


def rows_without_seconds(folder):
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [row | {"seconds": None} for row in rows]


def test_a_folder_with_as_many_scorings_in_other_stages_is_refused(tmp_path):
    staged(RandomSearch, folder=tmp_path)
    with pytest.raises(InputError, match="its stages is 3, asked for is None"):
        search(SPACE, RandomSearch(), Planted(), 0.3, BUDGET, seed=3, on_empty="allow", folder=tmp_path)


@able
def test_masks_that_can_not_be_scored_any_more_are_survived(make):
    history = staged(make, Planning(nan_every=2))
    assert len(history) == BUDGET
    assert history.best.stage == 2


class Timed(Planted):
    """Every scoring takes half a second."""

    def score(self, proposals):
        return [Score(score.value, seconds=0.5) for score in super().score(proposals)]


def test_of_a_budget_of_seconds_stages_are_shares_of_seconds():
    for budget in (Budget(seconds=10.0), Budget(1000, 10.0)):
        stages = Stages(lambda goal: Timed(goal=goal), (1, 2))
        history = search(SPACE, RandomSearch(), stages, 0.3, budget)
        assert [trial.stage for trial in history] == [0] * 10 + [1] * 10
    assert Budget(10).part(3, 0, 99.0) == (0, 4)
    assert [Budget(10).part(3, spent, 0.0) for spent in (3, 4, 6, 7, 9)] == [(0, 1), (1, 3), (1, 1), (2, 3), (2, 1)]
    assert Budget(10).part(1, 4, 0.0) == (0, 6)
    assert Budget(seconds=3.0).part(3, 50, 2.9) == (2, None)
    assert Budget(10, 3.0).part(3, 0, 2.5) == (2, 10)


def test_stages_that_end_before_they_begin_are_errors():
    with pytest.raises(InputError, match=r"stages: 3 of 155 scorings; .* Evolution needs 52 in each, .* 156 in all"):
        staged(Evolution, budget=155)
    assert len(staged(Evolution, budget=156)) == 156
    with pytest.raises(InputError, match="stages: there are none"):
        Stages(Planning(), ())


@pytest.mark.parametrize("kind", ["growing", "redrawn"])
@pytest.mark.parametrize("objective", ["calibrated_loss", "accuracy"])
def test_networks_are_scored_on_the_images_of_the_stage(kind, objective, tmp_path, monkeypatch):
    """On the path that carries activations from one scoring to the next, and bounds from one image to the next."""
    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY", -1.0)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(800, 1, 4, 5, generator=generator), torch.arange(800) % 3
    data = Data.from_tensors("noise", (images, labels), (images[:30], labels[:30]), search_images=40)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3))
    space, subsets = weight_space(model), search_subsets(data, kind, 3)
    scored = []

    class Noted(Scorer):
        def score(self, proposals):
            scores = super().score(proposals)
            scored.extend(zip(proposals, scores, strict=True))
            return scores

    stages = Stages(lambda part: Noted(model, space, part, objective), subsets.stages)
    history = search(space, Annealing(), stages, 0.3, 120, folder=tmp_path)
    plain = [Scorer(model, space, part, objective, fast=False) for part in subsets.stages]
    fresh = [(trial, *pair) for trial, pair in zip([t for t in history if not t.is_repeat], scored, strict=True)]
    assert {trial.stage for trial, *_ in fresh} == {0, 1, 2}
    for trial, proposal, score in fresh:
        expected = plain[trial.stage](proposal.mask).value
        assert score.value == pytest.approx(expected, abs=1e-5) if score.exact else score.value >= expected
    last = Scorer(model, space, data.search, objective)
    assert history.best.score.value == pytest.approx(last(history.best.mask).value)
