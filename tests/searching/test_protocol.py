"""Problems and scorers: arguments of problems, and the methods of scorers beside ``score``."""

import pytest
from loop_cases import SPACE, Overlap

from masksearch.core.problem_and_trials import Budget, Problem, Proposal, Score
from masksearch.core.scorer_protocols import Scoring, as_scoring
from masksearch.searchers import RandomSearch
from masksearch.searching.history_store import HistoryFile
from masksearch.searching.search_function import search
from masksearch.searching.subspace import Subspace, SubspaceScorer
from masksearch.utils.errors import InputError


def test_budget_of_a_problem_can_be_a_number_of_scorings():
    problem = Problem(SPACE, 0.1, budget=200, seed=0)
    assert problem.budget == Budget(200)
    assert problem == Problem(SPACE, 0.1, Budget(200), 0)
    seconds = Budget(seconds=3.0)
    assert Problem(SPACE, 0.1, seconds, 0).budget is seconds
    with pytest.raises(InputError, match="budget: 0 scorings"):
        Problem(SPACE, 0.1, budget=0, seed=0)


@pytest.mark.parametrize("seed", ["a", 0.5, 2**64])
def test_seed_other_than_a_whole_number_raises_input_error(seed):
    with pytest.raises(InputError, match=f"seed: {seed}; allowed is a whole number"):
        Problem(SPACE, 0.1, Budget(20), seed)


class Refreshed(Overlap):
    """Records the number of scorings before each refresh."""

    def __init__(self, refresh_every):
        super().__init__()
        self.refresh_every, self.refreshed_at = refresh_every, []

    def refresh(self):
        self.refreshed_at.append(len(self.scored))


class Minimal(Scoring):
    def score(self, proposals):
        return [Score(1.0) for _ in proposals]


def test_as_scoring_returns_a_complete_scorer_unchanged():
    for scorer in (Refreshed(3), Minimal(), SubspaceScorer(Minimal(), Subspace(SPACE.full()))):
        assert as_scoring(scorer) is scorer
    assert Minimal().refresh_every is None


def test_as_scoring_adds_defaults_to_a_scorer_with_only_score():
    plain = Overlap()
    scorer = as_scoring(plain)
    assert scorer.refresh_every is None
    scorer.refresh()
    mask = SPACE.full()
    assert [score.images for score in scorer.score([Proposal.of(mask)])] == [7]
    assert plain.scored == [mask]


def test_scorers_without_score_or_refresh_raise_input_error(tmp_path):
    half = Overlap()
    half.refresh_every = 3
    for scorer, message in ((object(), "a object has no score"), (half, "a Overlap has refresh_every alone")):
        with pytest.raises(InputError, match=f"scorer: {message}"):
            search(SPACE, RandomSearch(), scorer, 0.3, 5, folder=tmp_path / "run")
    assert not half.scored
    assert not (tmp_path / "run").exists()


def test_subspace_scorer_forwards_score_and_refresh():
    inner = Refreshed(3)
    subspace = Subspace(SPACE.full())
    scorer = SubspaceScorer(inner, subspace)
    assert scorer.refresh_every == 3
    scorer.score([Proposal.of(subspace.full())])
    scorer.refresh()
    assert inner.refreshed_at == [1]


@pytest.mark.parametrize("every", [1, 3, None])
def test_search_refreshes_the_scorer_when_due_and_saves_checkpoints_then(every, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)
    checkpoints, checkpoint = [], HistoryFile.checkpoint

    def counted(self, history, state, waiting):
        checkpoints.append(len(history))
        checkpoint(self, history, state, waiting)

    monkeypatch.setattr(HistoryFile, "checkpoint", counted)
    scorer = Refreshed(every)
    search(SPACE, RandomSearch(), scorer, 0.3, 8, folder=tmp_path)
    due = list(range(every or 1, 8, every or 1))
    assert scorer.refreshed_at == ([] if every is None else due)
    assert checkpoints == [*due, 8]
