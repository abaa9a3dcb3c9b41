"""A crew: several workers that run a sweep. Jobs are sent, events return, and a dead worker's job is sent again."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from masksearch.experiment.events import SweepCallback
from masksearch.experiment.executors.jobs import Job, JobQueue
from masksearch.experiment.executors.worker import Event
from masksearch.experiment.group import Group
from masksearch.experiment.store.failures import record_failure
from masksearch.utils.errors import InputError

__all__ = ["Crew", "Died", "Done", "Failed", "Message", "run_by_crew"]


@dataclass(frozen=True)
class Done:
    """Message of a worker: it has finished its job (cells of a sweep to run)."""


@dataclass(frozen=True)
class Failed:
    """Message of a worker: an exception ended its job, such as a failed dense training or a full disk."""

    error: Exception


@dataclass(frozen=True)
class Died:
    """Message about a worker that ended by a signal or for lack of memory; another worker may continue its job."""

    reason: str  # "a process ended with code -9"


Message = list[Event] | Done | Failed | Died


class Crew(Protocol):
    """Protocol of the workers, numbered from 0, that run the jobs of a sweep."""

    size: int

    def send(self, number: int, job: Job) -> None:
        """Send a job (cells of a sweep to run) to worker ``number``, which must be free."""

    def wait(self, busy: Mapping[int, Job]) -> Iterator[tuple[int, Message]]:
        """Wait for busy workers; return at least one pair of worker number and message."""

    def replace(self, number: int) -> None:
        """Start a new worker in the place of worker ``number``, which has died."""

    def close(self) -> None:
        """End all workers of a sweep."""


def run_by_crew(groups: Iterable[Group], path: Path, crew: Crew, callback: SweepCallback) -> None:
    """Run all groups of a sweep's cells by several workers, and end the workers afterwards.

    The caller holds the lock of the folder ``path``. One worker trains a dense network; then all workers share its
    cells. Controls follow the cell whose mask they take. A job whose worker dies continues from its checkpoints in
    another worker, up to two times. An error of a cell or a dense network is recorded, and other cells go on. An
    exception of the callback, Ctrl-C and a file that can't be written end all workers at once; finished cells are kept.

    Raises
    ------
    InputError
        If three workers died at one job.
    """
    try:
        watchers = [callback.beside(number) for number in range(crew.size)]
        queue = JobQueue(groups, crew.size)
        busy: dict[int, Job] = {}
        while True:
            for number in range(crew.size):
                if number not in busy and (job := queue.next()) is not None:
                    busy[number] = job
                    crew.send(number, job)
            if not busy:
                return
            for number, message in crew.wait(dict(busy)):
                match message:
                    case Done():
                        queue.finished(busy.pop(number))
                    case Failed(error):
                        job = busy.pop(number)
                        if job.cells or isinstance(error, OSError):
                            raise error
                        for cell in queue.failed(job):
                            watchers[number].cell_fails(cell, record_failure(path, cell, error))
                    case Died(reason):
                        if not queue.worker_died(busy.pop(number)):
                            raise InputError(
                                f"executor: {reason}, three times at the same job, perhaps for lack of memory; what "
                                "was finished is kept; the same command goes on from here, with --executor inline in "
                                "one process"
                            )
                        crew.replace(number)
                    case events:
                        for hook, arguments in events:
                            getattr(watchers[number], hook)(*arguments)
    finally:
        crew.close()
