"""The loop over trials of a running search: ask, score, tell, record."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from masksearch.core.history import History
from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Problem, Proposal, Score, Trial
from masksearch.core.scorer_protocols import Scoring
from masksearch.searchers import Searcher
from masksearch.searching.history_store import HistoryFile

Callback = Callable[[Trial, History, Searcher], None]
"""Function f(trial, history, searcher) -> None that :func:`masksearch.search` calls after every scored mask (trial)."""

_COMPARISONS = 400  # per search: trials at which the incumbent is compared with start and best, in O(n_units)


@dataclass
class TrialLoop:
    """Loop of a running search: it proposes masks, has them scored, and records the scores."""

    searcher: Searcher
    scorer: Scoring
    problem: Problem
    history: History
    file: HistoryFile | None
    batch: int
    callbacks: list[Callback]

    def __post_init__(self) -> None:
        self._stride = max(1, (self.problem.budget.scorings or 20_000) // _COMPARISONS)
        self._saved, self._refreshed = time.monotonic(), len(self.history)
        self._telling = 0.0  # seconds of the last tell; they count as proposing time of the next trials

    def run(self) -> None:
        """Run the search until its budget is used up or the searcher proposes no more masks."""
        budget, history = self.problem.budget, self.history
        n_before = len(history)
        while (left := budget.left(len(history), history.seconds)) != 0:
            self._refresh_if_due()
            began = time.perf_counter()
            proposals = self.searcher.ask(self.batch if left is None else min(self.batch, left))
            if not proposals:
                break
            proposing = (self._telling + time.perf_counter() - began) / len(proposals)
            scores = _score(self.scorer, proposals, history, self.problem)
            scores = [replace(score, seconds=round(score.seconds + proposing, 6)) for score in scores]
            before, scored = self.searcher.incumbent, time.perf_counter()
            self.searcher.tell(proposals, scores)
            self._telling = time.perf_counter() - scored
            self._record(proposals, scores, before)
        if len(history) > n_before:
            self._checkpoint()

    def _refresh_if_due(self) -> None:
        """Refresh the scorer if a refresh is due, and write a checkpoint then if the last one is old."""
        every = self.scorer.refresh_every
        if len(self.history) - self._refreshed < (every or 1):
            return
        self._refreshed = len(self.history)
        if every is not None:
            self.scorer.refresh()
        self._checkpoint_if_old()

    def _checkpoint_if_old(self) -> None:
        if self.file is not None and time.monotonic() - self._saved > self.file.checkpoint_seconds:
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self.file is not None:
            state = self.searcher.state_dict() if self.searcher.supports_resuming else None
            self.file.checkpoint(self.history, state, self._waiting())
            self._saved = time.monotonic()

    def _waiting(self) -> list[Mask]:
        """Masks that wait for their scores; a resumed search scores these first."""
        return []

    def _record(self, proposals: Sequence[Proposal], scores: Sequence[Score], before: Mask | None) -> None:
        """Append the trials to the history, after the searcher got their scores.

        ``before`` is the searcher's incumbent before that. The incumbent's new mask belongs to one of the proposals:
        the row of that proposal gets the move.
        """
        history, searcher, after = self.history, self.searcher, self.searcher.incumbent
        hashes = [proposal.mask.hash for proposal in proposals]
        place = hashes.index(after.hash) if after is not None and after.hash in hashes else len(proposals) - 1
        for i, (proposal, score) in enumerate(zip(proposals, scores, strict=True)):
            metrics = searcher.metrics()
            if len(history) % self._stride == 0 and (incumbent := searcher.incumbent) is not None:
                metrics |= _comparison(incumbent, history)
            trial = history.add(proposal.mask, score, metrics)
            if self.file is not None:
                move = None if i != place else _incumbent_move(before, after, proposal)
                self.file.append(trial, move, after)
            for callback in self.callbacks:
                callback(trial, history, searcher)


def _incumbent_move(before: Mask | None, after: Mask | None, proposal: Proposal) -> Move | None:
    """The move from one incumbent to the next, in O(radius) if it is the proposal's; None if the incumbent stayed."""
    if after is None or (before is not None and after.hash == before.hash):
        return None
    if proposal.mask.hash == after.hash and (before is None or before.hash == proposal.base.hash):
        return proposal.move
    return None if before is None else before.move_to(after)


def _score(scorer: Scoring, proposals: Sequence[Proposal], history: History, problem: Problem) -> list[Score]:
    """Scores of all proposals, with costs. A mask that occurs twice, or was scored before, is not scored again.

    Of the thresholds of a mask that occurs twice, the lowest counts: a bound below it is below the others, too.
    """
    scores: dict[object, Score] = {}
    fresh: dict[object, Proposal] = {}
    for proposal in proposals:
        key = _key(proposal)
        twin = fresh.get(key)
        known = history.known_score(proposal.mask, proposal.threshold) if proposal.counts else None
        if twin is not None:
            fresh[key] = replace(twin, threshold=_lowest(twin.threshold, proposal.threshold))
        elif known is not None and key not in scores:
            scores[key] = repeated(known)
        elif known is None:
            fresh[key] = proposal
    new = scorer.score(list(fresh.values())) if fresh else []
    for (key, proposal), score in zip(fresh.items(), new, strict=True):
        scores[key] = score if problem.cost is None else priced(problem, proposal.mask, score)
    given, seen = [], set()
    for proposal in proposals:
        key = _key(proposal)
        score = scores[key] if proposal.counts else replace(scores[key], counts=False)
        given.append(repeated(score) if key in seen else score)
        seen.add(key)
    return given


def _key(proposal: Proposal) -> object:
    """The mask, and how it is scored: proposals of equal keys get one scoring."""
    return proposal.mask.hash if proposal.counts else (proposal.mask.hash, proposal.share, proposal.probe)


def priced(problem: Problem, mask: Mask, score: Score) -> Score:
    """Return the score with the cost of its mask; the time to compute the cost is added to the score's seconds."""
    began = time.perf_counter()
    priced = problem.priced(mask, score)
    return replace(priced, seconds=priced.seconds + time.perf_counter() - began)


def _lowest(one: float | None, other: float | None) -> float | None:
    """The lower of two thresholds; None, which asks for an exact score, is the lowest."""
    return None if one is None or other is None else min(one, other)


def repeated(score: Score) -> Score:
    """Return the score for a mask that was scored before: the same value, but no time and no examples spent."""
    return replace(score, seconds=0.0, images=0)


def _comparison(incumbent: Mask, history: History) -> dict[str, float]:
    """Metrics of the incumbent: the density of every layer, and the Hamming distances to the start and to the best."""
    metrics = {f"density/{name}": value for name, value in incumbent.densities().items()}
    if history.first is not None:
        metrics["hamming_start"] = incumbent.hamming(history.first)
    if history.has_best:
        assert history.best.mask is not None
        metrics["hamming_best"] = incumbent.hamming(history.best.mask)
    return metrics
