"""The loop of a search whose workers don't wait for each other: every score is recorded when it comes in."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.core.scorer_protocols import ParallelScoring
from masksearch.searching.trial_loop import TrialLoop, priced, repeated


@dataclass
class LateLoop(TrialLoop):
    """Search loop that keeps all workers of a parallel scorer busy: it sends a new mask whenever a score comes in.

    A checkpoint has the masks that wait for their scores; a resumed search scores these first. The seconds of a trial
    are the wall-clock time since the trial before, so that a budget in seconds is a deadline: no mask is proposed after
    it, and masks that wait for their scores get them.
    """

    scorer: ParallelScoring

    def __post_init__(self) -> None:
        super().__post_init__()
        self._open: dict[Proposal, None] = {}  # proposals that wait for their scores, in order
        self._again = [] if self.file is None else list(self.file.waiting)
        self._last = time.perf_counter()  # moment of the last trial

    def run(self) -> None:
        """Run the search until its budget is used up or the searcher proposes no more masks."""
        n_before = len(self.history)
        self._propose()
        while self._open:
            with self._saving():
                proposal, score = self.scorer.receive()
            del self._open[proposal]
            self._finish(proposal, score)
            self._checkpoint_if_old()
            self._propose()
        if len(self.history) > n_before:
            self._checkpoint()

    def _propose(self) -> None:
        """Send masks to free workers, until the budget is used up or the searcher waits for scores."""
        budget, history = self.problem.budget, self.history
        while len(self._open) < self.scorer.workers:
            left = budget.left(len(history), history.seconds + time.perf_counter() - self._last)
            if left is not None and left <= len(self._open):
                return
            proposals = [Proposal.of(self._again.pop(0))] if self._again else self.searcher.ask(1)
            if not proposals:
                return
            [proposal] = proposals
            known = history.known_score(proposal.mask, proposal.threshold) if proposal.counts else None
            if known is None:
                self._open[proposal] = None
                with self._saving():
                    self.scorer.send(proposal)
            else:
                self._finish(proposal, repeated(known))

    def _finish(self, proposal: Proposal, score: Score) -> None:
        """Give the searcher the score of its proposal, and append the trial to the history."""
        if self.problem.cost is not None:
            score = priced(self.problem, proposal.mask, score)
        now = time.perf_counter()
        score = replace(score, seconds=round(now - self._last, 6), counts=score.counts and proposal.counts)
        self._last, before = now, self.searcher.incumbent
        self.searcher.tell([proposal], [score])
        self._record([proposal], [score], before)

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Write a checkpoint if an error of the workers or Ctrl-C ends the search: what waits is scored again."""
        try:
            yield
        except BaseException:
            self._checkpoint()
            raise

    def _waiting(self) -> list[Mask]:
        return [*(proposal.mask for proposal in self._open), *self._again]
