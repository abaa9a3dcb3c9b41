"""Jobs of a sweep, and the order in which free workers take them."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from masksearch.experiment.cell import Cell
from masksearch.experiment.group import Group
from masksearch.experiment.identity import short_hash

__all__ = ["Job", "JobQueue"]

_ATTEMPTS = 3  # of a job whose worker dies


@dataclass(frozen=True)
class Job:
    """Cells that one worker runs in order; without cells, the worker only trains their dense network."""

    users: list[Cell]  # all cells of the dense network
    cells: list[Cell]


class JobQueue:
    """Order of jobs: cells of trained networks first; the next dense network when few cells wait."""

    def __init__(self, groups: Iterable[Group], workers: int) -> None:
        self._workers = workers
        self._dense: deque[Job] = deque()
        self._cells: dict[int, list[Job]] = {}  # by the identity of the job that trains their dense network
        self._ready: deque[Job] = deque()
        self._attempts: dict[int, int] = {}
        for group in groups:
            job = Job(group.users, [])
            self._dense.append(job)
            self._cells[id(job)] = [Job(group.users, cells) for cells in _chains(group.to_do)]

    def next(self) -> Job | None:
        """Return the job for a free worker; None if there is none now."""
        if self._dense and len(self._ready) < self._workers:
            return self._dense.popleft()
        return self._ready.popleft() if self._ready else None

    def finished(self, job: Job) -> None:
        """Release the cells that have waited for a job."""
        self._ready += self._cells.pop(id(job), [])

    def failed(self, job: Job) -> list[Cell]:
        """Return the cells that can't run because a job failed: those that need its dense network."""
        return [cell for waiting in self._cells.pop(id(job), []) for cell in waiting.cells]

    def worker_died(self, job: Job) -> bool:
        """Put the job of a dead worker back in front; return False if its workers have died three times."""
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
