"""A crew: several workers that run a sweep. Jobs are sent, events return, and a dead worker's job is sent again."""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from masksearch.experiment.cell import Cell
from masksearch.experiment.dense_group import DenseGroup
from masksearch.experiment.executors.jobs import Job, JobQueue
from masksearch.experiment.executors.worker import Event, JobRunner
from masksearch.experiment.store.run_folder import is_done, record_failure
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.utils.errors import InputError


@dataclass(frozen=True)
class Done:
    """Message that a worker has finished its job, which is a list of a sweep's runs."""


@dataclass(frozen=True)
class Failed:
    """Message that an exception ended a worker's job, such as an error in training the dense network or a full disk."""

    error: Exception


@dataclass(frozen=True)
class Died:
    """Message that a worker was killed, by a signal or for lack of memory; another worker may continue its job."""

    reason: str  # "a process ended with code -9"


Message = list[Event] | Done | Failed | Died


def end_of(runner: JobRunner, job: Job) -> Done | Failed:
    """Run a job of a sweep in this process; return the message that the job is done, or the message that it failed."""
    try:
        runner.run(job)
    except Exception as error:
        if not isinstance(error, InputError | OSError):
            error.add_note(traceback.format_exc())  # of this process: the main one has no other
        return Failed(error)
    return Done()


class Crew(Protocol):
    """Protocol of an executor's workers, numbered from 0, which run the jobs of a sweep."""

    size: int

    def is_ready(self, number: int) -> bool:
        """Return whether worker ``number`` has started and can take jobs."""

    def send(self, number: int, job: Job) -> None:
        """Send a job (some runs of a sweep) to worker ``number``. The worker must have no other job at that time."""

    def wait(self, busy: Mapping[int, Job]) -> Iterator[tuple[int, Message]]:
        """Wait until a busy worker sends a message or a new worker starts; return (worker number, message) pairs."""

    def replace(self, number: int) -> None:
        """Start a new worker that takes the place of worker ``number``, which has died."""

    def close(self) -> None:
        """End all workers of a sweep."""


def run_by_crew(groups: Iterable[DenseGroup], path: Path, crew: Crew, callback: SweepCallback) -> None:
    """Execute a sweep by several workers, then end them; ``groups`` are dense networks with the runs that prune them.

    The caller holds the lock of the folder ``path``. One worker trains a dense network; then all workers share its
    cells. Controls follow the cell whose mask they take. A job whose worker dies continues from its checkpoints in
    another worker, up to two times. An error of a cell or a dense network, or a third dead worker at one job, is
    recorded, and other cells go on. An exception of the callback, Ctrl-C and a file that can't be written end all
    workers at once; finished cells are kept.
    """
    try:
        watchers = [callback.beside(number) for number in range(crew.size)]
        queue = JobQueue(groups, crew.size)
        busy: dict[int, Job] = {}
        while True:
            for number in range(crew.size):
                if number not in busy and crew.is_ready(number) and (job := queue.next()) is not None:
                    busy[number] = job
                    crew.send(number, job)
            if not busy and queue.is_empty:
                return
            for number, message in crew.wait(dict(busy)):
                match message:
                    case Done():
                        queue.finished(busy.pop(number))
                    case Failed(error):
                        job = busy.pop(number)
                        if job.cells or isinstance(error, OSError):
                            raise error
                        _fail(queue.failed(job), path, error, watchers[number])
                    case Died(reason):
                        crew.replace(number)
                        job = busy.pop(number)
                        if not queue.worker_died(job):
                            error = InputError(
                                f"executor: {reason}, three times at the same job, perhaps for lack of memory; "
                                "finished cells are kept; run the same command again to continue, with --executor "
                                "inline for one process"
                            )
                            _fail(job.cells or queue.failed(job), path, error, watchers[number])
                    case events:
                        for hook, arguments in events:
                            getattr(watchers[number], hook)(*arguments)
    finally:
        crew.close()


def _fail(cells: Iterable[Cell], path: Path, error: Exception, callback: SweepCallback) -> None:
    """Record the error that ended the cells, but for those that were finished before."""
    for cell in cells:
        if not is_done(path / cell.folder):
            callback.cell_fails(cell, record_failure(path, cell, error))
