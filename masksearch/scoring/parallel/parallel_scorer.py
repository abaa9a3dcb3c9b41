"""The parallel scorer: several workers score proposals at the same time."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal, Score
from masksearch.core.scorer_protocols import HasScore, Scoring, as_scoring, data_digest
from masksearch.scoring.parallel.coroutines import CoroutineWorkers
from masksearch.scoring.parallel.ray_scorers import RayWorkers
from masksearch.scoring.parallel.scorer_processes import ProcessWorkers
from masksearch.scoring.parallel.worker_messages import Died, Failed, Plan, Task, Workers
from masksearch.utils.errors import InputError, check_whole
from masksearch.utils.registry import Table, choose

WORKERS: Table[Callable[[Plan], Workers]] = Table(
    "backend", {"processes": ProcessWorkers, "ray": RayWorkers, "coroutines": CoroutineWorkers}
)
"""Kinds of workers by name; each row starts the workers of a plan."""

Order = Literal["fixed", "as_finished"]
"""Order in which a searcher gets scores: that of its proposals, or that in which the scorings end."""

_ATTEMPTS = 3  # of a mask whose worker dies


@dataclass(eq=False)
class _Job:
    """A proposal to score, and how many workers have died at it."""

    proposal: Proposal
    twice: bool
    deaths: int = 0


class ParallelScorer(Scoring):
    """Scorer of masks with several workers, which each have a copy of one scorer with its network and examples.

    The workers start and end with a search; outside of one, :meth:`close` ends them. A mask whose worker dies is
    scored by another worker. ``Score.seconds`` are wall-clock seconds of all workers together.

    Parameters
    ----------
    scorer : object with ``score(proposals) -> scores``
        Scores masks in each worker. Its attribute ``depends_on_order``, if it has one, says whether a score depends on
        earlier scorings; such a scorer is refused.
    workers : int
        Number of masks that are scored at the same time.
    order : {"fixed", "as_finished"}
        ``fixed``: a search proposes ``batch`` masks, all are scored, and the searcher gets the scores in the order of
        its proposals. The history is the same to the bit for any number of workers. Every score is that of a refreshed
        scorer; the first mask is scored twice, and a scorer whose two scores differ is refused. ``as_finished``: the
        searcher gets each score when it comes in, and proposes the next mask. No worker waits for the slowest, and the
        history can't be repeated. Searchers without ``supports_late_scores`` run in fixed order.
    backend : {"processes", "ray", "coroutines"}
        Kind of workers: processes of this machine (with several GPUs, one GPU each in turn), actors of the Ray cluster
        that the process is connected to (or of a local one), or coroutines of this process that await ``score``.
    threads : int
        CPU threads of each worker; another number may change the last bits of scores.

    Raises
    ------
    InputError
        If the scorer depends on the order of its calls or can't be sent to the workers, if it raises an exception, or
        if three workers die at one mask.
    """

    def __init__(
        self, scorer: HasScore, workers: int, order: Order = "fixed", backend: str = "processes", threads: int = 1
    ) -> None:
        check_whole("workers", workers, 1)
        check_whole("threads", threads, 1)
        choose("order of scores", order, list(get_args(Order)))
        WORKERS.check(backend)
        if getattr(scorer, "depends_on_order", False):
            raise InputError(
                f"scorer: the scores of this {type(scorer).__name__} depend on earlier scorings (depends_on_order), so "
                "that several workers would change them; search with the scorer itself"
            )
        self.workers, self.order = workers, order
        self._scorer, self._backend, self._threads = as_scoring(scorer), backend, threads
        self._pool: Workers | None = None
        self._is_first = True  # whether the next mask is the first of the workers
        self._reset()

    def _reset(self) -> None:
        self._free: list[int] = []
        self._queue: deque[_Job] = deque()
        self._busy: dict[int, _Job] = {}
        self._failed_starts = 0  # since a worker became ready

    def __repr__(self) -> str:
        return f"ParallelScorer({self._scorer!r}, {self.workers}, {self.order!r}, {self._backend!r}, {self._threads})"

    def __call__(self, mask: Mask) -> Score:
        """Return the score of one mask."""
        return self.score([mask])[0]

    def score(self, masks: Sequence[Mask | Proposal]) -> list[Score]:
        """Return one score per mask or proposal (a mask that a searcher suggests), in order."""
        proposals = [Proposal.of(mask) if isinstance(mask, Mask) else mask for mask in masks]
        if proposals:
            self.start(proposals[0].mask.space)
        start = time.perf_counter()
        for proposal in proposals:
            self.send(proposal)
        scores = dict(self.receive() for _ in proposals)
        seconds = (time.perf_counter() - start) / max(1, len(proposals))
        return [replace(scores[proposal], seconds=seconds) for proposal in proposals]

    def data_digest(self) -> str | None:
        """Return a hash of the examples on which the workers score masks; None if their scorer uses no examples."""
        return data_digest(self._scorer)

    def start(self, space: Layout) -> None:
        """Start the workers, unless they run already, and wait until all are ready to score masks of ``space``."""
        if self._pool is None:
            plan = Plan(self._scorer, space, self.workers, self._threads, self.order == "fixed")
            self._pool, self._is_first = WORKERS[self._backend](plan), True
            while len(self._free) < self.workers:
                self._take(self._pool)

    def send(self, proposal: Proposal) -> None:
        """Queue a proposal (a mask to score) for the first worker that is free."""
        self.start(proposal.mask.space)
        assert self._pool is not None, "start makes it"
        self._queue.append(_Job(proposal, self._is_first and self.order == "fixed"))
        self._is_first = False
        self._dispatch(self._pool)

    def receive(self) -> tuple[Proposal, Score]:
        """Wait until a worker has scored a queued proposal; return (proposal, score). An error ends all workers."""
        assert self._pool is not None, "receive follows send"
        while True:
            found = self._take(self._pool)
            if found is not None:
                return found

    def _take(self, pool: Workers) -> tuple[Proposal, Score] | None:
        """Take the next message of a worker: a score, or None when a worker has become ready or has died."""
        try:
            number, reply = pool.wait()
            job = self._busy.pop(number, None)
            if isinstance(reply, Failed):
                raise reply.error()
            if isinstance(reply, Died):
                self._count(reply, job)
                pool.replace(number)
            else:
                self._free.append(number)
                self._failed_starts = 0
            self._dispatch(pool)
        except BaseException:
            self.close()
            raise
        return (job.proposal, reply) if job is not None and isinstance(reply, Score) else None

    def _count(self, reply: Died, job: _Job | None) -> None:
        """Put the proposal of a worker that has died in front of the queue; the third death ends the search."""
        if job is None:
            self._failed_starts += 1
            if self._failed_starts == _ATTEMPTS:
                raise InputError(f"scorer: {reply.reason} as it started, {_ATTEMPTS} times; give fewer workers")
            return
        job.deaths += 1
        if job.deaths == _ATTEMPTS:
            raise InputError(
                f"scorer: {reply.reason}, {_ATTEMPTS} times at the same mask, perhaps for lack of memory; give fewer "
                "workers; a search in a folder continues from its last checkpoint"
            )
        self._queue.appendleft(job)

    def _dispatch(self, pool: Workers) -> None:
        while self._free and self._queue:
            number, job = self._free.pop(), self._queue.popleft()
            self._busy[number] = job
            pool.send(number, Task.of(job.proposal, twice=job.twice))

    def close(self) -> None:
        """End all workers; if a mask is scored later, new workers start."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            self._reset()
            pool.close()
