"""The search loop: budgets, repeats, the best mask, starts, thresholds, and wrong arguments."""

import math
import time
from dataclasses import replace

import pytest
import torch
from loop_cases import SPACE, Overlap, every

from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Problem, Proposal, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import Annealing, RandomSearch, ThesisAnnealing
from masksearch.searching import trial_loop
from masksearch.searching.search_function import search
from masksearch.utils.errors import InputError

SMALL = MaskSpace([("only", (1, 5), 5)])


@pytest.mark.parametrize("batch", [1, 3, 1000])
@pytest.mark.parametrize("budget", [1, 2, 50])
def test_search_has_exactly_as_many_trials_as_the_budget(budget, batch):
    history = search(SPACE, Annealing(), Overlap(), 0.3, budget, batch=batch)
    assert len(history) == budget
    assert [trial.number for trial in history] == list(range(budget))


def test_seconds_of_a_trial_include_time_of_the_searcher():
    class Slow(RandomSearch):
        def ask(self, n=1):
            time.sleep(0.002)
            return super().ask(n)

        def tell(self, proposals, scores):
            time.sleep(0.003)
            super().tell(proposals, scores)

    history = search(SPACE, Slow(), Overlap(seconds=7.0), 0.3, 20)
    assert 19 * 0.005 <= history.seconds - 20 * 7 < 7  # no trial follows the last tell
    assert min(trial.score.seconds for trial in history) >= 7.002
    assert history.seconds == sum(trial.score.seconds for trial in history)


def test_budget_of_seconds_counts_time_of_proposing():
    class Slow(RandomSearch):
        def ask(self, n=1):
            time.sleep(0.01)
            return super().ask(n)

    assert 1 <= len(search(SPACE, Slow(), Overlap(), 0.3, Budget(seconds=0.2))) <= 20
    assert 1 <= len(search(SPACE, Slow(), Overlap(), 0.3, Budget(seconds=0.2), batch=4)) <= 80


def test_budget_of_seconds_counts_seconds_of_scores():
    assert len(search(SPACE, RandomSearch(), Overlap(seconds=0.5), 0.3, Budget(seconds=4.9))) == 10
    assert len(search(SPACE, RandomSearch(), Overlap(seconds=0.5), 0.3, Budget(5, 4.9))) == 5
    assert len(search(SPACE, RandomSearch(), Overlap(seconds=0.5), 0.3, Budget(50, 0.9))) == 2


def test_search_ends_when_the_searcher_has_no_more_proposals():
    short = ThesisAnnealing(7, 0.01, 0.9, 1, 1, memory=2, tries=1, known="equal", carry="after")
    assert len(search(SPACE, short, Overlap(), 0.3, 1000)) == 7


def test_repeated_masks_are_trials_with_the_first_score_and_no_second_scoring():
    scorer = Overlap(nan_every=3, seconds=5.0)
    history = search(SMALL, RandomSearch(), scorer, 0.4, 80)
    assert len({trial.mask_hash for trial in history}) == len(scorer.scored) == 10  # masks of 2 of 5 units
    assert len({mask.hash for mask in scorer.scored}) == 10
    assert sum(trial.is_repeat for trial in history) == 70
    by_hash = {}
    for trial in history:
        first = by_hash.setdefault(trial.mask_hash, trial)
        assert trial.is_repeat == (first is not trial)
        assert trial.score.value == first.score.value or math.isnan(first.score.value)
        if trial.is_repeat:
            assert trial.score.images == 0
            assert 0 < trial.score.seconds < 5  # so that a budget in seconds ends


@every
def test_best_trial_has_the_highest_score_and_the_mask(make):
    scorer = Overlap(nan_every=4)
    history = search(SPACE, make(), scorer, 0.3, 100, on_empty="allow")
    values = [trial.score.value for trial in history]
    assert any(map(math.isnan, values))
    assert history.best.score.value == max(value for value in values if not math.isnan(value))
    assert float((history.best.mask.bits & scorer.goal).sum() / 18) == history.best.score.value
    assert history.best.mask.hash == history.best.mask_hash


def test_search_with_only_nan_scores_has_no_best_trial():
    history = search(SPACE, Annealing(), Overlap(nan_every=1), 0.3, 20)
    assert len(history) == 20
    with pytest.raises(InputError, match="none of its 20 trials has a finite score"):
        _ = history.best


@pytest.mark.parametrize("value", [-math.inf, math.inf])
def test_infinite_scores_are_not_the_best(value):
    class Broken(Overlap):
        def score(self, proposals):
            return [replace(score, value=value) for score in super().score(proposals)]

    history = search(SPACE, Annealing(), Broken(), 0.3, 20)
    assert len(history) == 20
    assert not history.has_best


def test_annealing_moves_on_from_a_start_with_a_nan_score():
    class FirstFails(Overlap):
        def _score(self, mask):
            return Score(math.nan) if not self.scored and not self.scored.append(mask) else super()._score(mask)

    history = search(SPACE, Annealing(), FirstFails(), 0.3, 100)
    assert math.isnan(history.trials[0].score.value)
    assert len({trial.mask_hash for trial in history}) > 50
    assert history.best.score.value > history.trials[1].score.value


def test_callbacks_are_called_after_the_searcher_gets_the_score():
    calls = []

    def record(trial, history, searcher):
        assert history.trials[-1].number == trial.number
        calls.append((trial.number, searcher.progress))

    search(SPACE, Annealing(), Overlap(), 0.3, 20, callbacks=[record])
    assert calls == [(i, (i + 1) / 20) for i in range(20)]


def test_search_starts_from_a_mask_or_from_a_saliency():
    mask = SPACE.random(0.3, generator=torch.Generator().manual_seed(1))
    saliency = torch.randn(60, generator=torch.Generator().manual_seed(2))
    assert search(SPACE, Annealing(), Overlap(), 0.3, 5, start=mask).first == mask
    assert search(SPACE, RandomSearch(), Overlap(), 0.3, 5, start=mask).first == mask
    assert search(SPACE, Annealing(), Overlap(), 0.3, 5, start=saliency).first == SPACE.top_k(saliency, 0.3)


def test_start_with_other_layer_densities_raises_input_error():
    densities = {"first": 0.25, "second": 0.5}
    fits = SPACE.random(densities, generator=torch.Generator().manual_seed(0))
    assert search(SPACE, Annealing(), Overlap(), densities, 5, start=fits).first == fits
    even = SPACE.random(20 / 60, "layerwise", generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        InputError, match="start: the mask keeps 13 units of layer 'first', and the layer's density needs 10"
    ):
        search(SPACE, Annealing(), Overlap(), densities, 5, start=even)


def test_wrong_arguments_of_search_raise_input_error_before_any_scoring(tmp_path):
    scorer = Overlap()
    other = MaskSpace([("other", (1, 60), 60)])
    for change, message in (
        ({"density": 0.0}, "density: 0.0"),
        ({"density": 1 / 60}, "fewer than the 2 layers"),
        ({"budget": 0}, "budget: 0"),
        ({"keep": 0}, "keep: 0"),
        ({"start": SPACE.random(0.5)}, "start: the mask keeps 30 units, and density 0.3 needs 18"),
        ({"start": other.random(0.3)}, "start: a mask of a .*doesn't fit"),
        ({"start": torch.zeros(59)}, r"saliency: shape \(59,\)"),
        ({"start": torch.full((60,), torch.nan)}, "60 of 60 values are NaN"),
        ({"saliencies": {"short": torch.zeros(59)}}, r"saliency 'short': shape \(59,\), 0 NaN; .* needed, \(60,\)"),
        ({"saliencies": {"none": torch.full((60,), torch.nan)}}, r"saliency 'none': shape \(60,\), 60 NaN"),
    ):
        request = {"searcher": Annealing(), "scorer": scorer, "density": 0.3, "budget": 5, "folder": tmp_path / "run"}
        with pytest.raises(InputError, match=message):
            search(SPACE, **{**request, **change})
    assert scorer.scored == []
    assert not (tmp_path / "run").exists()


def test_same_seed_gives_the_same_search_and_another_seed_another_search():
    def path(seed):
        return [trial.mask_hash for trial in search(SPACE, Annealing(), Overlap(), 0.3, 40, seed)]

    assert path(1) == path(1) != path(2)


def test_scores_with_bounds_below_thresholds_give_the_same_search():
    class Bounding(Overlap):
        def score(self, proposals):
            scores = super().score(proposals)
            return [
                Score(p.threshold - 1e-9, exact=False) if p.threshold is not None and s.value < p.threshold else s
                for p, s in zip(proposals, scores, strict=True)
            ]

    exact = search(SPACE, Annealing(), Overlap(), 0.3, 200)
    bounded = search(SPACE, Annealing(), Bounding(), 0.3, 200)
    assert any(not trial.score.exact for trial in bounded)
    assert [trial.mask_hash for trial in bounded] == [trial.mask_hash for trial in exact]  # the same decisions
    assert bounded.best.score.exact
    assert bounded.best.score.value == exact.best.score.value


def test_history_keeps_only_the_masks_of_the_best_trials():
    history = search(SPACE, Annealing(), Overlap(), 0.3, 100, keep=3)
    assert sum(isinstance(trial.mask, Mask) for trial in history) == 3


def test_repeated_mask_in_a_batch_is_scored_with_the_lowest_threshold():
    mask = SPACE.random(0.3, generator=torch.Generator().manual_seed(0))
    thresholds_scored = []

    class Bounding:
        def score(self, proposals):
            thresholds_scored.extend(proposal.threshold for proposal in proposals)
            return [Score(0.1, exact=proposal.threshold is None, images=7) for proposal in proposals]

    def scores(*thresholds, history=None):
        proposals = [replace(Proposal.of(mask), threshold=threshold) for threshold in thresholds]
        return [
            (score.value, score.exact, score.images)
            for score in trial_loop._score(Bounding(), proposals, history, problem)
        ]

    history, problem = History(), Problem(SPACE, 0.3, Budget(1), 0)
    assert scores(0.5, 0.3, history=history) == [(0.1, False, 7), (0.1, False, 0)]
    assert scores(0.5, None, 0.3, history=history) == [(0.1, True, 7), (0.1, True, 0), (0.1, True, 0)]
    assert thresholds_scored == [0.3, None]
    history.add(mask, Score(0.1, exact=False), {})
    assert scores(0.2, history=history) == [(0.1, False, 0)]  # the bound is below the threshold
    assert scores(0.2, 0.05, history=history) == [(0.1, False, 7), (0.1, False, 0)]
    assert thresholds_scored == [0.3, None, 0.05]


def test_search_accepts_the_name_of_a_searcher():
    by_name = search(SPACE, "random_search", Overlap(), 0.3, 20)
    assert [trial.mask_hash for trial in by_name] == [
        trial.mask_hash for trial in search(SPACE, RandomSearch(), Overlap(), 0.3, 20)
    ]
    with pytest.raises(InputError, match="did you mean 'annealing'"):
        search(SPACE, "anealing", Overlap(), 0.3, 20)


def test_search_with_a_searcher_class_raises_input_error():
    with pytest.raises(InputError, match=r"give an instance, Annealing\(\)"):
        search(SPACE, Annealing, Overlap(), 0.3, 20)


class TestScoresThatDoNotCount:
    """Scores of a share of the examples, and of probes."""

    class Repeating(RandomSearch):
        """Proposes the same mask on a quarter of the examples and on all examples, and the full mask as a probe."""

        def ask(self, n=1):
            kinds = [{"share": 0.25}, {"probe": True}, {}, {"share": 0.25}, {}]
            self.number = getattr(self, "number", -1) + 1
            mask = SPACE.full() if self.number == 1 else SPACE.random(0.3, generator=torch.Generator().manual_seed(0))
            return [replace(Proposal.of(mask), **kinds[self.number % 5])]

        def tell(self, proposals, scores):
            assert scores[0].counts == proposals[0].counts

    class Higher:
        """Scores on a share of the examples, and of the full mask, are higher."""

        def score(self, proposals):
            return [Score(2 - proposal.share + proposal.probe) for proposal in proposals]

    def test_scores_of_shares_and_probes_are_never_best_and_never_repeats(self, tmp_path):
        history = search(SPACE, self.Repeating(), self.Higher(), 0.3, 5, folder=tmp_path)
        assert [trial.score.value for trial in history] == [1.75, 2.0, 1.0, 1.75, 1.0]
        assert [trial.score.counts for trial in history] == [False, False, True, False, True]
        assert [trial.is_best for trial in history] == [False, False, True, False, False]
        assert [trial.is_repeat for trial in history] == [False, False, False, False, True]
        assert history.best.number == 2
        again = search(SPACE, self.Repeating(), self.Higher(), 0.3, 5, folder=tmp_path)
        assert [(t.score, t.is_best, t.is_repeat) for t in again] == [
            (t.score, t.is_best, t.is_repeat) for t in history
        ]

    def test_different_shares_of_a_mask_in_a_batch_are_scored_separately(self):
        class Batch(RandomSearch):
            def ask(self, n=1):
                mask = SPACE.random(0.3, generator=torch.Generator().manual_seed(0))
                return [replace(Proposal.of(mask), share=share) for share in (0.25, 0.5, 1.0, 0.25)]

        history = search(SPACE, Batch(), self.Higher(), 0.3, 4, batch=4)
        assert [trial.score.value for trial in history] == [1.75, 1.5, 1.0, 1.75]
        assert history.best.number == 2
