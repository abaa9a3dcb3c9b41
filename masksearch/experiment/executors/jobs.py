"""Jobs of a sweep, and the order in which free workers take them."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from masksearch.experiment.cell import Cell
from masksearch.experiment.dense_group import DenseGroup
from masksearch.experiment.identity import short_hash

_ATTEMPTS = 3  # of a job whose worker dies


@dataclass(frozen=True)
class Job:
    """Runs of a sweep that one worker executes in order; with no runs, the job only trains their dense network."""

    users: list[Cell]  # cells whose moments of the dense training are needed
    cells: list[Cell]


class JobQueue:
    """Queue of a sweep's jobs. Dense networks are trained first whenever fewer other jobs than workers are ready."""

    def __init__(self, groups: Iterable[DenseGroup], workers: int) -> None:
        self._workers = workers
        self._dense: deque[Job] = deque()
        self._cells: dict[int, list[Job]] = {}  # by the identity of the job that trains their dense network
        self._ready: deque[Job] = deque()
        self._attempts: dict[int, int] = {}
        for group in groups:
            job = Job(group.users, [])
            self._dense.append(job)
            self._cells[id(job)] = [Job(cells, cells) for cells in _chains(group.to_do)]

    def next(self) -> Job | None:
        """Return the next job for a free worker; None if no job can start now."""
        if self._dense and len(self._ready) < self._workers:
            return self._dense.popleft()
        return self._ready.popleft() if self._ready else None

    @property
    def is_empty(self) -> bool:
        """Whether no job is left: neither a job that is ready nor a job that waits for its dense network."""
        return not (self._dense or self._ready or self._cells)

    def finished(self, job: Job) -> None:
        """Note that a job is finished; if it trained a dense network, the jobs that prune that network can start."""
        self._ready += self._cells.pop(id(job), [])

    def failed(self, job: Job) -> list[Cell]:
        """Return the runs that can't start because ``job``, the training of their dense network, has failed."""
        return [cell for waiting in self._cells.pop(id(job), []) for cell in waiting.cells]

    def worker_died(self, job: Job) -> bool:
        """Put a dead worker's job back at the front of the queue; return False if the job has killed three workers."""
        self._attempts[id(job)] = self._attempts.get(id(job), 0) + 1
        if self._attempts[id(job)] >= _ATTEMPTS:
            return False
        (self._ready if job.cells else self._dense).appendleft(job)
        return True


def _chains(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Group cells that must run in order: a control after its cell, and cells that share one search of a front."""
    chains: dict[str, list[Cell]] = {}
    for cell in cells:
        chains.setdefault(short_hash(cell.front_identity) if cell.front else cell.treated.folder, []).append(cell)
    return list(chains.values())
